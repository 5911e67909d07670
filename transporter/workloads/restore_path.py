"""Follows entries in path order down and up the folders, and refuses whatever no scanner would have made."""

from __future__ import annotations

from collections.abc import Sequence

from transporter.errors import DamagedData
from transporter.workloads.entry import CONTINUATION, MAX_PATH, MORE, Entry, path_key
from transporter.workloads.folders import Folder
from transporter.workloads.layout import lay_out
from transporter.workloads.restore_names import check_name, output_names
from transporter.workloads.restored import StagedFolder
from transporter.workloads.selection import Selection


class Step:
    """A folder entry the walk is in. ``folder`` is made when something in it is wanted; ``name`` is its name there.

    ``shut``: left out with everything in it. ``there``: the folder of that name in the output, for a restore in place;
    ``names``: what lies in it and was not met yet, last first, where what the point lacks is to be removed. ``told``:
    its header is out, for a restore to a stream.
    """

    __slots__ = ("entry", "folder", "included", "name", "names", "parent", "prefix", "shut", "there", "told")

    def __init__(
        self, entry: Entry, name: bytes, included: bool, parent: Step | None = None, *, shut: bool = False
    ) -> None:
        self.entry = entry
        self.parent = parent
        self.name = name
        self.prefix = entry.path + b"/" if entry.path else b""
        self.included = included
        self.shut = shut
        self.told = False
        self.folder: StagedFolder | None = None
        self.there: Folder | None = None
        self.names: list[bytes] | None = None


class Walk:
    """Checks order and parents of entries; ``steps`` are the folders from a root down to the present one."""

    def __init__(self, roots: Sequence[bytes], selection: Selection) -> None:
        self._names = output_names(sorted(set(roots), key=path_key))
        self._selection = selection
        self._root = b""
        self.shut = False  # the entry that was entered last is left out with everything in it
        self._last: bytes | None = None
        self.single = len(self._names) == 1
        self.steps: list[Step] = []

    @property
    def step(self) -> Step | None:
        """The folder the walk is in."""
        return self.steps[-1] if self.steps else None

    def down(self, entry: Entry, name: bytes, included: bool) -> Step:
        """Go down into the folder that was entered last."""
        step = Step(entry, name, included, self.step, shut=self.shut)
        self.steps.append(step)
        return step

    def left(self, entry: Entry) -> list[Step]:
        """Check that ``entry`` comes after the one before; returns the folders it leaves, innermost first."""
        key = path_key(entry.path)
        if (self._last is not None and key <= self._last) or len(key) > MAX_PATH:
            raise DamagedData(f"The manifest is out of order at {entry.path[:200]!r}.")
        self._last = key
        steps, gone = self.steps, []
        while steps and not entry.path.startswith(steps[-1].prefix):
            gone.append(steps.pop())
        return gone

    def enter(self, entry: Entry) -> tuple[bytes, bool]:
        """Return the checked name of ``entry`` in its folder, and whether it is to be restored.

        The name is ``b""`` for a folder that is the only root: its contents go to the output itself.
        """
        path = entry.path
        if self.steps:
            parent = self.steps[-1]
            name = path[len(parent.prefix) :]
            check_name(name)
            return name, self._wanted(path, parent)
        root_name = self._names.get(path)
        if root_name is None:
            raise DamagedData(f"The manifest holds {path[:200]!r} without the folder it is in.")
        self._root = path
        name = b"" if self.single and entry.kind == "d" else root_name
        return name, self._wanted(path, None)

    def excluded(self, path: bytes) -> bool:
        """Return whether what lies at ``path`` below the present root is left out, were it in the point."""
        return self._selection.excludes(path, self._root)

    def _wanted(self, path: bytes, parent: Step | None) -> bool:
        if self._selection.whole:
            return True
        self.shut = (parent is not None and parent.shut) or self._selection.excludes(path, self._root)
        above = parent is not None and parent.included
        return not self.shut and self._selection.takes(path, self._root, above=above)


class DryWalk:
    """Takes the entries of a manifest as a restore would, writes nothing, and refuses what a restore refuses.

    Hard links are not followed: that a restore does with one line of memory for each.
    """

    def __init__(self, roots: Sequence[bytes]) -> None:
        self._walk = Walk(roots, Selection())
        self._long: Entry | None = None
        self._position = 0  # in the file whose records come

    def take(self, entry: Entry) -> None:
        """Take the next entry. Raises ``DamagedData``."""
        before = self._long
        if entry.flags & CONTINUATION or before is not None:
            if before is None or not entry.flags & CONTINUATION or entry.path != before.path:
                raise DamagedData(f"The manifest breaks off within an entry near {entry.path[:200]!r}.")
        else:
            self._position = 0
            self._walk.left(entry)
            name, included = self._walk.enter(entry)
            if entry.kind == "d":
                self._walk.down(entry, name, included)
            if entry.flags & MORE and entry.kind != "f":
                raise DamagedData(f"The manifest continues {entry.path[:200]!r}, which is no file.")
        if entry.kind == "f" and not entry.link:
            _, self._position = lay_out(entry, self._position)
        self._long = entry if entry.flags & MORE else None

    def finish(self) -> None:
        """Say that there are no more. Raises ``DamagedData`` where the manifest ends within a file."""
        if self._long is not None:
            raise DamagedData("The manifest ends within a file.")
