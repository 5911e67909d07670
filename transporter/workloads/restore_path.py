"""Follows entries in path order down and up the folders, and refuses whatever no scanner would have made."""

from __future__ import annotations

from collections.abc import Sequence

from transporter.errors import DamagedData
from transporter.workloads.entry import CONTINUATION, MAX_PATH, MORE, Entry, path_key
from transporter.workloads.layout import lay_out
from transporter.workloads.patterns import Patterns
from transporter.workloads.restore_names import check_name, output_names
from transporter.workloads.restored import StagedFolder


class Step:
    """A folder entry the walk is in. ``folder`` is made when something in it is wanted; ``name`` is its name there."""

    __slots__ = ("entry", "folder", "included", "name", "prefix")

    def __init__(self, entry: Entry, name: bytes, included: bool) -> None:
        self.entry = entry
        self.name = name
        self.prefix = entry.path + b"/" if entry.path else b""
        self.included = included
        self.folder: StagedFolder | None = None


class Walk:
    """Checks order and parents of entries; ``steps`` are the folders from a root down to the present one."""

    def __init__(self, roots: Sequence[bytes], include: Sequence[str | bytes]) -> None:
        self._names = output_names(sorted(set(roots), key=path_key))
        self._include = Patterns(include, stored=True)
        self._everything = not self._include
        self._root = b""
        self._last: bytes | None = None
        self.single = len(self._names) == 1
        self.steps: list[Step] = []

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
            return name, parent.included or self._wanted(path)
        root_name = self._names.get(path)
        if root_name is None:
            raise DamagedData(f"The manifest holds {path[:200]!r} without the folder it is in.")
        self._root = path
        name = b"" if self.single and entry.kind == "d" else root_name
        return name, self._wanted(path)

    def _wanted(self, path: bytes) -> bool:
        return self._everything or self._include.match(path, self._root)


class DryWalk:
    """Takes the entries of a manifest as a restore would, writes nothing, and refuses what a restore refuses.

    Hard links are not followed: that a restore does with one line of memory for each.
    """

    def __init__(self, roots: Sequence[bytes]) -> None:
        self._walk = Walk(roots, ())
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
                self._walk.steps.append(Step(entry, name, included))
            if entry.flags & MORE and entry.kind != "f":
                raise DamagedData(f"The manifest continues {entry.path[:200]!r}, which is no file.")
        if entry.kind == "f" and not entry.link:
            _, self._position = lay_out(entry, self._position)
        self._long = entry if entry.flags & MORE else None

    def finish(self) -> None:
        """Say that there are no more. Raises ``DamagedData`` where the manifest ends within a file."""
        if self._long is not None:
            raise DamagedData("The manifest ends within a file.")
