"""What all parts of a restore share: the staging folder, its open folders, the lock, the notes."""

from __future__ import annotations

import errno
import os
import threading
from typing import NoReturn

from transporter.errors import DiskFull, JobFailed
from transporter.workloads.entry import Entry
from transporter.workloads.folders import FolderCache
from transporter.workloads.metadata import Metadata
from transporter.workloads.notes import Note, NoteCode
from transporter.workloads.restored import StagedFolder
from transporter.workloads.staging import Staging

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Stage:
    """``lock`` guards everything here, and every use of a folder's descriptor; contents are written without it."""

    def __init__(self, staging: Staging, *, numeric_owner: bool) -> None:
        self.lock = threading.RLock()
        self.cache = FolderCache()
        self.top = StagedFolder(None, b"", None, staging.fd)
        self.files = 0
        self.bytes_written = 0
        self.ancestors: set[int] = set()  # inodes of staged folders that are only on the way to what was asked for
        self._notes: list[Note] = []
        self.metadata = Metadata(staging.probe, self._notes.append, numeric_owner=numeric_owner)

    def make_folder(self, parent: StagedFolder, name: bytes, entry: Entry) -> StagedFolder:
        """Make a folder that only we can enter until its metadata is set."""
        with self.lock:
            try:
                os.mkdir(name, 0o700, dir_fd=self.cache.fd(parent))
            except OSError as error:
                self.stop(error, entry)
            parent.open_children += 1
        return StagedFolder(parent, name, entry)

    def mark_ancestor(self, folder: StagedFolder) -> None:
        """Remember that a folder was not asked for itself: if it exists already, it keeps its metadata."""
        with self.lock:
            self.cache.fd(folder)
            self.ancestors.add(folder.inode)

    def release(self, folder: StagedFolder | None) -> None:
        """Say that one thing in a folder is done; the last one sets the folder's metadata, and so on upwards."""
        with self.lock:
            while folder is not None:
                folder.open_children -= 1
                if folder.open_children or folder.entry is None:
                    return
                try:
                    self.metadata.to_descriptor(self.cache.fd(folder), folder.entry)
                    self.cache.close(folder)
                except OSError as error:
                    self.stop(error, folder.entry)
                folder = folder.parent_folder

    def refuse(self, error: Exception, entry: Entry) -> None:
        """Note what this machine will not make; stop when there is no room, for then nothing else will do either."""
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            self.stop(error, entry)
        self.note("not-restored", entry.path, getattr(error, "strerror", None) or str(error), gap=True)

    def stop(self, error: OSError, entry: Entry) -> NoReturn:
        """End the restore. Raises ``DiskFull`` or ``JobFailed``."""
        if error.errno in NO_ROOM:
            raise DiskFull("No room is left where the restore writes.", "Free some, or restore elsewhere.") from error
        raise JobFailed(f"{os.fsdecode(entry.path[:200])!r} cannot be restored: {error.strerror}.") from error

    def note(self, code: NoteCode, path: bytes, text: str, *, gap: bool) -> None:
        """Add a note."""
        with self.lock:
            self._notes.append(Note(code, path, text, gap))

    def take_notes(self) -> list[Note]:
        """Return the notes made since the last call."""
        with self.lock:
            taken = self._notes[:]
            self._notes.clear()  # the list itself is shared with the metadata
            return taken
