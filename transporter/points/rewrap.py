"""Replacing the slots that an old password opens: the storage key comes out of the one and goes into the other.

Points, chunks and rings stay as they are; nothing here asks whether a point is near or far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from transporter.clock import Clock
from transporter.errors import DamagedData, NoKey
from transporter.keys.password import PasswordHash, UserKey
from transporter.keys.slot import SlotInfo
from transporter.keys.storage_key import StorageKey, make_password_slot, open_slot, read_slot_public
from transporter.keys.wrap import context
from transporter.points.assemble import PURPOSE, SLOT_ID_LENGTH
from transporter.points.slot_rows import SlotChangeRow


@dataclass(frozen=True)
class Rewrapping:
    """What takes the place of what: by the salt of an old slot, its hash and the key of today."""

    changes: Mapping[bytes, tuple[PasswordHash, UserKey]] = field(repr=False)
    # The storage key that this home kept of a point, should its slot be damaged; None: it kept none.
    kept: Callable[[bytes], StorageKey | None] = field(repr=False)
    clock: Clock

    def of_point(
        self, tenant: str, repository_id: bytes, point: bytes, slots: Mapping[bytes, bytes]
    ) -> SlotChangeRow | None:
        """Return the change that frees a point of its old slots; None where it has none. Raises DamagedData."""
        old: dict[bytes, SlotInfo] = {}
        salts = set()
        for slot_id, slot in slots.items():
            info = _info(slot)
            if info is None:
                continue
            salts.add(info.salt)
            if info.salt in self.changes:
                old[slot_id] = info
        if not old:
            return None
        # All old slots of one point belong to one password, unless it was changed again before a change was finished.
        new = self.changes[next(iter(old.values())).salt][1]
        if new.salt in salts:
            return SlotChangeRow(point, bytes(SLOT_ID_LENGTH), b"", list(old))
        where = context(PURPOSE, tenant, repository_id, point)
        storage_key = self._storage_key(point, where, {slot_id: slots[slot_id] for slot_id in old}, old)
        hint_name = next(iter(old.values())).hint_name
        slot = make_password_slot(storage_key, new, new.salt, new.params, where, hint_name=hint_name, clock=self.clock)
        return SlotChangeRow(point, self.clock.random_bytes(SLOT_ID_LENGTH), slot, list(old))

    def _storage_key(
        self, point: bytes, where: bytes, slots: Mapping[bytes, bytes], infos: Mapping[bytes, SlotInfo]
    ) -> StorageKey:
        failure: DamagedData | None = None
        for slot_id, slot in slots.items():
            try:
                return open_slot(slot, self.changes[infos[slot_id].salt][0], where)
            except (DamagedData, NoKey) as error:
                failure = error if isinstance(error, DamagedData) else failure
        kept = self.kept(point)
        if kept is not None:
            return kept
        raise failure or DamagedData("a slot is not what was written", "use another copy of this restore point")


def _info(slot: bytes) -> SlotInfo | None:
    try:
        return read_slot_public(slot)
    except DamagedData:
        return None  # damaged, or another way of opening: nothing that a password's change is about
