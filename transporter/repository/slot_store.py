"""Slots: the ways to open each restore point, one small file each.

    slots/<point id>/<slot id>               in use
    slots/<point id>/<slot id>.<until>       replaced; kept until then (ns since 1970, our clock), for who was robbed

A tenant may replace slots, since passwords change; but whoever steals a tenant's identity must not be able to destroy
points by it. So a replaced slot is kept for a while, and a point never loses the last slot that it has in use.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from transporter.clock import Clock
from transporter.errors import DamagedData, UsageError
from transporter.file_system_sync import sync_all
from transporter.repository import files, limits, points
from transporter.repository.errors import PointExists
from transporter.repository.layout import ID_NAME, Layout

_REPLACED: Final = re.compile(r"([0-9a-f]{32})\.([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class SlotChange:
    """For one point: a slot to be stored (``slot`` empty: none), and those that it takes the place of."""

    point_id: bytes
    slot_id: bytes
    slot: bytes = field(repr=False)
    replaces: tuple[bytes, ...] = ()


class SlotStore:
    """The folder ``slots/``. Thread-safe."""

    def __init__(self, layout: Layout, clock: Clock) -> None:
        self._layout = layout
        self._clock = clock
        self._lock = threading.Lock()  # counting slots and adding one

    def put(self, point_id: bytes, slot_id: bytes, data: bytes) -> None:
        """Store a slot durably. The same bytes again are fine; others under the same id: PointExists."""
        if not 0 < len(data) <= limits.SLOT_LENGTH:
            raise UsageError(f"a slot has {len(data)} bytes; 1 to {limits.SLOT_LENGTH} are allowed")
        path = self._layout.slot(point_id, slot_id)
        content = points.encode_slot(point_id, slot_id, data)
        temporary = self._layout.journal / f"{self._clock.random_bytes(16).hex()}.tmp"
        with self._lock, files.disk_errors("write a slot"):
            if _in_use(path.parent) >= limits.SLOTS_PER_POINT and not path.exists():
                raise UsageError(
                    f"a restore point has at most {limits.SLOTS_PER_POINT} slots", "remove a password first"
                )
            try:
                files.publish(temporary, path, self._layout.root, (content,))
            except FileExistsError:
                if points.read_small(path, len(content)) != content:
                    raise PointExists(
                        f"slot {slot_id.hex()} is there already and differs", "use a new slot id"
                    ) from None
                files.sync_folder(path.parent)

    def of(self, point_id: bytes) -> dict[bytes, bytes]:
        """Return the sound slots of a point; DamagedData only if there are slots and none is sound."""
        found: dict[bytes, bytes] = {}
        damaged: DamagedData | None = None
        for name in files.names_in(self._layout.slot(point_id, bytes(16)).parent):
            if not ID_NAME.fullmatch(name):
                continue
            slot_id = bytes.fromhex(name)
            path = self._layout.slot(point_id, slot_id)
            try:
                found[slot_id] = points.decode_slot(points.read_small(path, 2 * limits.SLOT_LENGTH), point_id, slot_id)
            except DamagedData as error:
                damaged = error
        if damaged is not None and not found:
            raise damaged
        return found

    def replace(self, changes: Sequence[SlotChange], keep_seconds: float) -> int:
        """Store new slots and put away those that they replace, durably; return until when (ns; 0: removed at once).

        New ones first, and durable before any old one goes: a crash leaves points with both. The same changes may be
        made again. Raises UsageError for one that would leave a point without a slot, DiskFull, JobFailed.
        """
        with self._lock, files.disk_errors("replace slots"):
            for change in changes:
                self._check(change)
            self._publish([change for change in changes if change.slot])
            until = self._clock.now_ns() + int(keep_seconds * 1e9) if keep_seconds > 0 else 0
            for change in changes:
                for slot_id in change.replaces:
                    self._put_away(self._layout.slot(change.point_id, slot_id), until)
            self._sync()
        return until

    def _check(self, change: SlotChange) -> None:
        folder = self._layout.slot(change.point_id, change.slot_id or bytes(16)).parent
        names = files.names_in(folder)
        in_use = {name for name in names if ID_NAME.fullmatch(name)}
        left = in_use - {slot_id.hex() for slot_id in change.replaces}
        if change.slot:
            if len(change.slot) > limits.SLOT_LENGTH:
                raise UsageError(f"a slot has at most {limits.SLOT_LENGTH} bytes")
            if change.slot_id in change.replaces:
                raise UsageError("a slot does not replace itself", "use a new slot id")
            left.add(change.slot_id.hex())
        if not left:
            raise UsageError("a restore point must keep a slot", "store the new one with the change")
        if len(left) > limits.SLOTS_PER_POINT or len(names) >= 2 * limits.SLOTS_PER_POINT:
            raise UsageError(
                f"a restore point has at most {limits.SLOTS_PER_POINT} slots, and as many that were replaced lately",
                "remove a password first, or wait until the replaced ones have gone",
            )

    def _publish(self, changes: Sequence[SlotChange]) -> None:
        """As `files.publish`, for many at once: a sync of each file would cost ten times as much as all the rest."""
        temporaries = []
        try:
            for change in changes:
                temporary = self._layout.journal / f"{self._clock.random_bytes(16).hex()}.tmp"
                temporaries.append(temporary)
                fd = files.create(temporary)
                try:
                    files.write(fd, points.encode_slot(change.point_id, change.slot_id, change.slot))
                finally:
                    os.close(fd)
            if temporaries:
                self._sync()  # the contents, before any name shows them
            for change, temporary in zip(changes, temporaries, strict=True):
                self._link(change, temporary)
            if temporaries:
                self._sync()  # the names, before any old one goes
        finally:
            for temporary in temporaries:
                files.discard(temporary)

    def _link(self, change: SlotChange, temporary: Path) -> None:
        path = self._layout.slot(change.point_id, change.slot_id)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            files.link(temporary, path)
        except FileExistsError:
            if points.read_small(path, 2 * limits.SLOT_LENGTH) != temporary.read_bytes():
                raise PointExists(
                    f"slot {change.slot_id.hex()} is there already and differs", "use a new slot id"
                ) from None

    @staticmethod
    def _put_away(path: Path, until: int) -> None:
        if not until:
            files.unlink(path)
            return
        try:
            files.replace(path, path.with_name(f"{path.name}.{until}"))
        except FileNotFoundError:
            pass  # it was put away before

    def _sync(self) -> None:
        fd = os.open(self._layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_all(fd)
        finally:
            os.close(fd)

    def replaced(self, point_id: bytes) -> dict[bytes, int]:
        """Return the slots of a point that were replaced and are still kept: id → until when (ns)."""
        folder = self._layout.slot(point_id, bytes(16)).parent
        return {bytes.fromhex(match[1]): int(match[2]) for match in _replaced_in(folder)}

    def purge(self) -> int:
        """Remove every replaced slot whose time is over; return how many that were. Stops at a disk's error."""
        now, removed = self._clock.now_ns(), 0
        with files.disk_errors("remove replaced slots"):
            for name in files.names_in(self._layout.slots):
                folder = self._layout.slots / name
                for match in _replaced_in(folder):
                    if int(match[2]) <= now:
                        files.unlink(folder / match[0])
                        removed += 1
        return removed


def _in_use(folder: Path) -> int:
    return sum(1 for name in files.names_in(folder) if ID_NAME.fullmatch(name))


def _replaced_in(folder: Path) -> Iterator[re.Match[str]]:
    for name in files.names_in(folder):
        match = _REPLACED.fullmatch(name)
        if match is not None:
            yield match
