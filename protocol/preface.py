"""The first bytes of a data channel, in clear: enough to route it, and the commitment to its key.

    offset  size
    0       8     magic: F4 "TPDATA" 00. The first byte is no TLS record (16), no ASCII, no UTF-8 text
    8       1     version: 1
    9       2     channel number, big-endian, 0 … 31
    11      16    session id
    27      24    the initiator's salt
    51      32    commitment of the initiator's direction

The acceptor answers with its own salt (24) and the commitment of its direction (32).
Nothing here is trusted: every field goes into the derivation of the channel's keys.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from protocol import limits
from protocol.errors import LocalProtocolError, RemoteProtocolError

PREFACE_MAGIC: Final = b"\xf4TPDATA\x00"
_LAYOUT: Final = struct.Struct(">8sBH16s24s32s")
PREFACE_LENGTH: Final = _LAYOUT.size
ANSWER_LENGTH: Final = limits.SALT + limits.COMMITMENT


@dataclass(frozen=True, slots=True)
class Preface:
    """Who a data channel says it is. ``channel`` 0 … 31, ``session`` 16 bytes, ``salt`` 24, ``commitment`` 32."""

    channel: int
    session: bytes
    salt: bytes
    commitment: bytes

    def __bytes__(self) -> bytes:
        if not 0 <= self.channel < limits.MAX_CHANNELS:
            raise LocalProtocolError(f"a channel number is 0 to {limits.MAX_CHANNELS - 1}")
        return _LAYOUT.pack(
            PREFACE_MAGIC, limits.VERSION_MAX, self.channel, self.session, self.salt, self.commitment
        )  # fmt: skip


def parse_preface(data: bytes | bytearray | memoryview) -> Preface | None:
    """Return the preface at the start of ``data``, or None while it is incomplete.

    Raises RemoteProtocolError as soon as the bytes cannot become one.
    """
    head = bytes(data[:PREFACE_LENGTH])
    if not PREFACE_MAGIC.startswith(head[: len(PREFACE_MAGIC)]):
        raise RemoteProtocolError("not a data channel: wrong magic")
    if len(head) > len(PREFACE_MAGIC) and head[len(PREFACE_MAGIC)] != limits.VERSION_MAX:
        raise RemoteProtocolError(f"a data channel of version {head[len(PREFACE_MAGIC)]}, this side speaks 1")
    if len(head) < PREFACE_LENGTH:
        return None
    _, _, channel, session, salt, commitment = _LAYOUT.unpack(head)
    if channel >= limits.MAX_CHANNELS:
        raise RemoteProtocolError(f"a data channel with number {channel}, at most {limits.MAX_CHANNELS} are allowed")
    return Preface(channel, session, salt, commitment)
