"""Names of owners, looked up once each: the databases behind ``pwd`` and ``grp`` may be on a network."""

from __future__ import annotations

import grp
import os
import pwd


class OwnerNames:
    """Ids to names, for the scanner. An id without a name has the name ``b""``."""

    def __init__(self) -> None:
        self.users: dict[int, bytes] = {}
        self.groups: dict[int, bytes] = {}

    def user(self, uid: int) -> bytes:
        """Return the name of a user id."""
        name = self.users.get(uid)
        if name is None:
            try:
                name = os.fsencode(pwd.getpwuid(uid).pw_name)
            except (KeyError, OverflowError, OSError):
                name = b""
            self.users[uid] = name
        return name

    def group(self, gid: int) -> bytes:
        """Return the name of a group id."""
        name = self.groups.get(gid)
        if name is None:
            try:
                name = os.fsencode(grp.getgrgid(gid).gr_name)
            except (KeyError, OverflowError, OSError):
                name = b""
            self.groups[gid] = name
        return name


class OwnerIds:
    """Names to ids, for the writer: the id that the name has on this machine, else the id as it was."""

    def __init__(self, numeric: bool = False) -> None:
        self._numeric = numeric
        self._users: dict[tuple[bytes, int], int] = {}
        self._groups: dict[tuple[bytes, int], int] = {}

    def uid(self, name: bytes, uid: int) -> int:
        """Return the user id to give to a file that belonged to ``name`` (``uid`` there)."""
        known = self._users.get((name, uid))
        if known is None:
            known = uid
            if name and not self._numeric:
                try:
                    known = pwd.getpwnam(os.fsdecode(name)).pw_uid
                except (KeyError, ValueError, OSError):
                    known = uid
            self._users[(name, uid)] = known
        return known

    def gid(self, name: bytes, gid: int) -> int:
        """Return the group id to give to a file that belonged to group ``name`` (``gid`` there)."""
        known = self._groups.get((name, gid))
        if known is None:
            known = gid
            if name and not self._numeric:
                try:
                    known = grp.getgrnam(os.fsdecode(name)).gr_gid
                except (KeyError, ValueError, OSError):
                    known = gid
            self._groups[(name, gid)] = known
        return known
