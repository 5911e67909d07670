"""Slots: the ways to open each restore point, one small file each.

    slots/<point id>/<slot id>               in use
    slots/<point id>/<slot id>.<until>       replaced; kept until then (ns since 1970, our clock), for who was robbed

Here a point id is what `Layout.belongings` says, which is another one where two points have one id.

A tenant may replace slots, since passwords change; but whoever steals a tenant's identity must not be able to destroy
points by it. So a replaced slot is kept for a while, and a point never loses the last slot that it has in use.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from transporter.clock import Clock
from transporter.errors import DamagedData, UsageError
from transporter.file_system_sync import sync_all
from transporter.repository import files, limits, points
from transporter.repository.errors import PointExists
from transporter.repository.features import add_feature
from transporter.repository.files import StrPath
from transporter.repository.format_file import OWN_NAMES
from transporter.repository.layout import ID_NAME, Layout, own_name

_REPLACED: Final = re.compile(r"([0-9a-f]{32})\.([0-9]{1,19})")
# A slot that is replaced between the look into its folder and the look at it is found anew by another look.
_LOOKS: Final = 3


@dataclass(frozen=True, slots=True)
class SlotChange:
    """For one point: a slot to be stored (``slot`` empty: none), and those that it takes the place of.

    ``seen``: the names in the point's folder as the caller has just read them, for whom the folder is not read again.
    Only for an exchange, under a new id of the caller's own: then what is late by a moment can do no harm, since a slot
    is added before any goes, and never more than go.
    """

    point_id: bytes
    slot_id: bytes
    slot: bytes = field(repr=False)
    replaces: tuple[bytes, ...] = ()
    seen: tuple[str, ...] | None = None

    @property
    def is_exchange(self) -> bool:
        """Whether ``seen`` is to be believed."""
        return self.seen is not None and bool(self.slot and self.replaces)


@dataclass(frozen=True, slots=True)
class Replaced:
    """What took effect: for how many points, and until when (ns) their old slots are kept; 0: they are gone."""

    points: int
    kept_until_ns: int


class SlotStore:
    """The folder ``slots/``. Thread-safe."""

    def __init__(self, layout: Layout, clock: Clock) -> None:
        self._layout = layout
        self._clock = clock
        self._lock = threading.Lock()  # counting slots and adding one: short, as commits wait for it
        self._one_replacement = threading.Lock()

    def claim(self, tenant: str, job: str, point_id: bytes) -> bytes:
        """Return the name under which a point that is about to be committed has its slots; their folder is there then.

        Never one that was there before, but for what an earlier try of the same commit left under the point's own name.
        Raises OSError, DamagedData.
        """
        own = own_name(tenant, job, point_id)
        if not os.path.isdir(self._layout.slots_of(own)):
            if not self._layout.slots.is_dir():
                files.make_folders(self._layout.slots, self._layout.root)
            try:
                os.mkdir(self._layout.slots_of(point_id), 0o700)
            except FileExistsError:
                pass
            else:
                files.sync_folder(self._layout.slots)
                return point_id
        with self._lock:
            # First: a program that does not know own names would take them for orphans, and remove them after a day.
            add_feature(self._layout, OWN_NAMES)
        files.make_folders(Path(self._layout.slots_of(own)), self._layout.root)
        return own

    def put(self, point_id: bytes, slot_id: bytes, data: bytes) -> None:
        """Store a slot durably. The same bytes again are fine; others under the same id: PointExists."""
        if not 0 < len(data) <= limits.SLOT_LENGTH:
            raise UsageError(f"a slot has {len(data)} bytes; 1 to {limits.SLOT_LENGTH} are allowed")
        path = self._layout.slot(point_id, slot_id)
        content = points.encode_slot(point_id, slot_id, data)
        temporary = self._layout.journal / f"{self._clock.random_bytes(16).hex()}.tmp"
        with self._lock, files.disk_errors("write a slot"):
            if len(_in_use(path.parent)) >= limits.SLOTS_PER_POINT and not path.exists():
                raise _too_many(limits.SLOTS_PER_POINT)
            try:
                files.publish(temporary, path, self._layout.root, (content,))
            except FileExistsError:
                if points.read_small(path, len(content)) != content:
                    raise _differs(slot_id) from None
                files.sync_folder(path.parent)

    def of(self, point_id: bytes) -> dict[bytes, bytes]:
        """Return the sound slots of a point; DamagedData only if there are slots and none is sound."""
        return self.with_names(point_id)[0]

    def with_names(self, point_id: bytes) -> tuple[dict[bytes, bytes], tuple[str, ...]]:
        """Return the same, and the names of everything in the point's folder, for `SlotChange.seen`."""
        for _ in range(_LOOKS - 1):
            try:
                return self._of(point_id)
            except FileNotFoundError:
                continue
        with files.disk_errors("read a slot"):
            return self._of(point_id)

    def _of(self, point_id: bytes) -> tuple[dict[bytes, bytes], tuple[str, ...]]:
        found: dict[bytes, bytes] = {}
        damaged: DamagedData | None = None
        names = tuple(files.names_in(self._layout.slots_of(point_id)))
        for name in filter(ID_NAME.fullmatch, names):
            slot_id = bytes.fromhex(name)
            path = self._layout.slot_name(point_id, slot_id)
            try:
                found[slot_id] = points.decode_slot(_read(path), point_id, slot_id)
            except DamagedData as error:
                damaged = error
        if damaged is not None and not found:
            raise damaged
        return found, names

    # -- replacing ---------------------------------------------------------------------------------------------------

    def replace(
        self,
        changes: Sequence[SlotChange],
        keep_seconds: float,
        now_ns: int,
        most: int = limits.SLOTS_PER_POINT,
        needed_until: Callable[[bytes], int] = lambda _point: 0,
    ) -> Replaced:
        """Store new slots and put away those that they replace, durably.

        New ones first, and durable before any old one goes: a crash leaves points with both. The same changes may be
        made again; what is done already costs nothing. ``now_ns``: from when on they are kept; ``most``: slots in use
        that a point may have then.
        ``needed_until`` (ns): of a point; its old slots are kept at least until then: else whoever replaces them could
        make a point useless that nobody may remove.

        Raises UsageError for a change that would leave a point without a slot, or with too many (then nothing is
        done); PointExists, DiskFull, JobFailed (then some slots may be stored, and some put away: do it again).
        """
        with self._one_replacement, files.disk_errors("replace slots"):
            with self._lock:
                due = [change for change in changes if self._takes_effect(change, most)]
            if not due:
                return Replaced(0, 0)
            self._publish([change for change in due if change.slot], keep_seconds)
            until = latest = now_ns + int(keep_seconds * 1e9) if keep_seconds > 0 else 0
            for change in due:
                kept = max(until, needed_until(change.point_id)) if change.replaces else 0
                latest = max(latest, kept)
                for slot_id in change.replaces:
                    self._put_away(self._layout.slot_name(change.point_id, slot_id), kept)
            self._sync()
        return Replaced(len(due), latest)

    def _takes_effect(self, change: SlotChange, most: int) -> bool:
        """Tell whether there is anything to do. Raises UsageError for what must not be done."""
        if change.seen is not None and change.is_exchange:
            _check_exchange(change, change.seen)
            return True
        names = files.names_in(self._layout.slots_of(change.point_id))
        in_use = {name for name in names if ID_NAME.fullmatch(name)}
        kept = [match[1] for match in map(_REPLACED.fullmatch, names) if match is not None]
        gone = {slot_id.hex() for slot_id in change.replaces}
        left = in_use - gone
        if change.slot:
            new = change.slot_id.hex()
            if len(change.slot) > limits.SLOT_LENGTH:
                raise UsageError(f"a slot has at most {limits.SLOT_LENGTH} bytes")
            if new in gone or new in kept:
                raise UsageError("a slot has an id that another one has or had", "use a new slot id")
            if new in in_use and not self._is_there(change):
                raise _differs(change.slot_id)
            left.add(new)
        if not left:
            raise UsageError("a restore point must keep a slot", "store the new one with the change")
        if len(left) > most:
            raise _too_many(most)
        if len(kept) + len(in_use & gone) > limits.REPLACED_PER_POINT:
            raise _too_many_replaced()
        return bool(in_use & gone) or left != in_use - gone

    def _is_there(self, change: SlotChange) -> bool:
        content = points.encode_slot(change.point_id, change.slot_id, change.slot)
        return points.read_small(self._layout.slot(change.point_id, change.slot_id), len(content)) == content

    def _publish(self, changes: Sequence[SlotChange], keep_seconds: float) -> None:
        """As `files.publish`, for many at once: a sync of each file would cost ten times as much as all the rest."""
        temporaries: list[str] = []
        try:
            for change in changes:
                temporary = self._layout.temporary(self._clock.random_bytes(16))
                temporaries.append(temporary)
                self._write(temporary, change, alone=keep_seconds <= 0)
            if temporaries:
                self._sync()  # the contents, before any name shows them
            with self._lock:
                for change, temporary in zip(changes, list(temporaries), strict=True):
                    self._show(change, temporary)
                temporaries.clear()
            if changes:
                self._sync()  # the names, before any old one goes
        finally:
            for temporary in temporaries:
                files.discard(temporary)

    def _write(self, temporary: str, change: SlotChange, *, alone: bool) -> None:
        fd = files.create(temporary)
        try:
            files.write(fd, points.encode_slot(change.point_id, change.slot_id, change.slot))
            if alone:
                # No way back from here: then do not rely on a flush that some file systems do not do.
                files.sync(fd)
        finally:
            os.close(fd)

    def _show(self, change: SlotChange, temporary: str) -> None:
        """Give a written slot its name. A rename, which is one step where a link takes two: but it would overwrite."""
        path = self._layout.slot_name(change.point_id, change.slot_id)
        if not change.is_exchange and os.path.lexists(path):
            if not self._is_there(change):
                raise _differs(change.slot_id)
            files.discard(temporary)
            return
        try:
            files.replace(temporary, path)
        except FileNotFoundError:  # the point's first slot
            Path(path).parent.mkdir(mode=0o700, exist_ok=True)
            files.replace(temporary, path)

    @staticmethod
    def _put_away(path: str, until: int) -> None:
        if not until:
            files.unlink(path)
            return
        try:
            files.replace(path, f"{path}.{until}")
        except FileNotFoundError:
            pass  # it was put away before

    def _sync(self) -> None:
        fd = os.open(self._layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_all(fd)
        finally:
            os.close(fd)

    # -- what was replaced ---------------------------------------------------------------------------------------------

    def replaced(self, point_id: bytes) -> dict[bytes, int]:
        """Return the slots of a point that were replaced and are still kept: id → until when (ns)."""
        return {bytes.fromhex(match[1]): int(match[2]) for match in _replaced_in(self._layout.slots_of(point_id))}

    def folders(self) -> list[str]:
        """Return the names of all folders, for `purge`."""
        with files.disk_errors("look at the slots"):
            return files.names_in(self._layout.slots)

    def purge(self, folders: Sequence[str], now_ns: int) -> int:
        """Remove the replaced slots in these folders whose time is over; return how many. Stops at a disk's error."""
        removed = 0
        with files.disk_errors("remove replaced slots"):
            for name in folders:
                folder = f"{self._layout.slots}/{name}"
                for match in _replaced_in(folder):
                    if int(match[2]) <= now_ns:
                        files.unlink(f"{folder}/{match[0]}")
                        removed += 1
        return removed


def _read(path: str) -> bytes:
    """Return a slot's file. FileNotFoundError: it was put away this very moment."""
    try:
        return files.read_small(path, 2 * limits.SLOT_LENGTH)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise files.translate(error, "read a slot") from error


def _in_use(folder: StrPath) -> list[str]:
    return [name for name in files.names_in(folder) if ID_NAME.fullmatch(name)]


def _replaced_in(folder: str) -> Iterator[re.Match[str]]:
    for name in files.names_in(folder):
        match = _REPLACED.fullmatch(name)
        if match is not None:
            yield match


def _check_exchange(change: SlotChange, seen: Sequence[str]) -> None:
    """Raise UsageError for an exchange that must not be made. There are thousands of them: only what can go wrong."""
    if len(change.slot) > limits.SLOT_LENGTH:
        raise UsageError(f"a slot has at most {limits.SLOT_LENGTH} bytes")
    kept = sum(ID_NAME.fullmatch(name) is None for name in seen)
    if kept + len(change.replaces) > limits.REPLACED_PER_POINT:
        raise _too_many_replaced()


def _too_many_replaced() -> UsageError:
    return UsageError(
        f"a restore point keeps at most {limits.REPLACED_PER_POINT} replaced slots",
        "wait until those of the last changes have gone (keep_replaced_slots)",
    )


def _too_many(most: int) -> UsageError:
    return UsageError(f"a restore point has at most {most} slots", "remove a password first")


def _differs(slot_id: bytes) -> PointExists:
    return PointExists(f"slot {slot_id.hex()} is there already and differs", "use a new slot id")
