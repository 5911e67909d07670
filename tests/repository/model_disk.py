"""A disk that can be killed, and lose power, at any step of a repository: for the model-based test.

Every step of `transporter.repository.files` and every transaction of the index is counted. A kill leaves what was done.
A power cut also takes back, folder by folder, the names that were not synced, and the bytes that no fsync covered.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.repository.test_faults import STEPS, Killed
from transporter.repository import files, removal
from transporter.repository.connections import Connections


@dataclass(frozen=True)
class Cut:
    """Where a deed is cut short: ``at`` of its way, 0 to 999 thousandths of the steps that it may have.

    ``power``: a seed of what the disk forgets, None: a kill. ``again``: likewise, once the next process has put all in
    order. ``opening``: the first one that opens is killed itself, before that step.
    """

    at: int = 0
    power: int | None = None
    again: int | None = None
    opening: int | None = None


@dataclass
class Change:
    """A name in a folder that a power cut may take back, and how."""

    folder: Path
    undo: Callable[[], None]
    kept: list[Path] = field(default_factory=list)


class Disk:
    """Stands between the repositories below ``root`` and the real files, as long as ``patch`` lasts."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self.root = root
        self.attic = root / "attic"
        self.attic.mkdir()
        self.left: int | None = None
        self.deaths: dict[str, int] = {}
        self.changes: list[Change] = []
        # Of each file that was made: what of it is on the disk for sure.
        self.synced: dict[int, bytes] = {}
        self._kept = 0
        for name in STEPS:
            patch.setattr(files, name, self._wrap(name, getattr(files, name)))
        # Of many small files, one flush of the whole file system: it syncs what they hold, and their names.
        patch.setattr(removal, "sync_all", self._wrap("sync_all", removal.sync_all))
        patch.setattr(Connections, "transaction", self._transaction(Connections.transaction))

    # -- steps ------------------------------------------------------------------------------------------------------

    def arm(self, steps: int | None) -> None:
        """Die after so many steps more; None: live."""
        self.left = steps

    def _step(self, name: str, args: tuple[Any, ...]) -> None:
        if self.left is None:
            return
        if self.left == 0:
            self.deaths[name] = self.deaths.get(name, 0) + 1
            if name == "write":
                whole = b"".join(args[1:])
                os.write(args[0], whole[: len(whole) // 2])
        if self.left <= 0:
            self.left = -1
            raise Killed  # whatever else the dead process would do
        self.left -= 1

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **how: Any) -> Any:
            self._step(name, args)
            note = getattr(self, f"_{name}", None)
            change = note(*args) if note is not None else None
            result = real(*args, **how)
            if change is not None:
                self.changes += change
            self._after(name, args, result)
            return result

        return step

    def _transaction(self, real: Callable[[Connections], Any]) -> Callable[[Connections], Any]:
        @contextmanager
        def transaction(connections: Connections) -> Iterator[object]:
            self._step("begin", ())
            with real(connections) as connection:
                yield connection
            self._step("commit", ())

        return transaction

    # -- what a power cut would take back ---------------------------------------------------------------------------

    def _keep(self, path: Path) -> Path:
        """Give a file a name that nobody takes away."""
        self._kept += 1
        kept = self.attic / str(self._kept)
        os.link(path, kept)
        return kept

    def _link(self, _source: files.StrPath, target: files.StrPath) -> list[Change]:
        return self._added(Path(target))

    def _create(self, path: files.StrPath, *_flags: int) -> list[Change]:
        return self._added(Path(path))

    @staticmethod
    def _added(path: Path) -> list[Change]:
        # Where the name is there already the step fails, and nothing is noted.
        return [Change(path.parent, lambda: path.unlink(missing_ok=True))]

    def _unlink(self, path: files.StrPath) -> list[Change]:
        path = Path(path)
        if not path.exists():
            return []
        kept = self._keep(path)

        def undo() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                os.link(kept, path)

        return [Change(path.parent, undo, [kept])]

    def _replace(self, source: files.StrPath, target: files.StrPath) -> list[Change]:
        source, target = Path(source), Path(target)
        if not source.exists():
            return []
        if target.exists():
            before = self._keep(target)

            def old_again() -> None:
                target.unlink(missing_ok=True)
                os.link(before, target)

            added = [Change(target.parent, old_again, [before])]
        else:
            added = self._added(target)
        return self._unlink(source) + added

    def _after(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        if name == "create":
            self.synced[os.fstat(result).st_ino] = b""
        elif name in ("sync", "sync_data"):
            self.synced[os.fstat(args[0]).st_ino] = Path(f"/proc/self/fd/{args[0]}").read_bytes()
        elif name == "sync_folder":
            self._forget(lambda change: change.folder == Path(args[0]) or not change.folder.exists())
        elif name == "sync_all":
            self._forget(lambda _change: True)
            self.synced.clear()

    def _forget(self, which: Callable[[Change], bool]) -> None:
        for change in self.changes:
            if which(change):
                for kept in change.kept:
                    kept.unlink()
        self.changes = [change for change in self.changes if not which(change)]

    def lose_power(self, place: Path, seed: int) -> None:
        """Take back what was not synced below ``place``: of some folders all, of others nothing. (0: of all.)"""
        dice = random.Random(seed)
        mine = [change for change in self.changes if change.folder.is_relative_to(place)]
        for folder in sorted({change.folder for change in mine}):
            if seed and dice.random() < 0.5:
                continue
            for change in reversed(mine):
                if change.folder == folder:
                    change.undo()
        for path in place.rglob("*"):
            if path.is_file() and not path.is_symlink():
                synced = self.synced.get(path.stat().st_ino)
                if synced is not None and synced != path.read_bytes():
                    path.write_bytes(synced)
        self.settle(place)

    def settle(self, place: Path) -> None:
        """Count everything below ``place`` as synced: the machine that lost power starts anew from what is there."""
        self._forget(lambda change: change.folder.is_relative_to(place))
