"""The manifest of the last run, kept at the source so that the next run need not fetch it.

    header    magic "TPCM", version u16 BE, identity length u16 BE, identity
    block     length u32 BE (> 0), CRC-32 u32 BE, then whole records of manifest.py (length u32 BE, msgpack)
    trailer   length 0, CRC-32, then the untrusted paths: (length u32 BE, path) …  to the end of the file

It is a cache and no more: a file that is missing, for another identity, cut or damaged makes files be read, never
makes a backup wrong. The trailer exists because that a long file went wrong is known in its *last* record only,
but has to be known at its first when the manifest is read again.
"""

from __future__ import annotations

import glob
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO

import msgspec

from transporter.workloads.entry import UNTRUSTED, Entry

MAGIC = b"TPCM"
VERSION = 1
HEADER = struct.Struct(">4sHH")
BLOCK = struct.Struct(">II")
LENGTH = struct.Struct(">I")

BLOCK_SIZE = 256 << 10
"""Bytes gathered to a block: large enough that the checksum's call costs nothing, small enough to hold many."""
MAX_BLOCK = 32 << 20
"""A block holds less than ``BLOCK_SIZE``, one more piece and one more record (16 MiB): a longer one is damage."""


class CachedManifest:
    """One such file. ``identity`` says what it belongs to (job, restore point, domain): up to 65,535 bytes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def writer(self, identity: bytes) -> CacheWriter:
        """Start a new file; nothing is replaced before its ``commit``."""
        return CacheWriter(self.path, identity)

    def read(self, identity: bytes) -> Iterator[Entry] | None:
        """Return the entries in path order, or None when there is no such file for ``identity``.

        The iterator simply ends where damage begins.
        """
        file = None
        try:
            file = open(self.path, "rb")  # noqa: SIM115 - the iterator owns it
            if not _header_matches(file, identity):
                file.close()
                return None
            start = file.tell()
            untrusted = _read_trailer(file)
            file.seek(start)
        except OSError:
            if file is not None:
                file.close()
            return None
        return _entries(file, untrusted)

    def remove(self) -> None:
        """Forget it."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)


class CacheWriter:
    """Writes entries to a file of its own beside the cache, and puts it in place at ``commit``.

    A context manager: leaving it without a commit removes the file.
    """

    def __init__(self, path: str, identity: bytes) -> None:
        self._path = path
        _remove_leftovers(path)
        self._temporary = f"{path}.{os.getpid()}.new"
        fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._file: BinaryIO = open(fd, "wb", buffering=0)  # noqa: SIM115 - closed by commit or discard
        self._file.write(HEADER.pack(MAGIC, VERSION, len(identity)) + identity)
        self._block = bytearray(BLOCK.size)
        self._untrusted: list[bytes] = []

    def add(self, records: bytes, distrusted: Iterable[bytes] = ()) -> None:
        """Append whole records in path order, as ``encode_records`` makes them.

        ``distrusted``: the paths of those among them that are continuations and flagged as untrusted.
        """
        self._block += records
        self._untrusted += distrusted
        if len(self._block) >= BLOCK_SIZE:
            self._write_block()

    def commit(self) -> None:
        """Finish the file, make it durable, and put it in the place of the one before."""
        if len(self._block) > BLOCK.size:
            self._write_block()
        trailer = b"".join(LENGTH.pack(len(path)) + path for path in self._untrusted)
        _write_all(self._file, BLOCK.pack(0, zlib.crc32(trailer)) + trailer + _footer(trailer))
        os.fdatasync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._path)

    def discard(self) -> None:
        """Give up: the cache stays what it was."""
        if not self._file.closed:
            self._file.close()
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _write_block(self) -> None:
        block = self._block
        with memoryview(block) as view:
            BLOCK.pack_into(block, 0, len(block) - BLOCK.size, zlib.crc32(view[BLOCK.size :]))
        _write_all(self._file, block)
        self._block = bytearray(BLOCK.size)


def _remove_leftovers(path: str) -> None:
    """Remove what runs that were killed have left; the job's lock says that no other run is alive."""
    for left in glob.glob(f"{glob.escape(path)}.*.new"):
        with suppress(FileNotFoundError):
            os.unlink(left)


def _write_all(file: BinaryIO, data: bytes | bytearray) -> None:
    written = file.write(data)
    while written < len(data):
        written += file.write(data[written:])


def _footer(trailer: bytes) -> bytes:
    return LENGTH.pack(len(trailer))


def _header_matches(file: BinaryIO, identity: bytes) -> bool:
    head = file.read(HEADER.size)
    return head == HEADER.pack(MAGIC, VERSION, len(identity)) and file.read(len(identity)) == identity


def _read_trailer(file: BinaryIO) -> frozenset[bytes]:
    """Read the untrusted paths at the end of the file; ``OSError`` when they are damaged, for then nothing is known."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(size - LENGTH.size, 0))
    footer = file.read(LENGTH.size)
    length = LENGTH.unpack(footer)[0] if len(footer) == LENGTH.size else size
    start = size - LENGTH.size - length - BLOCK.size
    if start < 0:
        raise OSError("the cached manifest is cut")
    file.seek(start)
    zero, checksum = BLOCK.unpack(file.read(BLOCK.size))
    trailer = file.read(length)
    if zero or zlib.crc32(trailer) != checksum:
        raise OSError("the cached manifest is damaged")
    paths, position = [], 0
    while position < length:
        (count,) = LENGTH.unpack_from(trailer, position)
        paths.append(trailer[position + 4 : position + 4 + count])
        position += 4 + count
    return frozenset(paths)


def _entries(file: BinaryIO, untrusted: frozenset[bytes]) -> Iterator[Entry]:
    decode = msgspec.msgpack.Decoder(Entry).decode
    unpack = LENGTH.unpack_from
    with file:
        while True:
            head = file.read(BLOCK.size)
            if len(head) < BLOCK.size:
                return
            length, checksum = BLOCK.unpack(head)
            if not 0 < length <= MAX_BLOCK:
                return
            block = file.read(length)
            if len(block) != length or zlib.crc32(block) != checksum:
                return
            view = memoryview(block)
            position = 0
            while position < length:
                end = position + 4 + unpack(view, position)[0]
                entry = decode(view[position + 4 : end])
                if untrusted and entry.path in untrusted:
                    entry.flags |= UNTRUSTED
                yield entry
                position = end
