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
from transporter.repository import limits

MAGIC: Final = b"TPREPO\r\n"
OWN_NAMES: Final = "own-names"
"""What belongs to a point may lie under another name than its id (`Layout.belongings`)."""
KNOWN_FEATURES: Final = frozenset({OWN_NAMES})
_FIXED: Final = struct.Struct(">8sII")
LONGEST: Final = 64 * 1024


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


def encode(content: Format, version: int | None = None) -> bytes:
    """Return the bytes of the format file (of a version that is not this program's, while it is upgraded)."""
    body = msgspec.msgpack.encode(content)
    raw = _FIXED.pack(MAGIC, limits.FORMAT_VERSION if version is None else version, len(body)) + body
    return raw + blake3(raw).digest()


def version_of(raw: bytes) -> int:
    """Return the version that a format file names; `decode` proves it."""
    return int(_FIXED.unpack_from(raw)[1])


def decode(raw: bytes, *, older: bool = False) -> Format:
    """Return what a format file says; UnsupportedFormat for another version or feature, DamagedData if damaged.

    ``older``: one of an older version is taken, too.
    """
    damaged = DamagedData(
        "the repository's format file is damaged", "restore the file `format` from a copy of the repository"
    )
    if len(raw) < _FIXED.size or len(raw) > LONGEST:
        raise damaged
    magic, version, length = _FIXED.unpack_from(raw)
    if magic != MAGIC:
        raise damaged
    if version > limits.FORMAT_VERSION:
        raise UnsupportedFormat(f"the repository has format version {version}", "use a newer version of transporter")
    if version < limits.FORMAT_VERSION and not older:
        raise UnsupportedFormat(
            f"the repository has format version {version}, made by an older version of transporter",
            "bring it up to date: transporter repository upgrade NAME",
        )
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
