"""The staging folder of a restore: made inside the output, private, locked while in use, removed on failure.

Its name tells the point and, where a restore may be taken up again, a digest of what was asked for: only the very same
restore finds it. While things are moved out of it the name ends in ``.whole``: everything in it is, then.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

from transporter.errors import JobBusy, UsageError
from transporter.given_path import unusable
from transporter.workloads.folders import OPEN_FOLDER
from transporter.workloads.remove_tree import remove_tree

PREFIX = b".transporter-restore-"
WHOLE = b".whole"
LET_GO_SECONDS = 10.0


class Staging:
    """Makes (or checks) the output folder and makes the staging folder in it.

    Attributes: ``output_fd`` and ``fd`` (of the staging folder), ``probe`` (state of a file created there with mode
    0777), ``created`` (whether the output folder is new), ``resumed`` (whether the staging folder is that of an
    interrupted restore), ``published`` (whether that one had begun to move things out of it).

    ``order``: the digest of what was asked for, empty: nothing is taken up. ``others``: remove what others left.
    """

    def __init__(
        self,
        output: str | bytes | os.PathLike[str],
        point: str,
        *,
        overwrite: bool,
        order: str = "",
        others: bool = True,
    ) -> None:
        self.output = os.path.abspath(os.fsencode(output))
        self.name = staging_name(point, order)
        self.fd = -1
        self.resumed = self.published = False
        # The output's state before and after the staging folder was made, and its time before that was removed.
        self._before: os.stat_result | None = None
        self._after: os.stat_result | None = None
        self._mtime = 0
        self._open_output()
        try:
            if order:
                self._take_up()
            self._check_output(overwrite or self.published, others)
            self._before = os.fstat(self.output_fd)
            if not os.fstat(self.output_fd).st_nlink:
                # Whoever was waited for had made this folder, and took it away with what was in it.
                os.close(self.output_fd)
                self._open_output()
            if not self.resumed:
                self._make()
            self._prepare()
            self._after = os.fstat(self.output_fd)
        except BaseException:
            self.remove()
            raise

    def _open_output(self) -> None:
        self.output_fd = -1
        self._made = _make_folders(self.output)
        self.created = bool(self._made)
        try:
            self.output_fd = os.open(self.output, OPEN_FOLDER & ~os.O_NOFOLLOW)
        except OSError as error:
            raise UsageError(f"{os.fsdecode(self.output)!r} cannot be used: {error.strerror}.") from error

    def clear(self) -> None:
        """Remove the staging folder with all that is in it."""
        if self.fd >= 0:
            self._mtime = os.fstat(self.output_fd).st_mtime_ns
            with suppress(OSError):
                remove_tree(self.output_fd, self.name)
            os.close(self.fd)
            self.fd = -1

    def remove(self) -> None:
        """Remove the staging folder, and the output folder too if we made it and it is empty."""
        if self.output_fd < 0:
            return
        self.clear()
        self._mend_time()
        os.close(self.output_fd)
        self.output_fd = -1
        with suppress(OSError):
            for path in self._made:
                os.rmdir(path)

    def _mend_time(self) -> None:
        """Let the output look as if nothing had been made in it, unless something else was, too."""
        before, after, self._before = self._before, self._after, None
        if before is None or after is None or self._mtime != after.st_mtime_ns:
            return
        with suppress(OSError):
            os.utime(self.output_fd, ns=(before.st_atime_ns, before.st_mtime_ns))

    def keep(self) -> None:
        """Leave everything for the next restore of the same kind."""
        for fd in (self.fd, self.output_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.output_fd = -1

    @property
    def publishing(self) -> bool:
        """Whether things are being moved out of it."""
        return self.name.endswith(WHOLE)

    def whole(self) -> None:
        """Say that everything in it is whole, and is going to be moved out. Raises ``OSError``."""
        os.rename(self.name, self.name + WHOLE, src_dir_fd=self.output_fd, dst_dir_fd=self.output_fd)
        self.name += WHOLE
        os.fsync(self.output_fd)

    def close(self) -> None:
        """Remove the staging folder and keep the output."""
        self._before = None
        self._made = []
        self.remove()

    def _take_up(self) -> None:
        """Take up the folder of an interrupted restore of the same kind, if there is one."""
        for name in (self.name, self.name + WHOLE):
            if not _is_ours(self.output_fd, name):
                continue
            self.fd = os.open(name, OPEN_FOLDER, dir_fd=self.output_fd)
            if not _locked(self.fd):
                os.close(self.fd)
                self.fd = -1
                raise JobBusy("Another restore is writing to this folder.", "Wait for it, or restore elsewhere.")
            if not os.fstat(self.fd).st_nlink:  # whoever was waited for has removed it
                os.close(self.fd)
                self.fd = -1
                continue
            self.resumed, self.published = True, name != self.name
            if self.published:
                os.rename(name, self.name, src_dir_fd=self.output_fd, dst_dir_fd=self.output_fd)
            return

    def _check_output(self, overwrite: bool, others: bool) -> None:
        names = os.listdir(self.output_fd)
        shown = os.fsdecode(self.output)
        if not overwrite and any(not os.fsencode(name).startswith(PREFIX) for name in names):
            raise UsageError(f"{shown!r} is not empty.", "Restore to an empty folder, or give --overwrite.")
        for name in map(os.fsencode, names):
            if name.startswith(PREFIX) and others and not (self.resumed and name == self.name):
                _remove_leftover(self.output_fd, name)

    def _make(self) -> None:
        try:
            os.mkdir(self.name, 0o700, dir_fd=self.output_fd)
            self.fd = os.open(self.name, OPEN_FOLDER, dir_fd=self.output_fd)
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise unusable(Path(os.fsdecode(self.output)), error) from error

    def _prepare(self) -> None:
        try:
            for attribute in ("system.posix_acl_default", "system.posix_acl_access"):
                with suppress(OSError):
                    os.removexattr(self.fd, attribute)  # else everything restored would inherit the output's ACL
            os.fchmod(self.fd, 0o700)
            probe = scratch_name(self.fd, b"probe")
            file = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777, dir_fd=self.fd)
            self.probe = os.fstat(file)
            os.close(file)
            os.unlink(probe, dir_fd=self.fd)
        except OSError as error:
            raise unusable(Path(os.fsdecode(self.output)), error) from error


def scratch_name(folder_fd: int, what: bytes) -> bytes:
    """Return a name that nothing in a folder has: an interrupted restore may have left things there."""
    names = (b".transporter-%s-%d" % (what, number) for number in count())
    return next(name for name in names if not _exists(folder_fd, name))


def _exists(folder_fd: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove_leftover(output: str | bytes | os.PathLike[str], point: str, order: str = "") -> None:
    """Remove the staging folder that a writer which was killed has left, if there is one and nobody works in it."""
    try:
        output_fd = os.open(os.path.abspath(os.fsencode(output)), OPEN_FOLDER & ~os.O_NOFOLLOW)
    except OSError:
        return
    try:
        _remove_leftover(output_fd, staging_name(point, order))
    except (OSError, JobBusy, UsageError):
        pass  # the next restore to this folder removes it, or says why it cannot
    finally:
        os.close(output_fd)


def staging_name(point: str, order: str) -> bytes:
    """Return the name of a staging folder."""
    name = f"{point}-{order}" if order else point
    return PREFIX + os.fsencode(name).replace(b"/", b"_")


def _is_ours(output_fd: int, name: bytes) -> bool:
    try:
        state = os.stat(name, dir_fd=output_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid()


def _remove_leftover(output_fd: int, name: bytes) -> None:
    """Remove the staging folder of a restore that was killed; refuse when its lock shows that it is alive."""
    state = os.stat(name, dir_fd=output_fd, follow_symlinks=False)
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        raise UsageError(f"{os.fsdecode(name)!r} in the output folder is not ours.", "Remove it, then try again.")
    fd = os.open(name, OPEN_FOLDER, dir_fd=output_fd)
    try:
        if not _locked(fd):
            raise JobBusy("Another restore is writing to this folder.", "Wait for it, or restore elsewhere.")
        with suppress(FileNotFoundError):  # the writer that held the lock has removed it itself
            remove_tree(output_fd, name)
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    """Lock a staging folder; False when somebody keeps it. A writer whose daemon was killed needs a while to let go."""
    until = time.monotonic() + LET_GO_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        else:
            return True


def _make_folders(path: bytes) -> list[bytes]:
    """Make a folder and its missing parents; returns those that were made, innermost first."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    made: list[bytes] = []
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
        except OSError as error:
            with suppress(OSError):
                for done in made:
                    os.rmdir(done)
            raise UsageError(f"{os.fsdecode(folder)!r} cannot be made: {error.strerror}.") from error
        made.insert(0, folder)
    return made
