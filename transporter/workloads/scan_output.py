"""What a scan puts out: entries and notes, and the counters beside them."""

from __future__ import annotations

import errno
import os
import stat

from transporter.workloads import xattrs
from transporter.workloads.entry import MAX_XATTRS, UNTRUSTED, Entry, Kind
from transporter.workloads.notes import Note, NoteCode
from transporter.workloads.owners import OwnerNames
from transporter.workloads.pending import Pending


class ScanOutput:
    """The giving half of ``TreeScanner``; a class of its own so that the walking half can be read apart."""

    def __init__(self) -> None:
        self.files = 0
        self.files_unchanged = 0
        self.folders = 0
        self.others = 0
        self.bytes_read = 0
        self.bytes_total = 0
        self._owners = OwnerNames()
        self._links: dict[tuple[int, int], tuple[bytes, int]] = {}  # device, inode → first path, names to come
        self._linked: set[int] = set()  # the inodes of ``_links``, of whatever device: a hint, not a proof
        self._entries: list[Pending] = []
        self._notes: list[Note] = []

    def take_entries(self) -> list[Pending]:
        """Return the entries met since the last call, in path order."""
        taken, self._entries = self._entries, []
        return taken

    def take_notes(self) -> list[Note]:
        """Return the notes made since the last call."""
        taken, self._notes = self._notes, []
        return taken

    def _entry(
        self, path: bytes, kind: Kind, state: os.stat_result, seen_ns: int, attributes: dict[bytes, bytes]
    ) -> Entry:
        uid, gid, changed_ns = state.st_uid, state.st_gid, state.st_ctime_ns
        return Entry(
            path,
            kind,
            0 if changed_ns < seen_ns else UNTRUSTED,
            0 if kind == "d" else state.st_size,
            state.st_mtime_ns,
            changed_ns,
            state.st_dev,
            state.st_ino,
            state.st_mode & 0o7777,
            uid,
            gid,
            self._owners.user(uid),
            self._owners.group(gid),
            b"",
            1 if kind == "d" else state.st_nlink,
            b"",
            b"",
            0,
            attributes,
        )

    def _emit(self, entry: Entry, state: os.stat_result | None = None, start: int = 0, end: int = 0) -> None:
        self._entries.append(Pending(entry, start, end))
        if state is not None and state.st_nlink > 1:
            self._remember_link(entry.path, state)

    def _remember_link(self, path: bytes, state: os.stat_result) -> None:
        self._links[(state.st_dev, state.st_ino)] = (path, state.st_nlink - 1)
        self._linked.add(state.st_ino)

    def _attributes(self, target: int | bytes, path: bytes, names: list[str] | None = None) -> dict[bytes, bytes]:
        names = xattrs.listed(target) if names is None else names
        if not names:
            return xattrs.NONE

        def failed(name: bytes, error: OSError) -> None:
            shown = name.decode("utf-8", "backslashreplace")
            text = f"the extended attribute {shown} cannot be read: {error.strerror or error}"
            self._note("xattrs-dropped", path, text, gap=True)

        found = xattrs.read(target, names, failed)
        if sum(map(len, found.values())) + sum(map(len, found)) > MAX_XATTRS:
            self._note("xattrs-dropped", path, f"more than {MAX_XATTRS} bytes of extended attributes", gap=True)
            return xattrs.NONE
        return found

    def _lost(self, path: bytes, error: OSError, gone_is_gap: bool = False) -> None:
        """Note what could not be read; that something vanished meanwhile is no gap, since it is gone anyway."""
        gone = error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
        if gone and not gone_is_gap:
            self._note("vanished", path, "vanished while the tree was read", gap=False)
        else:
            self._note("unreadable", path, error.strerror or str(error), gap=True)

    def _skip_unknown(self, form: int, path: bytes) -> None:
        if form == stat.S_IFSOCK:
            self._note("socket-skipped", path, "a socket: skipped, it has no content", gap=False)
        else:
            self._note("unknown-kind", path, f"a file of an unknown kind ({form:o})", gap=True)

    def _note(self, code: NoteCode, path: bytes, text: str, *, gap: bool) -> None:
        self._notes.append(Note(code, path, text, gap))
