"""What stands before the first entry of a manifest: the roots.

    u32 BE length | msgpack Preamble

It names files, so it is sealed with the manifest.
"""

from __future__ import annotations

import msgspec

from transporter.errors import DamagedData

PREAMBLE_AT_MOST = 1 << 20


class Preamble(msgspec.Struct, frozen=True):
    """``roots``: the paths that were asked for, as stored in entries."""

    roots: list[bytes]


def encode_preamble(preamble: Preamble) -> bytes:
    """Return the preamble with its length in front."""
    body = msgspec.msgpack.encode(preamble)
    return len(body).to_bytes(4, "big") + body


def split_preamble(data: bytearray) -> tuple[Preamble, bytes] | None:
    """Return (preamble, what follows it), or None while it is incomplete. Raises DamagedData."""
    if len(data) < 4:
        return None
    length = int.from_bytes(data[:4], "big")
    if length > PREAMBLE_AT_MOST:
        raise DamagedData("the manifest does not begin as one does", "restore another point")
    if len(data) < 4 + length:
        return None
    try:
        preamble = msgspec.msgpack.decode(data[4 : 4 + length], type=Preamble)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedData("the manifest does not begin as one does", "restore another point") from error
    return preamble, bytes(data[4 + length :])
