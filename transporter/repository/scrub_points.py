"""Proving points, and that everything they need is stored.

Points of a job need nearly the same chunks: needs tables are cut where their ids say so, and a segment that was found
whole once is not looked up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from blake3 import blake3

from transporter.errors import TransporterError
from transporter.repository import limits
from transporter.repository.errors import PointMissing
from transporter.repository.layout import Layout
from transporter.repository.point_store import PointStore
from transporter.repository.scrub_report import ScrubReport

KeysOf = Callable[[bytes, Sequence[bytes]], dict[bytes, tuple[bytes, ...]] | None]
"""Returns the keys under which chunks of a domain are stored; None where no index can be asked."""


class PointScrubber:
    """The part of a scrub that looks at points."""

    def __init__(self, layout: Layout, store: PointStore, keys_of: KeysOf, report: ScrubReport) -> None:
        self._layout = layout
        self._store = store
        self._keys_of = keys_of
        self._report = report
        self._whole: dict[bytes, None] = {}

    def check(self, tenant: str, job: str, point_id: bytes) -> None:
        """Prove one point, and count what it needs and what of that is not stored, or damaged."""
        where = str(self._layout.point(tenant, job, point_id).relative_to(self._layout.root))
        self._report.points += 1
        try:
            ref = self._store.ref(tenant, job, point_id)
            self._report.bytes += ref.size
            lost = {chunk_id for domain, chunk_id in self._report.damaged_chunks if domain == ref.domain}
            missing = hit = 0
            for segment in segments(self._store.read_needs(tenant, job, point_id)):
                hit += len(lost.intersection(segment)) if lost else 0
                missing += self._missing(tenant, ref.domain, segment)
        except PointMissing:
            return
        except TransporterError as error:
            self._report.hurt(where, str(error))
            return
        if missing:
            self._report.hurt(where, f"{missing} chunks that it needs are not in the index")
        if hit:
            self._report.hurt(where, f"{hit} chunks that it needs are damaged")

    def _missing(self, tenant: str, domain: bytes, segment: list[bytes]) -> int:
        digest = blake3(domain).update(b"".join(segment)).digest()
        if digest in self._whole:
            return 0
        known = self._keys_of(domain, segment)
        if known is None:
            return 0
        missing = [chunk_id for chunk_id in segment if chunk_id not in known]
        for chunk_id in missing:
            self._report.lacks(tenant, domain, chunk_id)
        if not missing:
            if len(self._whole) >= limits.SCRUB_SEGMENTS:
                del self._whole[next(iter(self._whole))]
            self._whole[digest] = None
        return len(missing)


def segments(ids: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Cut a list of ids where the ids themselves say so: equal stretches of two lists become equal segments."""
    segment: list[bytes] = []
    for chunk_id in ids:
        segment.append(chunk_id)
        if int.from_bytes(chunk_id[:2], "big") >> (16 - limits.SEGMENT_BITS) == 0 or len(segment) >= limits.SEGMENT_IDS:
            yield segment
            segment = []
    if segment:
        yield segment
