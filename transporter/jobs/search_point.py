"""Points made ready for a search, and the keys that open their indexes: the same whether they are near or far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.session_key import ChunkOpener, SessionKey
from transporter.points.assemble import OpenedPoint


@dataclass(frozen=True)
class SearchPoint:
    """A point that is open. ``fsi``: the ids of its blocks; where it has none, ``manifest``: those of its manifest."""

    point: bytes
    job: str
    repository: str
    created_ns: int
    fsi: tuple[bytes, ...]
    manifest: tuple[bytes, ...]


@dataclass
class PointGroup:
    """Points whose chunks have their names by one key, in one domain, all of them sealed or none. Newest first.

    What opens the blocks of one may be in the ring of another: a block keeps the key under which it was sent first.
    """

    domain: bytes
    sealed: bool
    chunk_id_key: ChunkIdKey = field(repr=False)
    points: list[SearchPoint] = field(default_factory=list)
    _keys: dict[bytes, SessionKey] = field(default_factory=dict, repr=False)

    def opener(self) -> ChunkOpener:
        """Return what opens the indexes of these points (and the manifests of those that have none), and no more."""
        return ChunkOpener(self._keys.values(), allow_plain=not self.sealed)

    def add(self, opened: OpenedPoint, point: SearchPoint) -> None:
        """Add a point."""
        self.points.append(point)
        if opened.ring is not None:
            keys: Sequence[SessionKey] = opened.ring.fsi_keys() if point.fsi else opened.ring.meta_keys
            for key in keys:
                self._keys.setdefault(key.key_id, key)


class Groups:
    """Gathers the points of one job in one place. ``closed``: those that nothing here opens."""

    def __init__(self, job: str, repository: str) -> None:
        self._job = job
        self._repository = repository
        self._groups: dict[tuple[bytes, bool, bytes], PointGroup] = {}
        # Blocks are mostly those of the point before: their ids are held once.
        self._ids: dict[bytes, bytes] = {}

    def add(self, opened: OpenedPoint, *, sealed: bool, domain: bytes = b"") -> None:
        """Add an open point; ``sealed``: its chunks come sealed. ``domain``: where they lie, if not where it says."""
        head = opened.head
        domain = domain or head.domain
        fsi = () if head.fsi is msgspec.UNSET else tuple(self._ids.setdefault(one, one) for one, _ in head.fsi)
        manifest = () if fsi else tuple(one for one, _ in head.manifest)
        key = (domain, sealed, opened.chunk_id_key.secret)
        group = self._groups.setdefault(key, PointGroup(domain, sealed, opened.chunk_id_key))
        point = SearchPoint(head.point_id, self._job, self._repository, head.created_ns, fsi, manifest)
        group.add(opened, point)

    def newest_first(self) -> list[PointGroup]:
        """Return the groups, each with its newest point first, that with the newest of all at the front."""
        groups = list(self._groups.values())
        for group in groups:
            group.points.sort(key=lambda point: point.created_ns, reverse=True)
        return sorted(groups, key=lambda group: group.points[0].created_ns, reverse=True)
