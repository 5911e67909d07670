"""Care for a repository: scrub, prune, healing, a new index, numbers. A part of `Repository`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

from transporter.clock import Clock
from transporter.errors import UsageError
from transporter.repository import files, limits, lost
from transporter.repository.chunk_store import ChunkStore
from transporter.repository.healing import Healed, Supply, heal_pack
from transporter.repository.index import Index
from transporter.repository.keeping import Keeping
from transporter.repository.layout import Layout
from transporter.repository.lease import Lease, prune_lease
from transporter.repository.lost import LostChunk
from transporter.repository.point_store import PointStore
from transporter.repository.prune import PruneHooks, Pruner
from transporter.repository.prune_report import PruneOptions, PruneReport
from transporter.repository.quota import QuotaBook
from transporter.repository.rebuild import rebuild
from transporter.repository.reconcile import Reconciled, enter_second_copies
from transporter.repository.record import ChunkRecord
from transporter.repository.scrub import Scrubber, ScrubProgress, ScrubReport
from transporter.repository.scrub_state import StateFile
from transporter.repository.session_lease import SessionLease
from transporter.repository.statistics import JobUsage, Statistics, by_job, measure
from transporter.repository.supply import Copy, Supplied, Wanted, supply_chunks, wanted_of
from transporter.repository.writer import PackWriter


class Care:
    """What is done to a repository as a whole. What it works with is `Repository`'s, which also says who may call."""

    _layout: Layout
    _clock: Clock
    _index: Index
    _lease: Lease | None
    _chunks: ChunkStore
    _points: PointStore
    keeping: Keeping
    _quota: QuotaBook
    _lock: threading.Lock
    _salvage_lock: threading.Lock
    _writers: list[PackWriter]

    @property
    def repository_id(self) -> bytes:
        """See `Repository.repository_id`."""
        raise NotImplementedError

    def session(self) -> SessionLease:
        """See `Repository.session`."""
        raise NotImplementedError

    def have(self, domain: bytes, ids: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        """See `Repository.have`."""
        raise NotImplementedError

    def writer(self, domain: bytes, tenant: str) -> PackWriter:
        """See `Repository.writer`."""
        raise NotImplementedError

    def _need_writable(self) -> None:
        raise NotImplementedError

    def scrub(
        self, on_progress: Callable[[ScrubProgress], None] | None = None, sample: float | None = None
    ) -> ScrubReport:
        """Prove every byte (``sample``: of a random share of the packs, 0 … 1). Changes nothing, needs no key."""
        scrubber = self.scrubber()
        with nullcontext() if self._lease is None else self.session():
            return scrubber.run(on_progress, sample)

    def prune(self, options: PruneOptions | None = None, hooks: PruneHooks | None = None) -> PruneReport:
        """Find chunks that no restore point needs, and give back the room of those whose grace is over (prune.py).

        Works beside writers and readers. RepositoryBusy while another prune runs; DamagedData naming a point that
        cannot be read; DiskFull; ClockDoubtful. Nothing is lost by any of them, and another prune goes on.
        """
        self._need_writable()
        hooks = replace(hooks or PruneHooks(), closed=self._chunks.forget, freed=self._freed)
        with prune_lease(self._layout.prune_lease):
            options = options or PruneOptions()
            time = self.keeping.clock
            return Pruner(self._layout, self._index, self.repository_id, self._clock, time, options, hooks).run()

    def _freed(self, tenant: str, count: int) -> None:
        self._quota.charge(tenant, -count)

    def scrubber(self) -> Scrubber:
        """Return the steps of a scrub, for whoever takes them one by one."""
        return Scrubber(self._layout, self._index, self._points, self.repository_id, self._clock)

    def scrub_state(self) -> StateFile:
        """Return where it is remembered how far scrubs are."""
        return StateFile(self._layout.scrub_state)

    def heal(self, packs: Iterable[bytes], supply: Supply | None = None) -> Healed:
        """Set damaged packs (as `scrub` names them) aside; keep their sound records, and what ``supply`` has.

        What is lost becomes unknown and is listed, so that the next run that has its plaintext, or a copy, supplies it.
        """
        self._need_writable()
        done = Healed()
        with prune_lease(self._layout.prune_lease):
            for name in packs:
                journal = self._layout.journal / f"{self._clock.random_bytes(16).hex()}.pack"
                with self._salvage_lock:
                    done += heal_pack(self._layout, self._index, self.repository_id, name, journal, supply)
                self._chunks.forget(name)
            if done.lost:
                enter_second_copies(self._layout, self._index)
        return done

    def lost_chunks(self, domain: bytes | None = None) -> Iterator[tuple[str, LostChunk]]:
        """Yield (tenant, chunk) of what was lost with damaged packs and is not stored again under the same key."""
        for _pack, tenant, listed in lost.read_lists(self._layout):
            for chunk in self._still_lost(listed):
                if domain is None or chunk.domain == domain:
                    yield tenant, chunk

    def wanted_chunks(self) -> Iterator[Wanted]:
        """Yield what `lost_chunks` does, as `supply` takes it: only the very same records do, where a hash is left."""
        for pack, tenant, listed in lost.read_lists(self._layout):
            hashes = lost.record_hashes(self._layout, pack, listed)
            for chunk in self._still_lost(listed):
                yield wanted_of(tenant, chunk, hashes.get((chunk.domain, chunk.chunk_id, chunk.key_id), b""))

    def _still_lost(self, listed: list[LostChunk]) -> Iterator[LostChunk]:
        for start in range(0, len(listed), limits.LOOKUP_BATCH):
            batch = listed[start : start + limits.LOOKUP_BATCH]
            ids: dict[bytes, list[bytes]] = {}
            for chunk in batch:
                ids.setdefault(chunk.domain, []).append(chunk.chunk_id)
            known = {domain: dict(zip(those, self.have(domain, those), strict=True)) for domain, those in ids.items()}
            yield from (chunk for chunk in batch if chunk.key_id not in known[chunk.domain][chunk.chunk_id])

    def forget_found(self) -> int:
        """Remove the lists of which everything is stored again; return how many."""
        self._need_writable()
        found = [pack for pack, _tenant, listed in lost.read_lists(self._layout) if not any(self._still_lost(listed))]
        with files.disk_errors("remove a list of lost chunks"):
            for pack in found:
                lost.remove_list(self._layout, pack)
        return len(found)

    def supply(
        self,
        copy: Copy,
        wanted: Iterable[Wanted],
        before_read: Callable[[int], None] | None = None,
    ) -> Supplied:
        """Take each of these chunks from ``copy`` and store it, as far as it is there.

        Durable when this returns. QuotaExceeded, DiskFull: what came before is kept.
        """
        self._need_writable()
        writers: dict[tuple[bytes, str], PackWriter] = {}

        def store(domain: bytes, tenant: str, record: ChunkRecord) -> None:
            if (domain, tenant) not in writers:
                writers[domain, tenant] = self.writer(domain, tenant)
            writers[domain, tenant].append(record)

        try:
            return supply_chunks(copy, store, wanted, before_read)
        finally:
            for writer in writers.values():
                writer.close()

    def rebuild_index(self) -> Reconciled:
        """Make the index anew from the packs. No writer may be open, and no prune may run."""
        self._need_writable()
        with self._lock, prune_lease(self._layout.prune_lease):
            if self._writers:
                raise UsageError("the index cannot be rebuilt while a job writes", "wait for the jobs to end")
            fresh = self._layout.index.with_name("rebuild.db")
            report = rebuild(self._layout, self.repository_id, fresh, self._clock)
            with files.disk_errors("replace the index"):
                self._index.swap(fresh)
        return report

    def statistics(self) -> Statistics:
        """Return sizes and counts, tenant by tenant, and the room that is left."""
        return measure(self._layout, self._index, self._points)

    def jobs(self) -> list[JobUsage]:
        """Return what the jobs of all tenants have here."""
        return list(by_job(self._points))
