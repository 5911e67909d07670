"""What the kernel asks of a mounted point, answered: read-only, by inodes that never change their meaning.

Whatever goes wrong is an error number for the program that asked. Nothing here may raise anything else: it would end
the mount for everybody.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3

from transporter.errors import TransporterError
from transporter.jobs.mount_branches import (
    LATEST_INODE,
    LATEST_NAME,
    TOP_INODE,
    AllPoints,
    Branch,
    Branches,
    split_inode,
)
from transporter.jobs.mounted_file import MountedFile
from transporter.logs import get_logger
from transporter.workloads.tree_attributes import AttributeReader, Attributes
from transporter.workloads.tree_index import TreeIndex

FOR_EVER = 86_400.0
"""Seconds that the kernel may keep what it was told of a point: a point never changes."""
FOR_NOW = 5.0
"""Seconds that it may keep what it was told of the folder of all points."""
BLOCK = 128 << 10
"""What `stat` says that reads should be long: what the kernel asks for at once."""

P = ParamSpec("P")
T = TypeVar("T")
log = get_logger()


def _answering(
    method: Callable[Concatenate[PointOperations, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[PointOperations, P], Coroutine[Any, Any, T]]:
    @wraps(method)
    async def answer(self: PointOperations, /, *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return await method(self, *arguments, **named)
        except pyfuse3.FUSEError:
            raise
        except TransporterError as error:
            raise pyfuse3.FUSEError(errno.EIO) from error
        except Exception as error:
            log.exception("an operation of a mount met an internal error", operation=method.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from error

    return answer


class PointOperations(pyfuse3.Operations):  # type: ignore[misc] # of no type where it is not installed
    """Serves one point (``every`` is None: slot 0), or all of a job."""

    supports_dot_lookup = False

    def __init__(
        self,
        branches: Branches,
        every: AllPoints | None,
        mounted_ns: int,
        before_first_open: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__()
        self._branches = branches
        self._every = every
        self._mounted_ns = mounted_ns
        self._reader = AttributeReader()
        self._files: dict[int, tuple[Branch, bytes, MountedFile]] = {}
        self._next_file = 1
        self._before_first_open = before_first_open

    # --- names ------------------------------------------------------------------------------------------------------

    @_answering
    async def lookup(self, parent_inode: int, name: bytes, ctx: object) -> pyfuse3.EntryAttributes:
        """Find a name in a folder; that there is none is told in a form that the kernel remembers."""
        del ctx
        if self._every is not None and parent_inode == TOP_INODE:
            return self._of_every(name)  # the list is looked at anew when somebody opens the folder
        branch, tree, number = await self._at(parent_inode)
        child = tree.child(number, name)
        if child is None:
            return _nothing()
        return self._attributes(branch, tree, child)

    @_answering
    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        """Return what `stat` says."""
        del ctx
        if self._every is not None and inode in (TOP_INODE, LATEST_INODE):
            return self._top() if inode == TOP_INODE else self._latest()
        slot, number = split_inode(inode)
        branch = self._branches.branch(slot)
        if number == 0 and branch is not None and branch.point.tree_here is None and self._every is not None:
            # To list the points must not mean to open all of them.
            return self._folder_of(branch)
        branch, tree, number = await self._at(inode)
        return self._attributes(branch, tree, number)

    @_answering
    async def readlink(self, inode: int, ctx: object) -> bytes:
        """Return where a symbolic link leads to."""
        del ctx
        if self._every is not None and inode == LATEST_INODE:
            return self._every.latest
        _branch, tree, number = await self._at(inode)
        return tree.entry(tree.first_name(number)).target

    @_answering
    async def opendir(self, inode: int, ctx: object) -> int:
        """Open a folder: its inode is all that is needed."""
        del ctx
        if self._every is not None and inode == TOP_INODE:
            await self._every.refresh_or_keep()
        else:
            await self._at(inode)
        return inode

    @_answering
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a folder, from the place on where the kernel has stopped reading."""
        if self._every is not None and fh == TOP_INODE:
            self._list_every(start_id, token)
            return
        branch, tree, number = await self._at(fh)
        attributes = pyfuse3.EntryAttributes()
        of_first, top, reply = self._reader.of_first, tree.path(number), pyfuse3.readdir_reply
        skip = len(top) + 1 if top else 0
        named = number == 0 and tree.first_stored
        for child, end, first, entry in tree.listing(number, start_id):
            name = tree.name(child, entry.path) if named else entry.path[skip:]
            _fill(
                attributes, branch.inode(first), of_first(tree, first, entry if first == child else tree.entry(first))
            )
            if not reply(token, name, attributes, end):
                return

    @_answering
    async def releasedir(self, fh: int) -> None:
        """Close a folder."""

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Nothing is kept for an inode."""

    # --- contents ---------------------------------------------------------------------------------------------------

    @_answering
    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        """Open a file for reading."""
        del ctx
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        branch, tree, number = await self._at(inode)
        number = tree.first_name(number)
        if self._next_file == 1:
            # Not earlier: what the kernel agrees on when it begins would undo it. It holds from this very file on.
            self._before_first_open()
        handle = self._next_file
        self._next_file += 1
        self._files[handle] = (branch, tree.path(number), MountedFile(branch.point, tree, number))
        if branch.sweep is not None:
            branch.sweep.opened(number)
        return pyfuse3.FileInfo(fh=handle, keep_cache=True)

    @_answering
    async def read(self, fh: int, off: int, size: int) -> bytes | memoryview:
        """Read; what is not proven is never returned."""
        branch, path, file = self._files[fh]
        del branch
        try:
            return await file.read(off, size)
        except TransporterError as error:
            self._branches.damaged(path, error)
            raise

    @_answering
    async def release(self, fh: int) -> None:
        """Close a file."""
        self._files.pop(fh, None)

    # --- the rest ---------------------------------------------------------------------------------------------------

    @_answering
    async def listxattr(self, inode: int, ctx: object) -> list[bytes]:
        """Return the names of extended attributes."""
        del ctx
        return sorted(await self._xattrs(inode))

    @_answering
    async def getxattr(self, inode: int, name: bytes, ctx: object) -> bytes:
        """Return the value of an extended attribute."""
        del ctx
        value = (await self._xattrs(inode)).get(name)
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return value

    async def _xattrs(self, inode: int) -> dict[bytes, bytes]:
        if self._every is not None and (inode in (TOP_INODE, LATEST_INODE) or not split_inode(inode)[1]):
            return {}
        _branch, tree, number = await self._at(inode)
        return tree.entry(tree.first_name(number)).xattrs

    @_answering
    async def statfs(self, ctx: object) -> pyfuse3.StatvfsData:
        """Say that the file system is full, as one that nobody can write to is."""
        del ctx
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        tree = branch.point.tree_here if (branch := self._branches.branch(0)) is not None else None
        data.f_files = tree.count if tree is not None else 0
        return data

    # --- inodes to entries ------------------------------------------------------------------------------------------

    async def _at(self, inode: int) -> tuple[Branch, TreeIndex, int]:
        slot, number = split_inode(inode)
        branch = self._branches.branch(slot)
        if branch is None:
            raise pyfuse3.FUSEError(errno.ESTALE)
        tree = branch.point.tree_here or await self._branches.tree(branch)
        if not 0 <= number < tree.count:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return branch, tree, number

    def _attributes(self, branch: Branch, tree: TreeIndex, number: int) -> pyfuse3.EntryAttributes:
        found = self._reader.read(tree, number)
        attributes = pyfuse3.EntryAttributes()
        _fill(attributes, branch.inode(found.number), found)
        return attributes

    # --- the folder of all points -----------------------------------------------------------------------------------

    def _list_every(self, start: int, token: pyfuse3.ReaddirToken) -> None:
        assert self._every is not None
        rows = [(name, self._of_every(name)) for name in sorted(self._every.names)]
        if self._every.latest:
            rows.append((LATEST_NAME, self._latest()))
        for at, (name, attributes) in enumerate(rows[start:], start + 1):
            if not pyfuse3.readdir_reply(token, name, attributes, at):
                return

    def _of_every(self, name: bytes) -> pyfuse3.EntryAttributes:
        assert self._every is not None
        if name == LATEST_NAME and self._every.latest:
            return self._latest()
        branch = self._branches.branch(self._every.names.get(name, -1))
        return self._folder_of(branch) if branch is not None else _nothing(FOR_NOW)

    def _folder_of(self, branch: Branch) -> pyfuse3.EntryAttributes:
        """Return what is said of a point's folder: what is true of it once somebody has looked into it."""
        tree = branch.point.tree_here
        if tree is not None:
            attributes = self._attributes(branch, tree, 0)
            attributes.entry_timeout = FOR_NOW
            return attributes
        attributes = _own(branch.inode(0), stat.S_IFDIR | 0o700, branch.created_ns)
        attributes.attr_timeout = 0
        return attributes

    def _top(self) -> pyfuse3.EntryAttributes:
        return _own(TOP_INODE, stat.S_IFDIR | 0o700, self._mounted_ns)

    def _latest(self) -> pyfuse3.EntryAttributes:
        assert self._every is not None
        return _own(LATEST_INODE, stat.S_IFLNK | 0o777, self._mounted_ns, len(self._every.latest))


