"""The ways to open a point: which there are, and which of them are live at this node.

In the order in which a restore tries them (docs/security.md, "Opening an encrypted point").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from transporter.errors import (
    KMS_ERRORS,
    CorruptedPoint,
    DamagedData,
    NoKey,
    TransporterError,
    UnsupportedFormat,
)
from transporter.keys.database import KeyDatabase
from transporter.keys.key_ring import check_opens
from transporter.keys.password import PasswordHash, UserKey
from transporter.keys.slot import KmsSlot, SlotInfo, read_keyset_slot, read_kms_slot
from transporter.keys.storage_key import StorageKey, open_slot, read_slot_public
from transporter.keys.wrap import point_context
from transporter.points.assemble import OpenedPoint, OpenKmsSlot, Place, find_in, no_services, open_point
from transporter.points.slot_rows import PointSlots
from transporter.repository.point_head import PointHead

LIVE = "live"
TYPED = "must be typed"
ASKED = "must be asked for"
DEAD = "opens nothing"

KEPT = "storage key"
"""The kind of the way by a key that this node kept of a point it made, or that came by a recovery."""


@dataclass(frozen=True)
class Way:
    """One way. ``kind``: password, keyset, kms, …; ``state``: `LIVE`, `TYPED`, `ASKED`, `DEAD`; ``why`` for people."""

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
    by_kms: OpenKmsSlot = no_services

    @classmethod
    def of(cls, keys: KeyDatabase) -> KeysAtHand:
        """Return what a key database has; a password, and a failure to get it, is looked up once for all points."""
        return cls(_once(keys.find_by_salt), keys.storage_key, keys.open_kms_slot)

    def open(
        self,
        head: bytes,
        slots: Sequence[bytes],
        place_of: Callable[[PointHead], Place],
        typed: Callable[[SlotInfo], PasswordHash | None] | None = None,
    ) -> OpenedPoint:
        """Open a point as everything does that opens one: restore, verify, search, a run that builds on it, a target.

        ``typed``: what a person gave for it. Raises as `open_point`.
        """
        return open_point(head, slots, place_of, find_in(self.by_salt, typed), self.kept, self.by_kms)

    def explain(self, row: PointSlots) -> list[Way]:
        """Return the ways by what is written on them; nothing is opened."""
        ways = [self._by_its_label(slot) for _id, slot in row.slots]
        kept = self._kept(row.point)
        if isinstance(kept, Way):
            ways.append(kept)
        elif kept is not None:
            ways.append(Way(KEPT, "", LIVE, "this node kept the key of this point"))
        return _in_order(ways)

    def prove(self, tenant: str, repository_id: bytes, row: PointSlots) -> list[Way]:
        """Return the ways as they turn out when they are tried; what comes out is let go at once."""
        where = point_context(tenant, repository_id, row.point)
        ways = [self._tried(slot, row, where, tenant) for _id, slot in row.slots]
        kept = self._kept(row.point)
        if kept is not None:
            ways.append(kept if isinstance(kept, Way) else _proved(KEPT, "", kept, row, where))
        return _in_order(ways)

    def storage_key(self, tenant: str, repository_id: bytes, row: PointSlots) -> StorageKey | None:
        """Return the key of a point, by the first way that turns out to open it; None where none does."""
        where = point_context(tenant, repository_id, row.point)
        for key in self._candidates(row, where, tenant):
            try:
                check_opens(key, row.ring_first, row.ring_length, where)
            except (NoKey, DamagedData):
                continue
            return key
        return None

    def _candidates(self, row: PointSlots, where: bytes, tenant: str) -> Iterator[StorageKey]:
        for _id, slot in row.slots:
            info = _read(slot)
            if isinstance(info, SlotInfo):
                with suppress(NoKey, DamagedData, *KMS_ERRORS):
                    known = self.by_salt(info.salt)
                    if known is not None:
                        yield open_slot(slot, known, where)
        kept = self._kept(row.point)
        if isinstance(kept, StorageKey):
            yield kept
        for _id, slot in row.slots:
            service = _read(slot)
            if isinstance(service, KmsSlot):
                with suppress(NoKey, DamagedData, *KMS_ERRORS):
                    yield self.by_kms(service, tenant, row.point, where)

    def _kept(self, point: bytes) -> StorageKey | Way | None:
        """Return the key that this node kept; a dead way where it lies under a service that does not answer."""
        try:
            return self.kept(point)
        except KMS_ERRORS as error:
            return Way(KEPT, "", DEAD, error.what)

    def _by_its_label(self, slot: bytes) -> Way:
        info = _read(slot)
        if isinstance(info, Way):
            return info
        if isinstance(info, KmsSlot):
            return Way("kms", info.name, LIVE, f"asks the service that has the key {info.reference}")
        try:
            known = self.by_salt(info.salt)
        except KMS_ERRORS as error:
            # The slot is as good as ever: who knows the password needs no service.
            return Way("password", info.hint_name, TYPED, f"its hash is locked: {error.what}")
        if known is not None:
            return Way("password", known.name, LIVE, "its hash is kept here")
        return Way("password", info.hint_name, TYPED, "its hash is not kept here")

    def _tried(self, slot: bytes, row: PointSlots, where: bytes, tenant: str) -> Way:
        way = self._by_its_label(slot)
        if way.state != LIVE:
            return way
        info = _read(slot)
        try:
            if isinstance(info, KmsSlot):
                key = self.by_kms(info, tenant, row.point, where)
            else:
                assert isinstance(info, SlotInfo)
                known = self.by_salt(info.salt)
                assert known is not None
                key = open_slot(slot, known, where)
        except (NoKey, DamagedData, *KMS_ERRORS) as error:
            return Way(way.kind, way.name, DEAD, error.what)
        return _proved(way.kind, way.name, key, row, where)


def _once(find: Callable[[bytes], UserKey | None]) -> Callable[[bytes], UserKey | None]:
    """Return ``find`` with its answers remembered, and what a service failed with, too: thousands of points ask."""
    answers: dict[bytes, UserKey | TransporterError | None] = {}

    def look(salt: bytes) -> UserKey | None:
        if salt not in answers:
            try:
                answers[salt] = find(salt)
            except KMS_ERRORS as error:
                answers[salt] = error
        answer = answers[salt]
        if isinstance(answer, TransporterError):
            raise type(answer)(answer.what, answer.remedy)
        return answer

    return look


def is_live(ways: list[Way]) -> bool:
    """Tell whether this node opens the point without asking anybody."""
    return any(way.state == LIVE for way in ways)


def lives_here_alone(ways: list[Way]) -> bool:
    """Tell whether a point opens by the key that this node kept, and no slot of it would open anything anywhere.

    A service that does not open its slot may do so again: that is no fault of the slot.
    """
    others = [way for way in ways if way.kind != KEPT]
    return is_live(ways) and all(way.state == DEAD and way.kind != "kms" for way in others)


def _proved(kind: str, name: str, key: StorageKey, row: PointSlots, where: bytes) -> Way:
    try:
        check_opens(key, row.ring_first, row.ring_length, where)
    except (NoKey, DamagedData) as error:
        return Way(kind, name, DEAD, error.what)
    return Way(kind, name, LIVE, "it was tried")


def _read(slot: bytes) -> SlotInfo | KmsSlot | Way:
    try:
        service = read_kms_slot(slot)
        if service is not None:
            return service
        keyset = read_keyset_slot(slot)
        if keyset is not None:
            # Its private half is at the escrow: a way, but none that is live here.
            return Way("keyset", keyset.name, ASKED, "the escrow opens it: transporter recover request")
        return read_slot_public(slot)
    except CorruptedPoint:
        return Way("password", "", DEAD, "its salt is missing")
    except UnsupportedFormat:
        return Way("unknown", "", DEAD, "this version does not know this way of opening")
    except DamagedData as error:
        return Way("unknown", "", DEAD, error.what)


def _in_order(ways: list[Way]) -> list[Way]:
    order = {LIVE: 0, TYPED: 1, ASKED: 2, DEAD: 3}
    return sorted(ways, key=lambda way: order[way.state])


def public_info(slot: bytes) -> SlotInfo | None:
    """Return what a sound password slot says to everyone; None for any other."""
    info = _read(slot)
    return info if isinstance(info, SlotInfo) else None
