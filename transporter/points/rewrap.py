"""Replacing the slots that an old password opens: the storage key comes out of the one and goes into the other.

Points, chunks and rings stay as they are; nothing here asks whether a point is near or far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from transporter.clock import Clock
from transporter.errors import DamagedData, NoKey
from transporter.keys.key_ring import check_opens
from transporter.keys.password import PasswordHash, UserKey
from transporter.keys.slot import SlotInfo, SlotParts, read_slot
from transporter.keys.storage_key import StorageKey, make_password_slot, open_parts
from transporter.keys.wrap import point_context
from transporter.points.assemble import SLOT_ID_LENGTH
from transporter.points.slot_rows import PointSlots, SlotChangeRow


@dataclass(frozen=True)
class Rewrapping:
    """What takes the place of what: by the salt of an old slot, its hash and the key of today."""

    changes: Mapping[bytes, tuple[PasswordHash, UserKey]] = field(repr=False)
    # The storage key that this home kept of a point, should its slot be damaged; None: it kept none.
    kept: Callable[[bytes], StorageKey | None] = field(repr=False)
    clock: Clock

    def of_point(self, tenant: str, repository_id: bytes, row: PointSlots) -> SlotChangeRow | None:
        """Return the change that frees a point of its old slots; None where it has none.

        Raises DamagedData where nothing at hand opens the point by an old slot's key: then its slots must stay.
        """
        parts = {slot_id: _parts(slot) for slot_id, slot in row.slots}
        sound = {slot_id: each for slot_id, each in parts.items() if each is not None}
        old = {slot_id: each for slot_id, each in sound.items() if each.info.salt in self.changes}
        if not old or not row.ring_length:
            return None
        # All old slots of a point belong to one password: a second change does not begin before the first is finished.
        hint_name, new = next((each.info.hint_name, self.changes[each.info.salt][1]) for each in old.values())
        where = point_context(tenant, repository_id, row.point)
        by_new = [each for each in sound.values() if each.info.salt == new.salt]
        if _first_that_opens(_opened(by_new, lambda _info: new.hash, where), row, where) is not None:
            return SlotChangeRow(row.point, bytes(SLOT_ID_LENGTH), b"", list(old))
        storage_key = self._storage_key(row, where, list(old.values()))
        slot = make_password_slot(storage_key, new, new.salt, new.params, where, hint_name=hint_name, clock=self.clock)
        return SlotChangeRow(row.point, self.clock.random_bytes(SLOT_ID_LENGTH), slot, list(old))

    def _storage_key(self, row: PointSlots, where: bytes, slots: list[SlotParts]) -> StorageKey:
        """Return the key that opens this point. Not just the first: a commit that was repeated left a slot of each."""

        def candidates() -> Iterator[StorageKey]:
            yield from _opened(slots, lambda info: self.changes[info.salt][0], where)
            kept = self.kept(row.point)
            if kept is not None:
                yield kept

        found = _first_that_opens(candidates(), row, where)
        if found is None:
            raise DamagedData("no slot holds the key of its restore point", "use another copy of this restore point")
        return found


def _opened(slots: list[SlotParts], hash_of: Callable[[SlotInfo], PasswordHash], where: bytes) -> Iterator[StorageKey]:
    for parts in slots:
        try:
            yield open_parts(parts, hash_of(parts.info), where)
        except (DamagedData, NoKey):
            continue


def _first_that_opens(keys: Iterator[StorageKey], row: PointSlots, where: bytes) -> StorageKey | None:
    for key in keys:
        try:
            check_opens(key, row.ring_first, row.ring_length, where)
        except (DamagedData, NoKey):
            continue
        return key
    return None


def _parts(slot: bytes) -> SlotParts | None:
    try:
        return read_slot(slot)
    except DamagedData:
        return None  # damaged, or another way of opening: nothing that a password's change is about
