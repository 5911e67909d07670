"""The points of a repository of this node, shown to a visitor a batch at a time, and what it changes of their slots.

The same in the process that walks (point_walk.py) and in those that help it (rewrap_worker.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from pipeline.trust_zone import Zone
from transporter.errors import DamagedData
from transporter.points.copied import is_of_another_tenant
from transporter.points.slot_rows import CopiedSlots, PointHere, PointSlots, SlotChangeRow, point_slots
from transporter.repository import PointMissing, Repository, SlotChange

PointName = tuple[str, str, bytes]
"""Tenant, job and id."""


@dataclass(frozen=True)
class Batch:
    """Points of one job in one place; ``place`` is a repository of this node, or PEER/REPOSITORY."""

    place: str
    tenant: str
    repository_id: bytes
    job: str
    points: list[PointSlots]


# Runs in a thread.
Visit = Callable[[Batch], list[SlotChangeRow]]


@dataclass
class Visited:
    """What became of a batch. ``unreadable``: points whose object is damaged."""

    points: int = 0
    replaced: int = 0
    added: int = 0
    kept_until_ns: int = 0
    unreadable: list[bytes] = field(default_factory=list)

    def changed(self, rows: Sequence[SlotChangeRow | SlotChange], until_ns: int) -> None:
        """Count changes that were made."""
        self.replaced += sum(len(row.replaces) for row in rows)
        self.added += sum(bool(row.slot) for row in rows)
        self.kept_until_ns = max(self.kept_until_ns, until_ns)

    def add(self, other: Visited) -> None:
        """Count another batch, too."""
        self.points += other.points
        self.replaced += other.replaced
        self.added += other.added
        self.kept_until_ns = max(self.kept_until_ns, other.kept_until_ns)
        self.unreadable += other.unreadable


@dataclass(frozen=True)
class PointsHere:
    """``own``: the tenant that this node is in its own repository; ``keep``: seconds that replaced slots are kept."""

    store: Repository
    name: str
    own: str
    keep: float
    visit: Visit

    def batch(self, some: Iterable[PointName]) -> Visited:
        """Visit points, and make the changes, durably. In a thread.

        One after the other: both are many small steps of Python, and two threads of those only hold each other up.
        """
        visited = Visited()
        changes: list[SlotChange] = []
        for (tenant, job), group in groupby(some, key=lambda each: each[:2]):
            mine = tenant == self.own and not is_of_another_tenant(job)
            read = (self._read(visited, tenant, job, point, own=mine) for *_, point in group)
            changes += self._changes(visited, tenant, job, [here for here in read if here is not None])
        if changes:
            done = self.store.replace_slots_of_read(changes, self.keep)
            visited.changed(changes, done.kept_until_ns)
        return visited

    def _changes(self, visited: Visited, tenant: str, job: str, found: list[PointHere]) -> list[SlotChange]:
        visited.points += len(found)
        batch = Batch(self.name, tenant, self.store.repository_id, job, [here.row for here in found])
        names = {here.row.point: here.names for here in found}
        return [
            SlotChange(
                self.store.belongings(tenant, job, row.point),
                row.slot_id,
                row.slot,
                tuple(row.replaces),
                names[row.point],
            )
            for part in by_origin(batch)
            for row in self.visit(part)
        ]

    def _read(self, visited: Visited, tenant: str, job: str, point: bytes, *, own: bool) -> PointHere | None:
        try:
            here = point_slots(self.store, tenant, job, point)
        except PointMissing:
            return None  # it was removed this very moment
        except DamagedData:
            visited.unreadable.append(point)
            return None
        # What a tenant's source sealed is that tenant's to open: there is no key here; it is visited from there. But
        # what this node copied here is its own.
        return here if own or here.zone != Zone.SOURCE else None


def by_origin(batch: Batch) -> list[Batch]:
    """Divide a batch by what the keys of its points are bound to: copied ones to where they were made."""
    parts: dict[tuple[bytes, str], list[PointSlots]] = {(batch.repository_id, batch.tenant): []}
    for row in batch.points:
        bound = batch.repository_id, batch.tenant
        if isinstance(row, CopiedSlots):
            bound = row.repository_id, row.tenant
        parts.setdefault(bound, []).append(row)
    return [
        replace(batch, repository_id=repository_id, tenant=tenant, points=rows)
        for (repository_id, tenant), rows in parts.items()
        if rows
    ]
