"""Reading file trees: entries in path order, and the contents of files as one stream.

One thread, on purpose: reading small files is nothing but short system calls, and threads that do those fight for the
interpreter lock (measured: two readers are four times slower than one).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from transporter.workloads import xattrs
from transporter.workloads.entry import CONTINUATION, MAX_PATH, MORE, UNTRUSTED, Entry, Kind
from transporter.workloads.folders import Folder, FolderCache
from transporter.workloads.patterns import Patterns
from transporter.workloads.previous import Previous
from transporter.workloads.scan_clock import coarse_now_ns
from transporter.workloads.scan_content import O_NOATIME, O_READ, ContentScan, Hook
from transporter.workloads.scan_plain import Name, PlainReader, list_folder
from transporter.workloads.scan_roots import normalised_roots

S_IFMT: Final = 0o170000
S_IFREG: Final = stat.S_IFREG
KINDS: Final[dict[int, Kind]] = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
}


class _Frame:
    """A folder whose names are being visited."""

    __slots__ = ("dev", "folder", "names", "prefix", "seen_ns")

    def __init__(self, folder: Folder, prefix: bytes, dev: int, names: Iterator[Name], seen_ns: int) -> None:
        self.folder = folder
        self.prefix = prefix
        self.dev = dev
        self.names = names
        self.seen_ns = seen_ns


class TreeScanner(ContentScan):
    """Scans roots in path order. One thread at a time; every method may raise nothing but ``UsageError`` on bad roots.

    What cannot be read is noted and skipped; the rest goes on. Entries without content come out as they are met;
    those of files come out when the first byte is read, with the range of the stream that holds their content.

    ``previous`` are the entries of the run before, in path order: what is unchanged (device, inode, size, mtime and
    ctime) keeps its extents and is not read. ``max_entries`` makes ``fill`` return early, possibly with 0 bytes
    before the end, once so many entries wait to be taken: use it, with ``finished``, to keep memory bounded.
    ``hook`` is called as ``hook(stage, path)`` with stage ``"open"`` or ``"read"``: a seam for tests.
    """

    def __init__(
        self,
        roots: Sequence[bytes | str],
        previous: Iterator[Entry] | None = None,
        *,
        exclude: Sequence[str | bytes] = (),
        one_file_system: bool = False,
        max_entries: int = 0,
        hook: Hook | None = None,
    ) -> None:
        super().__init__(hook)
        self._absolute_roots = normalised_roots(roots)
        self.roots = [root.lstrip(b"/") for root in self._absolute_roots]
        """The roots as stored in entries, in path order, none beneath another."""
        self.finished = False
        self._previous = Previous(previous)
        self._exclude = Patterns(exclude, stored=False)
        self._one_file_system = one_file_system
        self._max_entries = max_entries
        self._cache = FolderCache()
        self._root = b""
        self._waiting_roots = iter(self._absolute_roots)
        self._frames: list[_Frame] = []
        # O_NOATIME is for owner and root alone: with anybody else's file the plain way fails, and the other one begins.
        self._plain = PlainReader(self._owners, self._linked, O_READ | O_NOATIME)

    # -- what a job calls

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer`` with content; returns the bytes put in, 0 at the end of everything."""
        filled = 0
        room = len(buffer)
        while filled < room and not (self._max_entries and len(self._entries) >= self._max_entries):
            if self._reading is not None:
                filled += self._read_on(buffer[filled:])
            elif self._frames:
                filled = self._walk(buffer, filled)
            elif not self._next_root():
                self.finished = True
                break
        self.bytes_read += filled
        return filled

    def close(self) -> None:
        """Close every descriptor; the scanner is of no use afterwards."""
        if self._reading is not None:
            os.close(self._reading.fd)
            self._reading = None
        self._frames.clear()
        self._cache.close_all()
        self.finished = True

    # -- folders

    def _next_root(self) -> bool:
        root = next(self._waiting_roots, None)
        if root is None:
            return False
        self._root = root.lstrip(b"/")
        seen_ns = coarse_now_ns()
        try:
            state = os.stat(root)
            if stat.S_ISDIR(state.st_mode):
                self._enter(Folder(None, root), -1, self._root, state, seen_ns)
            else:
                parent, _, name = root.rpartition(b"/")
                prefix = parent.lstrip(b"/") + b"/" if parent else b""
                self._frames.append(
                    _Frame(Folder(None, parent or b"/"), prefix, state.st_dev, iter(((name, -1),)), seen_ns)
                )
        except OSError as error:
            self._lost(self._root, error, gone_is_gap=True)
        return True

    def _enter(self, folder: Folder, parent_fd: int, path: bytes, state: os.stat_result, seen_ns: int) -> None:
        """Put out a folder's entry, list it, and make it the one being visited."""
        self.folders += 1
        folder.dev, folder.inode = state.st_dev, state.st_ino
        entry = self._previous.find(path)
        kept = entry is not None and self._unchanged(entry, "d", state)
        if self._one_file_system and self._frames and state.st_dev != self._frames[-1].dev:
            attributes = {} if kept else self._attributes(xattrs.link_path(parent_fd, folder.name), path)
            names: list[Name] | None = None
        else:
            try:
                fd = self._cache.fd(folder)
                names = list_folder(fd)
                attributes = {} if kept else self._attributes(fd, path)
            except OSError as error:
                self._cache.close(folder)
                self._lost(path, error, gone_is_gap=folder.parent is None)
                if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    return
                names, attributes = None, {}
        if entry is None or not kept:
            entry = self._entry(path, "d", state, seen_ns, attributes)
        self._emit(entry)
        if names is None:
            return
        if len(path) + 256 > MAX_PATH:
            self._note("unreadable", path, f"the path is longer than {MAX_PATH} bytes", gap=True)
            return
        prefix = path + b"/" if path else b""
        self._frames.append(_Frame(folder, prefix, state.st_dev, iter(names), seen_ns))

    def _walk(self, buffer: memoryview, filled: int) -> int:
        """Visit names of the innermost folder until it ends, or something else has to be done first."""
        frame = self._frames[-1]
        try:
            fd = self._cache.fd(frame.folder)
        except OSError as error:
            self._lost(frame.prefix.rstrip(b"/"), error, gone_is_gap=True)
            self._frames.pop()
            return filled
        frame.seen_ns = seen_ns = coarse_now_ns()
        prefix = frame.prefix
        excluded = self._excluded if self._exclude else None
        room = len(buffer)
        most = self._max_entries or 1 << 60
        entries = self._entries
        plainly = self._previous.exhausted and self._hook is None
        while True:
            if plainly:
                files, start = len(entries), filled
                filled, item = self._plain.read(
                    fd, prefix, frame.names, excluded, seen_ns, buffer, filled, self.bytes_read, entries, most
                )
                self.files += len(entries) - files
                self.bytes_total += filled - start
                if item is None and (filled == room or len(entries) >= most):
                    return filled
            else:
                item = next(frame.names, None)
            if item is None:
                break
            name = item[0]
            path = prefix + name
            if excluded is not None and excluded(path):
                continue
            try:
                state = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                self._lost(path, error)
                continue
            if state.st_mode & S_IFMT == stat.S_IFDIR:
                self._enter(Folder(frame.folder, name), fd, path, state, seen_ns)
                return filled
            filled = self._visit(fd, name, path, state, seen_ns, buffer, filled)
            if self._reading is not None or filled == room or len(entries) >= most:
                return filled
        self._frames.pop()
        self._cache.close(frame.folder)
        return filled

    def _excluded(self, path: bytes) -> bool:
        return self._exclude.match(path, self._root)

    # -- everything but folders

    def _visit(
        self, fd: int, name: bytes, path: bytes, state: os.stat_result, seen_ns: int, buffer: memoryview, filled: int
    ) -> int:
        """Put out the entry of one name; returns how full the buffer is now."""
        form = state.st_mode & S_IFMT
        kind = KINDS.get(form)
        if kind is None:
            self._skip_unknown(form, path)
            return filled
        previous = self._previous.find(path)
        if state.st_nlink > 1 and self._link(fd, name, path, kind, state, seen_ns, previous):
            return filled
        if previous is not None and not previous.link and self._unchanged(previous, kind, state):
            self._keep(previous, state)
            return filled
        if kind != "f":
            self._special(fd, name, path, kind, state, seen_ns)
            return filled
        size = state.st_size
        if 0 < size <= len(buffer) - filled and state.st_blocks * 512 >= size:
            return self._read_small(fd, name, path, state, seen_ns, buffer, filled)
        self._open_large(fd, name, path, state, seen_ns, filled)
        return filled

    def _unchanged(self, entry: Entry, kind: Kind, state: os.stat_result) -> bool:
        return (
            entry.inode == state.st_ino
            and entry.ctime_ns == state.st_ctime_ns
            and entry.mtime_ns == state.st_mtime_ns
            and (entry.size == state.st_size or kind == "d")
            and entry.kind == kind
            and entry.dev == state.st_dev
            and not entry.flags & (UNTRUSTED | CONTINUATION)
            and entry.mode == state.st_mode & 0o7777
            and entry.user == self._owners.user(state.st_uid)
            and entry.group == self._owners.group(state.st_gid)
        )

    def _keep(self, entry: Entry, state: os.stat_result) -> None:
        """Put out an unchanged entry as it was, with all its records."""
        self._emit(entry, state)
        if entry.kind == "f":
            self.files += 1
            self.files_unchanged += 1
            self.bytes_total += state.st_size
        else:
            self.others += 1
        if entry.flags & MORE:
            for record in self._previous.rest_of(entry):
                self._emit(record)

    def _link(
        self,
        fd: int,
        name: bytes,
        path: bytes,
        kind: Kind,
        state: os.stat_result,
        seen_ns: int,
        previous: Entry | None,
    ) -> bool:
        """Put out a further name of a file that has been met already; says whether it is one."""
        key = (state.st_dev, state.st_ino)
        first = self._links.get(key)
        if first is None:
            return False
        first_path, left = first
        if left <= 1:
            del self._links[key]
        else:
            self._links[key] = (first_path, left - 1)
        if previous is not None and previous.link == first_path and self._unchanged(previous, kind, state):
            entry = previous
        else:
            entry = self._entry(path, kind, state, seen_ns, xattrs.NONE)
            entry.link = first_path
        self._emit(entry)
        if kind == "f":
            self.files += 1
            self.files_unchanged += entry is previous
        else:
            self.others += 1
        return True

    def _special(self, fd: int, name: bytes, path: bytes, kind: Kind, state: os.stat_result, seen_ns: int) -> None:
        """Put out a symbolic link, a fifo or a device."""
        try:
            target = os.readlink(name, dir_fd=fd) if kind == "l" else b""
        except OSError as error:
            self._lost(path, error)
            return
        entry = self._entry(path, kind, state, seen_ns, self._attributes(xattrs.link_path(fd, name), path))
        entry.target = target
        entry.rdev = state.st_rdev if kind in "cb" else 0
        self.others += 1
        self._emit(entry, state)
