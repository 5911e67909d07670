"""The ways to open a point: which there are, and which of them are live at this node.

In the order in which a restore tries them (docs/security.md, "Opening an encrypted point").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transporter.errors import CorruptedPoint, DamagedData, NoKey, UnsupportedFormat
from transporter.keys.key_ring import check_opens
from transporter.keys.password import UserKey
from transporter.keys.slot import SlotInfo
from transporter.keys.storage_key import StorageKey, open_slot, read_slot_public
from transporter.keys.wrap import context
from transporter.points.assemble import PURPOSE
from transporter.points.slot_rows import PointSlots

LIVE = "live"
TYPED = "must be typed"
DEAD = "opens nothing"


@dataclass(frozen=True)
class Way:
    """One way. ``kind``: password, storage key, unknown; ``state``: `LIVE`, `TYPED`, `DEAD`; ``why`` for people."""

    kind: str
    name: str
    state: str
    why: str

    def public(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {"kind": self.kind, "name": self.name, "state": self.state, "why": self.why}


@dataclass(frozen=True)
class KeysAtHand:
    """What this node could open with."""

    by_salt: Callable[[bytes], UserKey | None]
    kept: Callable[[bytes], StorageKey | None]

    def explain(self, row: PointSlots) -> list[Way]:
        """Return the ways by what is written on them; nothing is opened."""
        ways = [self._by_its_label(slot) for _id, slot in row.slots]
        if self.kept(row.point) is not None:
            ways.append(Way("storage key", "", LIVE, "this node kept the key of this point"))
        return _in_order(ways)

    def prove(self, tenant: str, repository_id: bytes, row: PointSlots) -> list[Way]:
        """Return the ways as they turn out when they are tried; what comes out is let go at once."""
        where = context(PURPOSE, tenant, repository_id, row.point)
        ways = [self._tried(slot, row, where) for _id, slot in row.slots]
        kept = self.kept(row.point)
        if kept is not None:
            ways.append(_proved("storage key", "", kept, row, where))
        return _in_order(ways)

    def _by_its_label(self, slot: bytes) -> Way:
        info = _read(slot)
        if isinstance(info, Way):
            return info
        known = self.by_salt(info.salt)
        if known is not None:
            return Way("password", known.name, LIVE, "its hash is kept here")
        return Way("password", info.hint_name, TYPED, "its hash is not kept here")

    def _tried(self, slot: bytes, row: PointSlots, where: bytes) -> Way:
        way = self._by_its_label(slot)
        if way.state != LIVE:
            return way
        info = read_slot_public(slot)
        known = self.by_salt(info.salt)
        assert known is not None
        try:
            return _proved(way.kind, way.name, open_slot(slot, known, where), row, where)
        except (NoKey, DamagedData) as error:
            return Way(way.kind, way.name, DEAD, error.what)


def is_live(ways: list[Way]) -> bool:
    """Tell whether this node opens the point without asking anybody."""
    return any(way.state == LIVE for way in ways)


def _proved(kind: str, name: str, key: StorageKey, row: PointSlots, where: bytes) -> Way:
    try:
        check_opens(key, row.ring_first, row.ring_length, where)
    except (NoKey, DamagedData) as error:
        return Way(kind, name, DEAD, error.what)
    return Way(kind, name, LIVE, "it was tried")


def _read(slot: bytes) -> SlotInfo | Way:
    try:
        return read_slot_public(slot)
    except CorruptedPoint:
        return Way("password", "", DEAD, "its salt is missing")
    except UnsupportedFormat:
        return Way("unknown", "", DEAD, "this version does not know this way of opening")
    except DamagedData as error:
        return Way("unknown", "", DEAD, error.what)


def _in_order(ways: list[Way]) -> list[Way]:
    order = {LIVE: 0, TYPED: 1, DEAD: 2}
    return sorted(ways, key=lambda way: order[way.state])


def public_info(slot: bytes) -> SlotInfo | None:
    """Return what a sound password slot says to everyone; None for any other."""
    info = _read(slot)
    return info if isinstance(info, SlotInfo) else None
