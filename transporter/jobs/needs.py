"""The list of chunks that a point needs: kept in a file, because it grows with the data and memory must not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

ID_LENGTH = 32
# Names the same chunk once as long as it was named recently; a repetition later on costs 32 bytes and no more.
RECENT = 65_536
IN_MEMORY = 1 << 20
PART = 2048 * ID_LENGTH


class Needs:
    """Chunk ids in the order in which the manifest names them. One thread at a time."""

    def __init__(self, folder: Path) -> None:
        # Closed by close(): the list lives as long as the run.
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=str(folder))  # noqa: SIM115
        self._recent: dict[bytes, None] = {}
        self._last = b""
        self._hash = blake3()
        self.count = 0

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
        return self._hash.digest()

    def parts(self) -> Iterator[bytes]:
        """Yield the list in parts of up to 2,048 ids."""
        self._file.seek(0)
        while part := self._file.read(PART):
            yield part

    def close(self) -> None:
        """Give the file up."""
        self._file.close()
