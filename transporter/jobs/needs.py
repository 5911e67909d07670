"""The list of chunks that a point needs: kept in a file, because it grows with the data and memory must not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

ID_LENGTH = 32
# Names the same chunk once as long as it was named recently; a repetition later on costs 32 bytes and no more.
RECENT = 65_536
PART = 2048 * ID_LENGTH


class Needs:
    """Chunk ids in the order in which the manifest names them. One thread at a time."""

    def __init__(self, folder: Path) -> None:
        # Closed by close(): the list lives as long as the run. It has no name: no crash leaves it behind.
        self._open(tempfile.TemporaryFile(dir=str(folder)))  # noqa: SIM115

    @classmethod
    def in_file(cls, descriptor: int) -> Needs:
        """Return a list that is written to an open file: to that of another process."""
        needs = cls.__new__(cls)
        needs._open(open(descriptor, "r+b"))  # noqa: SIM115
        return needs

    def _open(self, file: BinaryIO) -> None:
        self._file = file
        self._recent: dict[bytes, None] = {}
        self._last = b""
        self._hash = blake3()
        self._digest = b""
        self.count = 0

    @property
    def descriptor(self) -> int:
        """The file that the list is in."""
        return self._file.fileno()

    def filled(self, count: int, digest: bytes) -> None:
        """Say that another process has written the list to our file."""
        self.count = count
        self._digest = digest

    def add(self, chunk_id: bytes) -> None:
        """Note one chunk."""
        if chunk_id == self._last:
            return
        self._last = chunk_id
        if chunk_id in self._recent:
            return
        self._recent[chunk_id] = None
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        self._file.write(chunk_id)
        self._hash.update(chunk_id)
        self.count += 1

    def digest(self) -> bytes:
        """Return the BLAKE3 of all ids in order (32 bytes): the point's MAC covers it."""
        return self._digest or self._hash.digest()

    def flush(self) -> None:
        """Let the other process, whose file it is, see everything."""
        self._file.flush()

    def parts(self) -> Iterator[bytes]:
        """Yield the list in parts of up to 2,048 ids."""
        self._file.seek(0)
        while part := self._file.read(PART):
            yield part

    def close(self) -> None:
        """Give the file up."""
        self._file.close()
