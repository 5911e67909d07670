"""What `stat` says of an entry of a tree: as a restore on this machine would make it."""

from __future__ import annotations

import stat
from typing import NamedTuple

from transporter.workloads.entry import MORE, Entry
from transporter.workloads.owners import OwnerIds
from transporter.workloads.tree_index import TreeIndex

TYPES = {
    "f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "p": stat.S_IFIFO, "c": stat.S_IFCHR, "b": stat.S_IFBLK
}  # fmt: skip
SECTOR = 512
"""Bytes of what `st_blocks` counts."""
FOLDER_SIZE = 4096
"""Bytes that a folder says it has; every file system says something else."""


class Attributes(NamedTuple):
    """``number``: of the first name of a hard-linked file; times in ns since 1970, sizes in bytes, blocks of 512."""

    number: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    mtime_ns: int


class AttributeReader:
    """Looks attributes up. Owners are those that their names have on this machine, else the ids as they were."""

    def __init__(self) -> None:
        self._owners = OwnerIds()

    def read(self, tree: TreeIndex, number: int) -> Attributes:
        """Return the attributes of an entry."""
        number = tree.first_name(number)
        return self.of_first(tree, number, tree.entry(number))

    def of_first(self, tree: TreeIndex, number: int, entry: Entry) -> Attributes:
        """Return the attributes of an entry that is at hand; not of a further name of a hard-linked file."""
        kind = entry.kind
        if kind == "d":
            nlink, size, blocks = 2 + tree.folders_in(number), FOLDER_SIZE, 0
        else:
            nlink, size = tree.names_of(number) if entry.nlink > 1 else 1, entry.size
            # Holes occupy nothing: whoever copies a file looks at this to see whether it has any.
            data = size - tree.hole_bytes(number, entry) if entry.packed_holes or entry.flags & MORE else size
            blocks = -(-data // SECTOR) if kind == "f" else 0
        owners = self._owners
        return Attributes(
            number,
            TYPES[kind] | entry.mode,
            nlink,
            owners.uid(entry.user, entry.uid),
            owners.gid(entry.group, entry.gid),
            entry.rdev,
            size,
            max(blocks, 0),
            entry.mtime_ns,
        )