def _fill(attributes: pyfuse3.EntryAttributes, inode: int, found: Attributes) -> None:
    attributes.st_ino = inode
    attributes.st_mode = found.mode
    attributes.st_nlink = found.nlink
    attributes.st_uid = found.uid
    attributes.st_gid = found.gid
    attributes.st_rdev = found.rdev
    attributes.st_size = found.size
    attributes.st_blocks = found.blocks
    attributes.st_blksize = BLOCK
    # Neither is kept in a point; a time that never was would be worse than this one.
    attributes.st_atime_ns = attributes.st_ctime_ns = attributes.st_mtime_ns = found.mtime_ns
    attributes.entry_timeout = attributes.attr_timeout = FOR_EVER


def _own(inode: int, mode: int, time_ns: int, size: int = 0) -> pyfuse3.EntryAttributes:
    attributes = pyfuse3.EntryAttributes()
    _fill(attributes, inode, Attributes(0, mode, 1, os.getuid(), os.getgid(), 0, size, 0, time_ns))
    attributes.entry_timeout = attributes.attr_timeout = FOR_NOW
    return attributes


def _nothing(seconds: float = FOR_EVER) -> pyfuse3.EntryAttributes:
    attributes = pyfuse3.EntryAttributes()
    attributes.st_ino = 0
    attributes.entry_timeout = seconds
    return attributes
