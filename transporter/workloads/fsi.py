"""The file-system index (FSI): path, size, time and type of every entry of a point, in blocks that can be searched.

    block    magic "FSI1" | n u32 BE | p u32 BE
             sizes    8 n   u64, bytes
             times    8 n   i64, modification, ns since 1970
             kinds    n     one letter each: f d l p c b
             paths    p     in path order, each with a NUL behind it

Sizes and times lie in *planes*: first the most significant byte of all n numbers, then the next. That is a few calls of
C to make and to undo, and a codec finds the zeros. Paths are whole: prefixes cost next to nothing once packed, and a
block is searched as one text, without an object for each entry.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transporter.errors import DamagedData, UnsupportedFormat
from transporter.workloads.entry import MAX_PATH

MAGIC = b"FSI1"
HEADER = struct.Struct(">4sII")
KINDS = b"fdlpcb"

MAX_ENTRIES = 4096
"""Entries of a block: four times the usual number (``fsi_builder.py``). One in fifty blocks gets so far."""
PATHS_AT_LEAST = 256 << 10
"""A block whose paths have so many bytes is full: four times the usual number, too."""
MAX_BLOCK = HEADER.size + 18 * MAX_ENTRIES + PATHS_AT_LEAST + MAX_PATH
"""Bytes of a block: a last path of the greatest length comes on top of one that is almost full."""


class Row(NamedTuple):
    """One entry. ``size`` in bytes, ``mtime_ns`` since 1970, ``kind`` one of `KINDS`."""

    path: bytes
    size: int
    mtime_ns: int
    kind: str


def encode_block(paths: Sequence[bytes], sizes: Iterable[int], times: Iterable[int], kinds: Iterable[str], /) -> bytes:
    """Return a block of up to `MAX_ENTRIES` entries in path order; no path holds a NUL."""
    joined = b"\0".join(paths) + b"\0"
    return b"".join(
        (
            HEADER.pack(MAGIC, len(paths), len(joined)),
            *_planes(array("Q", sizes)),
            *_planes(array("q", times)),
            "".join(kinds).encode(),
            joined,
        )
    )


def _planes(numbers: array[int]) -> list[bytes]:
    if _LITTLE:
        numbers.byteswap()
    raw = numbers.tobytes()
    return [raw[plane::8] for plane in range(8)]


_LITTLE = array("H", (1,)).tobytes()[0] == 1


@dataclass(frozen=True)
class FsiBlock:
    """A block that was read, and found to be one. ``names``: its paths, each with a NUL behind it."""

    data: memoryview
    count: int
    names: bytes

    @classmethod
    def parse(cls, data: bytes | memoryview) -> FsiBlock:
        """Read a block. Raises DamagedData for anything but one, UnsupportedFormat for one of a later version."""
        if not HEADER.size <= len(data) <= MAX_BLOCK:
            raise _damaged()
        magic, count, length = HEADER.unpack_from(data)
        if magic[:3] == MAGIC[:3] and magic != MAGIC:
            raise UnsupportedFormat("the file-system index has a later version", "use a newer transporter")
        if magic != MAGIC or not 0 < count <= MAX_ENTRIES or HEADER.size + 17 * count + length != len(data):
            raise _damaged()
        view = memoryview(data)
        kinds, paths = bytes(view[HEADER.size + 16 * count :][:count]), bytes(view[len(view) - length :])
        if not paths.endswith(b"\0") or paths.count(b"\0") != count or kinds.translate(None, KINDS):
            raise _damaged()
        # No manifest could hold a size of 2^63: it would have a bit in the first plane that ASCII lacks.
        if not bytes(view[HEADER.size : HEADER.size + count]).isascii():
            raise _damaged()
        return cls(view, count, paths)

    def size(self, index: int) -> int:
        """Return the size of one entry, bytes."""
        return int.from_bytes(self.data[HEADER.size + index : HEADER.size + 8 * self.count : self.count], "big")

    def mtime_ns(self, index: int) -> int:
        """Return the time of one entry's last modification, ns since 1970."""
        start = HEADER.size + 8 * self.count
        raw = self.data[start + index : start + 8 * self.count : self.count]
        return int.from_bytes(raw, "big", signed=True)

    def kind(self, index: int) -> str:
        """Return the type of one entry, a letter."""
        return chr(self.data[HEADER.size + 16 * self.count + index])

    def kinds(self) -> bytes:
        """Return all types, a letter each."""
        return bytes(self.data[HEADER.size + 16 * self.count :][: self.count])

    def sizes(self) -> array[int]:
        """Return all sizes."""
        return self._numbers("Q", HEADER.size)

    def times(self) -> array[int]:
        """Return all times."""
        return self._numbers("q", HEADER.size + 8 * self.count)

    def paths(self) -> list[str]:
        """Return all paths; an odd byte is a surrogate."""
        # One odd byte is one sign, as everywhere where a person's pattern meets a path.
        return self.names[:-1].decode("utf-8", "surrogateescape").split("\0")

    def rows(self) -> list[Row]:
        """Return everything."""
        kinds = self.kinds().decode()
        paths = [path.encode("utf-8", "surrogateescape") for path in self.paths()]
        return list(map(Row, paths, self.sizes(), self.times(), kinds))

    def _numbers(self, code: str, start: int) -> array[int]:
        raw = bytearray(8 * self.count)
        for plane in range(8):
            raw[plane::8] = self.data[start + plane * self.count :][: self.count]
        numbers = array(code)
        numbers.frombytes(raw)
        if _LITTLE:
            numbers.byteswap()
        return numbers


def _damaged() -> DamagedData:
    return DamagedData("the file-system index of a restore point is damaged", "run scrub at the target")
