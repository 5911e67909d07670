"""Packets as a TUN device with ``IFF_VNET_HDR`` gives them: many TCP segments of one sender in one read.

The kernel hands over what it would give a network card that cuts segments itself: one IP packet of up to 64 KiB, and
before it a ``struct virtio_net_hdr`` (10 bytes, little endian, from linux/virtio_net.h) that says where to cut. The
line treats every segment as the packet of its own that it is. What remains of a train is given to the other end in
pieces, each a run of segments that follow one another, as a card that joins segments would.

    flags u8 | gso_type u8 | hdr_len u16 | gso_size u16 | csum_start u16 | csum_offset u16

Checksums of TCP are left to be filled in (``flags`` says so), and the kernel at the other end trusts its own machine.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("<BBHHHH")
HEADER_SIZE = HEADER.size
_GSO_NONE, _GSO_TCP4, _GSO_ECN = 0, 1, 0x80
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80


def is_train(packet: bytes) -> bool:
    """Tell whether a packet (with its header) is several TCP segments over IPv4."""
    return packet[1] & ~_GSO_ECN == _GSO_TCP4


class Train:
    """A packet that is several segments."""

    def __init__(self, packet: bytes) -> None:
        """Take the packet apart; `packet` begins with its `virtio_net_hdr`."""
        self.segment: int
        flags, kind, _, self.segment, start, offset = HEADER.unpack_from(packet)
        self._virtio = (flags, kind, start, offset)
        self._ip_length = (packet[HEADER_SIZE] & 0x0F) * 4
        tcp_length = (packet[HEADER_SIZE + self._ip_length + 12] >> 4) * 4
        self._body = HEADER_SIZE + self._ip_length + tcp_length
        self.headers: int = self._ip_length + tcp_length
        self._packet = packet
        self._payload = len(packet) - self._body
        self.count = max(1, -(-self._payload // self.segment))

    def size(self, number: int) -> int:
        """Return the size of the IP packet of one segment."""
        return self.headers + min(self.segment, self._payload - number * self.segment)

    def piece(self, first: int, end: int) -> bytes:
        """Return segments `first` to `end` (exclusive) as one packet with its `virtio_net_hdr`."""
        if first == 0 and end == self.count:
            return self._packet
        payload = self._packet[self._body + first * self.segment : self._body + end * self.segment]
        flags, kind, start, offset = self._virtio
        several = end - first > 1
        virtio = HEADER.pack(
            flags, kind if several else _GSO_NONE, self.headers, self.segment if several else 0, start, offset
        )
        headers = bytearray(self._packet[HEADER_SIZE : self._body])
        self._correct_ip(headers, first, len(payload))
        self._correct_tcp(headers, first, end)
        return b"".join((virtio, headers, payload))

    def _correct_ip(self, headers: bytearray, first: int, payload: int) -> None:
        (number,) = struct.unpack_from(">H", headers, 4)
        struct.pack_into(">H", headers, 2, self.headers + payload)
        struct.pack_into(">H", headers, 4, (number + first) & 0xFFFF)
        struct.pack_into(">H", headers, 10, 0)
        struct.pack_into(">H", headers, 10, checksum(headers[: self._ip_length]))

    def _correct_tcp(self, headers: bytearray, first: int, end: int) -> None:
        at = self._ip_length
        (sequence,) = struct.unpack_from(">I", headers, at + 4)
        struct.pack_into(">I", headers, at + 4, (sequence + first * self.segment) & 0xFFFFFFFF)
        if first > 0:
            headers[at + 13] &= ~_CWR & 0xFF
        if end < self.count:
            headers[at + 13] &= ~(_FIN | _PSH) & 0xFF


def checksum(header: bytes | bytearray) -> int:
    """Return the checksum of an IPv4 header whose own field is 0 (RFC 1071)."""
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
