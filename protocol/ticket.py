"""The first bytes of a connection that was asked for with Incoming, in clear.

    offset  size
    0       8     magic: F5 "TPTKT" 00 00. The first byte is no TLS record (16), no preface (F4), no ASCII
    8       1     version: 1
    9       32    ticket

What follows is the other side's to say: it speaks first, as if it had dialled. A ticket proves nothing but that the
line it came on is the one that was asked for: whoever steals one meets TLS with pins, or a data channel's keys, next.
"""

from __future__ import annotations

import struct
from typing import Final

from protocol import limits
from protocol.errors import LocalProtocolError, RemoteProtocolError

TICKET_MAGIC: Final = b"\xf5TPTKT\x00\x00"
_LAYOUT: Final = struct.Struct(f">8sB{limits.TICKET}s")
TICKET_LENGTH: Final = _LAYOUT.size


def encode_ticket(ticket: bytes) -> bytes:
    """Return what to send first. ``ticket``: 32 bytes. Raises LocalProtocolError."""
    if len(ticket) != limits.TICKET:
        raise LocalProtocolError(f"a ticket has {limits.TICKET} bytes")
    return _LAYOUT.pack(TICKET_MAGIC, limits.VERSION_MAX, ticket)


def parse_ticket(data: bytes | bytearray | memoryview) -> bytes | None:
    """Return the ticket at the start of ``data``, or None while it is incomplete.

    Raises RemoteProtocolError as soon as the bytes cannot become one.
    """
    head = bytes(data[:TICKET_LENGTH])
    if not TICKET_MAGIC.startswith(head[: len(TICKET_MAGIC)]):
        raise RemoteProtocolError("not a ticket: wrong magic")
    if len(head) > len(TICKET_MAGIC) and head[len(TICKET_MAGIC)] != limits.VERSION_MAX:
        raise RemoteProtocolError(f"a ticket of version {head[len(TICKET_MAGIC)]}, this side speaks 1")
    if len(head) < TICKET_LENGTH:
        return None
    ticket: bytes = _LAYOUT.unpack(head)[2]
    return ticket
