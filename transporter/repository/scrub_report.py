"""What a scrub tells: how far it is, and what it found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from transporter.repository import limits

_T = TypeVar("_T")
_Id = bytes  # ScrubReport has a field of the type's name


@dataclass(frozen=True, slots=True)
class ScrubProgress:
    """How far a scrub is. ``bytes_total``: of all packs, 0 if that is not known."""

    packs_done: int
    packs_total: int
    bytes_done: int
    bytes_total: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where (a path below the repository), and what."""

    where: str
    what: str


@dataclass(slots=True)
class ScrubReport:
    """What a scrub looked at and found. ``damage`` needs healing, ``repairable`` a new index, ``notes`` only a glance.

    At most `limits.REPORTED` findings of each kind are spelled out; ``damage_count`` counts all. ``missing_chunks``:
    (tenant, domain, chunk id) of what points need and the index does not know, at most `limits.MISSING`.
    """

    packs: int = 0
    records: int = 0
    points: int = 0
    slots: int = 0
    bytes: int = 0
    damage_count: int = 0
    damage: list[Finding] = field(default_factory=list)
    damaged_packs: list[_Id] = field(default_factory=list)
    damaged_chunks: list[tuple[_Id, _Id]] = field(default_factory=list)
    repairable: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    missing_chunks: dict[tuple[str, _Id, _Id], None] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether nothing is damaged and the index agrees with the packs."""
        return not self.damage_count and not self.repairable

    def repair(self, where: str, what: str) -> None:
        """Record what a new index repairs."""
        _put(self.repairable, Finding(where, what))

    def note(self, where: str, what: str) -> None:
        """Record what is worth a glance."""
        _put(self.notes, Finding(where, what))

    def lost_pack(self, name: _Id, where: str, what: str) -> None:
        """Record a pack that is damaged."""
        self.hurt(where, what)
        _put(self.damaged_packs, name)

    def lost_chunk(self, domain: _Id, chunk_id: _Id) -> None:
        """Record a chunk whose record is damaged."""
        _put(self.damaged_chunks, (domain, chunk_id))

    def hurt(self, where: str, what: str) -> None:
        """Record damage."""
        self.damage_count += 1
        _put(self.damage, Finding(where, what))

    def lacks(self, tenant: str, domain: _Id, chunk_id: _Id) -> None:
        """Record a chunk that a point of ``tenant`` needs and that is not stored under any key."""
        if len(self.missing_chunks) < limits.MISSING:
            self.missing_chunks[tenant, domain, chunk_id] = None

    def take(self, other: ScrubReport) -> None:
        """Add what was found of another part of the repository."""
        for name in ("packs", "records", "points", "slots", "bytes", "damage_count"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("damage", "damaged_packs", "damaged_chunks", "repairable", "notes"):
            for finding in getattr(other, name):
                _put(getattr(self, name), finding)


def _put(into: list[_T], finding: _T) -> None:
    if len(into) < limits.REPORTED:
        into.append(finding)
