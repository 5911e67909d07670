"""kill -9 of an export and of an import at every step that touches a file.

Each child of this process installs an audit hook that counts what Python does to files (open, mkdir, rename, link, …)
and kills itself, with SIGKILL, before the n-th. The promises, after each kill:

- export: there is no file under the bundle's name, or a whole one; nothing beside it but what is sealed;
- import: there is no home under its name, or a whole one; with ``replace`` the old home is there, whole, under its name
  or under a dated one; the next import succeeds and leaves nothing of the one that was killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transporter.bundle.export import export_bundle
from transporter.bundle.importing import import_bundle
from transporter.bundle.reading import open_bundle
from transporter.clock import SystemClock
from transporter.errors import DamagedData
from transporter.home import Home
from transporter.keys.database import KeyDatabase
from transporter.keys.password import KdfParameters

CHEAP = KdfParameters(8, 1, 1)
PASSWORD = b"the password of the bundle"
STEPS = ("open", "os.", "shutil.", "sqlite3.connect")


def dies_at(number: int, deed: Callable[[], object]) -> bool:
    """Run ``deed`` in a child that is killed at its n-th step; return whether it got so far."""
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, _arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event.startswith(STEPS):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            deed()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(3)
        os._exit(0)
    _pid, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if status:
        raise RuntimeError(f"the deed failed by itself: {status}")
    return False


def whole_home(path: Path) -> bool:
    """Whether the home at ``path`` opens, with its trail ending where it should; it was imported, or has the mark."""
    home = Home.open(path)
    with KeyDatabase(home.keys_db) as keys:
        keys.user_key("office")
        *_, last = keys.audit.entries()
        imported = last["event"] == "config.import" or (path / "mark").exists()
        return keys.audit.verify(keys.audit_head()) == keys.audit_head().number and imported


def export(home: Path, to: Path) -> None:
    export_bundle(Home.open(home), to, PASSWORD, with_keysets=False, clock=SystemClock(), parameters=CHEAP)


def take_in(bundle: Path, home: Path, *, replace: bool) -> None:
    with open_bundle(bundle) as file:
        import_bundle(file.unlock(PASSWORD), home, replace=replace, clock=SystemClock())


def campaign_export(home: Path, folder: Path, step: int) -> tuple[int, list[str]]:
    """Kill an export at every ``step``-th step; return how many kills, and what was broken."""
    number, broken = 1, []
    (home / "mark").touch()  # tells the old home from one that was imported
    secret = (home / "master.key").read_bytes().split()[1]
    while True:
        folder.mkdir()
        killed = dies_at(number, partial(export, home, folder / "b"))
        for path in folder.iterdir():
            if path.name == "b":
                with open_bundle(path) as file:
                    file.unlock(PASSWORD).prove()
            elif not path.name.endswith(".part"):
                broken.append(f"step {number}: {path.name}")
            data = path.read_bytes()
            if any(word in data for word in (bytes.fromhex(secret.decode()), secret, b"SQLite")):
                broken.append(f"step {number}: in clear in {path.name}")
        if not killed and not (folder / "b").exists():
            broken.append("it was not killed, and there is no bundle")
        if not whole_home(home):
            broken.append(f"step {number}: the home")
        shutil.rmtree(folder)
        if not killed:
            return number, broken
        number += step


def campaign_import(bundle: Path, folder: Path, old: Path | None, step: int) -> tuple[int, list[str]]:
    """Kill an import at every ``step``-th step, over a copy of the home ``old`` (with the mark) where there is one."""
    number, broken = 1, []
    while True:
        folder.mkdir()
        home = folder / "A"
        if old is not None:
            shutil.copytree(old, home)
        killed = dies_at(number, partial(take_in, bundle, home, replace=old is not None))
        try:
            if home.exists() and not whole_home(home):
                broken.append(f"step {number}: half a home")
            marks = [path for path in folder.glob("*/mark") if whole_home(path.parent)]
            if old is not None and len(marks) != 1:
                broken.append(f"step {number}: the old home is gone")
            if not (home / "config.toml").exists() or (home / "mark").exists():
                take_in(bundle, home, replace=old is not None)
            if not whole_home(home) or (home / "mark").exists():
                broken.append(f"step {number}: not the new home after all")
        except DamagedData as error:
            broken.append(f"step {number}: {error}")
        if [path for path in folder.iterdir() if ".import-" in path.name and path.is_dir()] and not killed:
            broken.append(f"step {number}: a staging folder was left")
        left = {path.name for path in folder.iterdir()} - {"A"}
        if any(".import-" in name for name in left):
            # Killed after the home got its name: only then nobody came to remove anything.
            broken.append(f"step {number}: {left}")
        shutil.rmtree(folder)
        if not killed:
            return number, broken
        number += step


def main(work: Path, step: int) -> None:
    """Do all three, at every ``step``-th step; print a line of JSON for each.

    In a process of its own, which forks: it has one thread, and no hook stays behind in another one's.
    """
    sys.path.insert(0, str(Path(__file__).parents[1] / "bundle"))
    from bundle_world import Node

    node = Node(work / "node")
    node.export(work / "bundle")
    for command, campaign in (
        ("config export", partial(campaign_export, node.home.path, work / "export", step)),
        ("config import", partial(campaign_import, work / "bundle", work / "import", None, step)),
        ("config import --replace", partial(campaign_import, work / "bundle", work / "replace", node.home.path, step)),
    ):
        number, broken = campaign()
        # The last one was not killed.
        print(json.dumps({"command": command, "killed": (number - 1) // step, "failed": broken}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
