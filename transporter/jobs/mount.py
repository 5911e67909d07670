"""Mount a point, or all points of a job, for as long as somebody wants to look into them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from pipeline.run import open_tasks
from transporter.errors import ConfigError, JobFailed, UsageError
from transporter.events import Mounted, Note
from transporter.jobs.context import JobContext
from transporter.jobs.mount_branches import AllPoints, Branches
from transporter.jobs.mount_read_ahead import raise_read_ahead
from transporter.jobs.point_order import PointOrder, list_rows
from transporter.jobs.points import DAMAGED, PointRow

if TYPE_CHECKING:
    from transporter.jobs.mount_operations import PointOperations

TASKS_AT_MOST = 32
"""Requests of the kernel that are answered at once. Each holds a buffer of some 1 MiB, and waits where a chunk has to
be fetched; others, whose answers are at hand, must not wait behind it."""


@dataclass(frozen=True)
class MountOrder:
    """``where``: the point; with ``every`` all points of the job. ``allow_other``: to users other than this one."""

    where: PointOrder
    mountpoint: str
    every: bool = False
    allow_other: bool = False


def check_fuse() -> None:
    """Raise ConfigError where this installation cannot mount."""
    try:
        import pyfuse3  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"mount needs pyfuse3, which is not installed ({error})",
            "on Debian: apt-get install fuse3 libfuse3-dev pkg-config gcc python3-dev; then: pip install "
            "'transporter-pair[mount]'",
        ) from None
    if not Path("/dev/fuse").exists():
        raise ConfigError("this machine has no /dev/fuse", "load the module: modprobe fuse; in a container pass it in")


def check_mountpoint(path: str) -> None:
    """Raise UsageError for a place where nothing can be mounted, or where something would be hidden."""
    try:
        state = os.stat(path)
        if not stat.S_ISDIR(state.st_mode):
            raise UsageError(f"{path} is not a folder", "name an empty folder")
        if os.listdir(path):
            raise UsageError(f"{path} is not empty", "name an empty folder")
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise UsageError(f"{path} is a mount whose process has gone", f"fusermount3 -u {path}") from None
        raise UsageError(f"{path}: {error.strerror}", "name an empty folder") from None


async def run_mount(context: JobContext, order: MountOrder) -> None:
    """Mount, and serve until cancelled, or until somebody unmounts. Raises what opening raises, JobFailed."""
    check_fuse()
    check_mountpoint(order.mountpoint)
    async with open_tasks() as nursery:
        branches = Branches(context, order.where, nursery)
        every: AllPoints | None = None
        if order.every:
            every = AllPoints(context, order.where, branches, _rows_of(context, order.where), nursery)
            await every.refresh()
        else:
            branch = branches.add(order.where, alone=True)
            await branches.tree(branch, patient=True)
        await _serve(context, order, branches, every)
        nursery.cancel_scope.cancel()


def _rows_of(context: JobContext, order: PointOrder) -> Callable[[], Awaitable[list[PointRow]]]:
    async def rows() -> list[PointRow]:
        found, zone = await list_rows(context, order)
        fitting = [row for row in found if row.kind != DAMAGED and zone in ("", row.zone)]
        if len(fitting) < len(found):
            text = f"{len(found) - len(fitting)} restore points are damaged or of another zone, and are not shown"
            context.bus.publish(Note(text=text, job=order.job))
        return fitting

    return rows


async def _serve(context: JobContext, order: MountOrder, branches: Branches, every: AllPoints | None) -> None:
    import pyfuse3

    from transporter.jobs.mount_operations import PointOperations

    read_ahead = partial(raise_read_ahead, os.fsencode(order.mountpoint))
    operations = PointOperations(branches, every, context.clock.now_ns(), read_ahead)
    _mount(pyfuse3.init, operations, order)
    try:
        job = order.where.job
        point = branches.branch(0)
        shown = point.point.point_id.hex() if point is not None else ""
        context.bus.publish(Mounted(job=job, mountpoint=order.mountpoint, point=shown))
        await pyfuse3.main(max_tasks=TASKS_AT_MOST)
    finally:
        # Lazily: what programs still have open ends for them, and nothing stays mounted.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(pyfuse3.close, unmount=True))


def _mount(init: Callable[..., None], operations: PointOperations, order: MountOrder) -> None:
    # Read-only; and what a point holds of setuid files and devices is shown, but gives nobody any right.
    options = {"auto_unmount", "fsname=transporter", "subtype=transporter", "ro", "nosuid", "nodev"}
    if order.allow_other:
        options |= {"allow_other", "default_permissions"}
    try:
        with _socket_below_device():
            init(operations, order.mountpoint, options)
    except RuntimeError as error:
        raise JobFailed(
            f"nothing could be mounted at {order.mountpoint}: {error}",
            "is fuse3 installed (fusermount3), and may this user use /dev/fuse? --allow-other needs user_allow_other "
            "in /etc/fuse.conf",
        ) from error


@contextmanager
def _socket_below_device() -> Iterator[None]:
    """Give what ``auto_unmount`` watches a lower number than /dev/fuse has, which is opened in this context.

    A program of libfuse's holds the other end of that socket, and unmounts once it is closed, if it finds that nobody
    serves the mount any more. Of a process that is killed Linux lets go of descriptors from the highest number down:
    the socket before the device, now and then so long before that the mount seems to be served, and stays for ever.
    """
    low = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    before = _descriptors()
    try:
        yield
        sockets = [fd for fd, what in _descriptors() - before if what.startswith("socket:") and fd > low]
        # More than one: a thread has opened another meanwhile, and nobody knows which is whose.
        if len(sockets) == 1:
            os.dup2(sockets[0], low, inheritable=False)
            low = sockets[0]
    finally:
        os.close(low)


def _descriptors() -> set[tuple[int, str]]:
    """Return the descriptors of this process, and what each is of."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one of this very folder
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return found
