"""Where an import is put together: a folder beside the home, given the home's name at once when everything is proved.

    .NAME.import-<random>     mode 0700, locked (flock) by whoever imports; an import that was killed leaves it, and the
                              next one of the same home removes it
    NAME.<UTC time>           with `--replace`: the home that was there, whole; nobody ever removes it

Steps, and what a kill after each of them leaves:

    1  folder made            nothing at NAME (or what was there)
    2  members written, proved, changed, synced
    3  old home renamed       nothing at NAME; the old home under its dated name (only with `--replace`)
    4  folder renamed         the whole home
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from transporter.clock import Clock
from transporter.errors import ConfigError, DiskFull, JobBusy, JobFailed, UsageError
from transporter.given_path import check_new_folder
from transporter.home import Home
from transporter.keys.private_file import sync_folder


def check_place(home: Path, *, replace: bool) -> bool:
    """Tell whether there is a home to be put aside at ``home``; it may also be empty, or not be there.

    Raises ConfigError for a home where ``replace`` does not allow one, and for anything else.
    """
    try:
        check_new_folder(home.parent)
    except UsageError as error:  # of the place of a home, as `init` says it
        raise ConfigError(error.what, "name another folder with --home") from None
    try:
        if not os.path.lexists(home) or not any(home.iterdir()):
            return False
    except OSError as error:
        raise ConfigError(f"{home} cannot be used: {error.strerror}", "name another folder with --home") from None
    if not any(path.exists() for path in (Home(home).config_path, Home(home).identity_key)):
        raise ConfigError(f"{home} is not empty, and is no home", "name an empty or new folder with --home")
    if not replace:
        raise ConfigError(
            f"{home} is a home already", "name another folder with --home, or put this one aside: --replace"
        )
    return True


@contextmanager
def nobody_at_work(home: Home) -> Iterator[None]:
    """Hold every lock of a home. Raises JobBusy while its daemon, a job or a password's change runs."""
    with ExitStack() as stack:
        for path in (home.daemon_lock, home.rewrap_lock, *sorted(home.locks.glob("job-*.lock"))):
            try:
                handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # it never ran
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                who = "a daemon of" if path == home.daemon_lock else "a job in"
                raise JobBusy(f"{who} this home is running", "stop it first; `transporter status` shows it") from None
        yield


@contextmanager
def staging_folder(home: Path, clock: Clock) -> Iterator[Path]:
    """Yield a new folder beside ``home``; if the body does not rename it, it is removed.

    Raises ConfigError, DiskFull, JobFailed.
    """
    folder = home.with_name(f".{home.name}.import-{clock.random_bytes(8).hex()}")
    with _disk_errors(home):
        home.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(home)
        folder.mkdir(mode=0o700)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _disk_errors(home):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def publish(folder: Path, home: Path, *, aside: bool, clock: Clock) -> Path | None:
    """Give ``folder`` the name ``home``; ``aside``: what is there gets a dated one first, which is returned.

    Raises ConfigError, JobFailed; what was there is then there again.
    """
    with _disk_errors(home):
        old = _dated(home, clock) if aside else None
        if old is not None:
            home.rename(old)
            sync_folder(home.parent)
        try:
            # Over an empty folder, or over nothing: rename(2) refuses anything else.
            folder.rename(home)
        except OSError:
            if old is not None:
                old.rename(home)
            raise
        sync_folder(home.parent)
    return old


def sync_tree(folder: Path) -> None:
    """Have everything in a flat folder on the disk, and the names."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(folder)


def _remove_abandoned(home: Path) -> None:
    """Remove what imports that were killed have left: it holds keys. One that goes on holds its lock, and is left."""
    for path in home.parent.glob(f".{_literal(home.name)}.import-*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def _literal(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def _dated(home: Path, clock: Clock) -> Path:
    stamp = datetime.fromtimestamp(clock.now_ns() / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")
    number, path = 1, home.with_name(f"{home.name}.{stamp}")
    while os.path.lexists(path):
        number += 1
        path = home.with_name(f"{home.name}.{stamp}-{number}")
    return path


@contextmanager
def _disk_errors(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room left beside {home}", "free some room") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV, errno.EBUSY):
            raise ConfigError(
                f"{home} cannot be made out of a folder beside it: {error.strerror}",
                f"name a folder below one that you may write to, and no mount point (here {home.parent} counts)",
            ) from None
        raise JobFailed(f"{home} cannot be made: {error.strerror}", "look at the disk and its rights") from None
