"""The list of chunks that a point needs, on its way to the commit: it grows with the data, and memory must not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from transporter.repository.files import disk_errors

ID_LENGTH = 32
# 32,768 chunks (some 30 GB): most points need no file.
IN_MEMORY = 1 << 20
IDS_AT_ONCE = 4096


class NeededChunks:
    """Chunk ids in the order in which they came; from ``IN_MEMORY`` bytes on in a file without a name in ``folder``.

    One thread at a time. Raises DiskFull and other errors of the disk.
    """

    def __init__(self, folder: Path) -> None:
        # Closed by close(): the list lives as long as its session. The suffix is for file systems on which the file has
        # a name for a moment: a repository sweeps such files when it is opened.
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=str(folder), suffix=".tmp")  # noqa: SIM115
        self._hash = blake3()
        self.length = 0

    def add(self, ids: bytes) -> None:
        """Note chunks: whole ids, one behind the other."""
        with disk_errors("keep the list of needed chunks"):
            self._file.write(ids)
        self._hash.update(ids)
        self.length += len(ids)

    def digest(self) -> bytes:
        """Return the BLAKE3 of all ids in order (32 bytes)."""
        return self._hash.digest()

    def parts(self) -> Iterator[bytes]:
        """Yield the list from its beginning in pieces of up to ``IDS_AT_ONCE`` ids."""
        with disk_errors("read the list of needed chunks"):
            self._file.seek(0)
            while part := self._file.read(ID_LENGTH * IDS_AT_ONCE):
                yield part

    def close(self) -> None:
        """Give the list up."""
        self._file.close()
