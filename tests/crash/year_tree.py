"""A tree that changes from day to day as people's files do, and copies of what it was."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

FOLDERS, FILES = 12, 220
LARGE = 3 << 20


class ChangingTree:
    """``path`` holds files; `change` makes another day of them."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        self.path = path
        self._chance = chance
        for number in range(FOLDERS):
            (path / f"folder-{number:02d}").mkdir(parents=True)
        for number in range(FILES):
            self._write(f"file-{number:04d}")
        (path / "large").write_bytes(chance.randbytes(LARGE))
        (path / "link").symlink_to("large")

    def _place(self, name: str) -> Path:
        return self.path / f"folder-{hash_of(name) % FOLDERS:02d}" / name

    def _write(self, name: str) -> None:
        size = self._chance.choice((0, 10, 300, 4_000, 4_000, 30_000))
        self._place(name).write_bytes(self._chance.randbytes(size))

    def change(self) -> None:
        """Rewrite, add, remove, rename and touch a few; now and then a part of the large one."""
        chance = self._chance
        files = sorted(path for path in self.path.glob("folder-*/*") if path.is_file())
        for path in chance.sample(files, 6):
            path.write_bytes(chance.randbytes(chance.randrange(20_000)))
        for path in chance.sample(files, 2):
            path.unlink(missing_ok=True)
        for path in chance.sample(files, 2):
            if path.exists():
                path.rename(path.with_name(f"{path.name}-m"[-40:]))
        for _ in range(3):
            self._write(f"new-{chance.randrange(10**9)}")
        for path in chance.sample(files, 2):
            if path.exists():
                path.chmod(chance.choice((0o600, 0o644, 0o750)))
        if chance.random() < 0.2:
            with (self.path / "large").open("r+b") as file:
                file.seek(chance.randrange(LARGE - 5_000))
                file.write(chance.randbytes(5_000))

    def copy_to(self, place: Path) -> None:
        """Keep what the tree is now, with all metadata."""
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run(["cp", "-a", os.fspath(self.path), os.fspath(place)], check=True)


def hash_of(name: str) -> int:
    """Return a number that is the same in every run, unlike `hash`."""
    return sum(byte * (place + 1) for place, byte in enumerate(name.encode()))
