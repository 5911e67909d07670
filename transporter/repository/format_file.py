r"""The file ``format``: what a program must understand before it touches the rest.

offset  bytes
     0      8   magic "TPREPO\r\n" (damaged by transfers that "repair" line ends)
     8      4   format version, big endian
    12      4   length n of the body
    16      n   body: msgpack map (id, created_ns, features, encrypted, quota)
  16+n     32   BLAKE3 of what precedes
"""

from __future__ import annotations

import struct
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from transporter.errors import DamagedData, UnsupportedFormat
from transporter.repository.limits import FORMAT_VERSION

MAGIC: Final = b"TPREPO\r\n"
KNOWN_FEATURES: Final[frozenset[str]] = frozenset()
_FIXED: Final = struct.Struct(">8sII")
_LONGEST: Final = 64 * 1024


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """What the format file says.

    ``quota`` is in bytes for each tenant (None: no bound); ``encrypted`` marks a repository whose provider seals what
    arrives plain.
    """

    id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    created_ns: int
    features: list[str] = []
    encrypted: bool = False
    quota: Annotated[int, msgspec.Meta(ge=0)] | None = None


def encode(content: Format) -> bytes:
    """Return the bytes of the format file."""
    body = msgspec.msgpack.encode(content)
    raw = _FIXED.pack(MAGIC, FORMAT_VERSION, len(body)) + body
    return raw + blake3(raw).digest()


def decode(raw: bytes) -> Format:
    """Return what a format file says; UnsupportedFormat for a future version or feature, DamagedData if damaged."""
    damaged = DamagedData(
        "the repository's format file is damaged", "restore the file `format` from a copy of the repository"
    )
    if len(raw) < _FIXED.size or len(raw) > _LONGEST:
        raise damaged
    magic, version, length = _FIXED.unpack_from(raw)
    if magic != MAGIC:
        raise damaged
    if version != FORMAT_VERSION:
        raise UnsupportedFormat(f"the repository has format version {version}", "use a newer version of transporter")
    end = _FIXED.size + length
    if len(raw) != end + 32 or blake3(raw[:end]).digest() != raw[end:]:
        raise damaged
    try:
        content = msgspec.msgpack.decode(raw[_FIXED.size : end], type=Format)
    except (msgspec.MsgspecError, ValueError):
        raise damaged from None
    if unknown := sorted(set(content.features) - KNOWN_FEATURES):
        raise UnsupportedFormat(
            f"the repository uses features this version does not know: {', '.join(unknown)}",
            "use a newer version of transporter",
        )
    return content
