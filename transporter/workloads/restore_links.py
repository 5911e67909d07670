"""Further names of files, and what has no content: links, fifos, devices."""

from __future__ import annotations

import os
import stat

from transporter.workloads.entry import Entry
from transporter.workloads.folders import Folder
from transporter.workloads.hard_links import HardLinks
from transporter.workloads.in_place import InPlace
from transporter.workloads.restore_stage import Stage
from transporter.workloads.restored import RestoredFile, StagedFolder


class Names:
    """Makes them in the staging folder. ``links`` remembers files with several names; writers may share it."""

    def __init__(self, stage: Stage, in_place: InPlace | None, links: HardLinks) -> None:
        self._stage = stage
        self._in_place = in_place
        self._waiting: list[tuple[Entry, StagedFolder, bytes, RestoredFile]] = []
        self.links = links

    def kept(self, entry: Entry, there: Folder | None, name: bytes, file: RestoredFile) -> bool:
        """Tell whether a further name is in the output already, in a restore in place."""
        home = file.home
        if self._in_place is None or file.kept is None or home is None or home._in_place is None:
            return False
        first, state = home._in_place.state(*file.kept), self._in_place.state(there, name)
        if first is None or state is None or not os.path.samestat(first, state):
            return False
        with self._stage.lock:
            self._stage.files += entry.kind == "f"
            self._in_place.unchanged += entry.kind == "f"
        return True

    def link(self, entry: Entry, folder: StagedFolder, name: bytes, file: RestoredFile) -> None:
        """Make a further name, now or when the file is finished."""
        with self._stage.lock:
            if file.done or file.failed:
                self._make_link(entry, folder, name, file)
            else:
                folder.open_children += 1
                self._waiting.append((entry, folder, name, file))

    def make_waiting(self) -> None:
        """Make the names that had to wait."""
        with self._stage.lock:
            waiting, self._waiting = self._waiting, []
            for entry, folder, name, file in waiting:
                self._make_link(entry, folder, name, file)
                self._stage.release(folder)

    def _make_link(self, entry: Entry, folder: StagedFolder, name: bytes, file: RestoredFile) -> None:
        if file.failed or file.partial:
            self._stage.note("not-restored", entry.path, "the file it is a further name of was not restored", gap=True)
            return
        if self.kept(entry, folder.there, name, file):
            return
        try:
            source_fd, first = (file.home or self)._source(file)
            try:
                if self._stage.taken(folder, name, source_fd, first):
                    self._stage.files += entry.kind == "f"
                    return
                target_fd = self._stage.cache.fd(folder)
                os.link(first, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
            finally:
                os.close(source_fd)
        except OSError as error:
            self._stage.refuse(error, entry)
        else:
            self._stage.files += entry.kind == "f"

    def _source(self, file: RestoredFile) -> tuple[int, bytes]:
        """Return a descriptor of the folder of a file, the caller's, and its name there."""
        with self._stage.lock:  # the next use of the cache may close the original
            if file.kept is None:
                return os.dup(self._stage.cache.fd(file.folder)), file.name
            assert self._in_place is not None
            folder, name = file.kept
            return os.dup(self._in_place.cache.fd(folder)), name

    def make_special(self, file: RestoredFile) -> None:
        """Make a symbolic link, fifo or device."""
        entry, name = file.entry, file.name
        with self._stage.lock:
            try:
                self._stage.clear(file.folder, name)
                fd = self._stage.cache.fd(file.folder)
                if entry.kind == "l":
                    os.symlink(entry.target, name, dir_fd=fd)
                elif entry.kind == "p":
                    os.mkfifo(name, 0o600, dir_fd=fd)
                else:
                    form = stat.S_IFBLK if entry.kind == "b" else stat.S_IFCHR
                    os.mknod(name, form | 0o600, entry.rdev, dir_fd=fd)
                self._stage.metadata.to_name(fd, name, entry)
                file.done = True
            except (OSError, ValueError, OverflowError) as error:
                file.failed = True
                self._stage.refuse(error, entry)
        self._stage.release(file.folder)
