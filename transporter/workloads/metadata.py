"""Puts owners, permissions, attributes and times on what has been restored.

The order is forced by the kernel: changing the owner clears setuid bits and capabilities, so owner first; a write
permission may be needed for attributes, so they come before the mode; times last, since the rest moves them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress

from transporter.workloads import xattrs
from transporter.workloads.entry import Entry
from transporter.workloads.notes import Note
from transporter.workloads.owners import OwnerIds

ACCESS_ACL = b"system.posix_acl_access"
SPECIAL_BITS = 0o6000
"""setuid and setgid: only ever set together with the owner they were meant for."""


class Metadata:
    """Applies entries' metadata. Thread-safe as far as ``note`` is.

    ``probe`` is the state of a file created with mode 0777 in the staging folder: it tells the owner, group and
    mode that new files get by themselves, so that system calls which would change nothing are left out.
    """

    def __init__(self, probe: os.stat_result, note: Callable[[Note], None], *, numeric_owner: bool) -> None:
        self._uid = probe.st_uid
        self._gid = probe.st_gid
        self._umask = 0o777 & ~probe.st_mode
        self._privileged = os.geteuid() == 0
        self._ids = OwnerIds(numeric_owner)
        self._note = note
        self._owner_noted = False
        self._owners: dict[tuple[bytes, int, bytes, int], tuple[int, int]] = {}

    def creation_mode(self, entry: Entry) -> int:
        """Return the mode to create a file with: its own where that is possible."""
        return 0o600 if entry.xattrs and not self._privileged else entry.mode & 0o777

    def to_new_file(self, fd: int, entry: Entry) -> None:
        """Finish a file that was created with ``creation_mode``."""
        own = self._wanted(entry) == (self._uid, self._gid)
        if not own or entry.xattrs or entry.mode & (self._umask | 0o7000):
            self.to_descriptor(fd, entry)
        else:
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def to_descriptor(self, fd: int, entry: Entry) -> None:
        """Put everything on an open file or folder."""
        mode = self._owner(fd, None, entry)
        if entry.xattrs:
            self._xattrs(fd, entry)
        self._try(entry, os.fchmod, fd, mode)
        self._try(entry, os.utime, fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def to_existing(self, fd: int, entry: Entry) -> None:
        """Put everything on a folder that we may not have made: also take away what is not the entry's."""
        now = os.fstat(fd)
        for name in xattrs.listed(fd):
            if os.fsencode(name) not in entry.xattrs:
                with suppress(OSError):
                    os.removexattr(fd, name)
        uid, gid = self._wanted(entry)
        if (uid, gid) == (self._uid, self._gid) and (now.st_uid, now.st_gid) != (uid, gid):
            self._try(entry, os.chown, fd, uid, gid)
        self.to_descriptor(fd, entry)

    def to_name(self, folder_fd: int, name: bytes, entry: Entry) -> None:
        """Put everything on a symbolic link, fifo or device that we have just created in our own folder."""
        mode = self._owner(name, folder_fd, entry)
        if entry.xattrs:
            self._xattrs(xattrs.link_path(folder_fd, name), entry)
        if entry.kind != "l":
            self._try(entry, os.chmod, name, mode, dir_fd=folder_fd)
        times = (entry.mtime_ns, entry.mtime_ns)
        self._try(entry, os.utime, name, ns=times, dir_fd=folder_fd, follow_symlinks=False)

    def differ(self, state: os.stat_result, target: int | bytes, entry: Entry) -> bool:
        """Tell whether anything that could be put right is not the entry's. ``target``: as for ``xattrs.read``."""
        wanted = self._wanted(entry)
        mode = entry.mode
        if self._privileged:
            if (state.st_uid, state.st_gid) != wanted:
                return True
        elif wanted != (self._uid, self._gid):
            mode &= ~SPECIAL_BITS
        if state.st_mtime_ns != entry.mtime_ns or (entry.kind != "l" and state.st_mode & 0o7777 != mode):
            return True
        names = xattrs.listed(target)
        return xattrs.read(target, names) != entry.xattrs if names else bool(entry.xattrs)

    def _wanted(self, entry: Entry) -> tuple[int, int]:
        # Few owners have many files, and every file is asked about.
        owner = (entry.user, entry.uid, entry.group, entry.gid)
        known = self._owners.get(owner)
        if known is None:
            known = self._ids.uid(entry.user, entry.uid), self._ids.gid(entry.group, entry.gid)
            self._owners[owner] = known
        return known

    def _owner(self, target: int | bytes, folder_fd: int | None, entry: Entry) -> int:
        """Set owner and group; returns the mode that is safe to set after it."""
        uid, gid = self._wanted(entry)
        if uid == self._uid and gid == self._gid:
            return entry.mode
        try:
            if folder_fd is None:
                os.chown(target, uid, gid)
            else:
                os.chown(target, uid, gid, dir_fd=folder_fd, follow_symlinks=False)
        except OSError as error:
            if self._privileged:
                self._failed(entry, error)
            elif not self._owner_noted:
                self._owner_noted = True
                text = "only root can restore owners: files belong to whoever restores them"
                self._note(Note("owner-not-set", entry.path, text, gap=False))
            return entry.mode & ~SPECIAL_BITS
        return entry.mode

    def _xattrs(self, target: int | bytes, entry: Entry) -> None:
        follow = isinstance(target, int)
        # The access ACL last: it may take away the permission to set the others.
        for name in sorted(entry.xattrs, key=ACCESS_ACL.__eq__):
            try:
                os.setxattr(target, name, entry.xattrs[name], follow_symlinks=follow)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "not a name"
                text = f"attribute {name.decode('utf-8', 'backslashreplace')}: {reason}"
                self._note(Note("metadata-not-set", entry.path, text, gap=self._is_gap(error)))

    def _try(self, entry: Entry, call: Callable[..., None], /, *arguments: object, **options: object) -> None:
        try:
            call(*arguments, **options)
        except OSError as error:
            self._failed(entry, error)

    def _failed(self, entry: Entry, error: OSError) -> None:
        self._note(Note("metadata-not-set", entry.path, error.strerror or str(error), gap=self._is_gap(error)))

    def _is_gap(self, error: Exception) -> bool:
        code = getattr(error, "errno", None)
        if code == errno.ENOTSUP:
            return False
        return self._privileged or code not in {errno.EPERM, errno.EACCES}
