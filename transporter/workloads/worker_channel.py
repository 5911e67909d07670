"""What a daemon and a worker process of it say to each other, over a socket pair: frames of msgpack.

    frame = u32 BE length | msgpack of one message

Both ends are this code, of one version, on one machine; but what is in the messages may come from a hostile manifest,
so they are decoded by type all the same. Contents of files do not go this way: they lie in memory that both share.
"""

from __future__ import annotations

import struct

import msgspec

LENGTH = struct.Struct(">I")


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The worker cannot go on. ``code`` is one of ``transporter.errors``, or ``os`` with the system's ``number``."""

    code: str
    what: str
    remedy: str = ""
    number: int = 0


def encode_frame(message: msgspec.Struct) -> bytes:
    """Return one message as a frame."""
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


class FrameSplitter:
    """Bytes in any split in, bodies of frames out."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes, return the bodies of the frames that they complete."""
        waiting = self._waiting
        waiting += data
        bodies = []
        position = 0
        while len(waiting) - position >= LENGTH.size:
            (length,) = LENGTH.unpack_from(waiting, position)
            end = position + LENGTH.size + length
            if end > len(waiting):
                break
            bodies.append(bytes(waiting[position + LENGTH.size : end]))
            position = end
        del waiting[:position]
        return bodies
