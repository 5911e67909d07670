"""Prune: find the chunks that no restore point needs, keep them for a grace period, then give their room back.

1. The ids that all points need, the recycled ones too, are gathered domain by domain, and compared with the index in
   key order. A chunk that none needs becomes *doomed* under the epoch in the making; one that is needed again is not
   doomed any more. When all is doomed the epoch is complete, and dated.
2. Whoever asks for a doomed chunk revives it in the same transaction. So nothing that is answered to anybody goes, as
   long as the asker's lease lasts: what is doomed after it has a later epoch than the lease.
3. Deleted is what was doomed under an epoch whose grace is over, and at whose end no session was there that is still
   there. The order is: epoch complete → look at the leases → look for points that were committed since the first look,
   and revive what they need → delete. A session that ended before the look has its points found after it; one that
   began later was answered after the chunks were doomed, and so revived what it relies on.
   Grace goes by the repository's time (keeping_clock.py): a clock that was set ahead would end every grace at once.
4. Packs without a place go; thin ones are compacted. No row is added to a pack that is chosen for either.

Runs beside everything else, in this or another process; may be killed anywhere (docs/repository-format.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain

from transporter.clock import Clock
from transporter.errors import DiskFull, Interrupted, TransporterError
from transporter.repository import files, limits
from transporter.repository.compaction import Compactor, PackRemover, finish_interrupted
from transporter.repository.index import Index
from transporter.repository.index_prune import ChunkRow, NumberedPack, PruneIndex
from transporter.repository.index_schema import CHOSEN, IN_USE
from transporter.repository.keeping_clock import KeepingClock
from transporter.repository.layout import Layout
from transporter.repository.live_ids import LiveIds, prefixes_of
from transporter.repository.pack_file import ENTRY_LENGTH, empty_length
from transporter.repository.point_list import PointList
from transporter.repository.prune_report import PruneOptions, PruneProgress, PruneReport
from transporter.repository.prune_tally import LEFT, LIVE, RIPE, WAITING, Tally
from transporter.repository.reconcile import footer_or_records, open_pack
from transporter.repository.record import HEADER_LENGTH
from transporter.repository.session_lease import LiveSessions, live_sessions

_RECORD = HEADER_LENGTH + ENTRY_LENGTH
# A writer beside this polls for its turn: it gets one if this leaves as much time as it takes, up to so many seconds.
_PAUSE = 0.05


@dataclass(frozen=True)
class PruneHooks:
    """What a prune tells whoever runs it. ``stop`` is asked between units of work: True ends the prune in order."""

    progress: Callable[[PruneProgress], None] = lambda _progress: None
    stop: Callable[[], bool] = lambda: False
    closed: Callable[[bytes], None] = lambda _pack: None
    freed: Callable[[str, int], None] = lambda _tenant, _bytes: None


class Pruner:
    """One prune of one repository, by the holder of ``leases/prune``."""

    def __init__(
        self,
        layout: Layout,
        index: Index,
        repository_id: bytes,
        clock: Clock,
        time: KeepingClock,
        options: PruneOptions,
        hooks: PruneHooks,
    ) -> None:
        self._layout = layout
        self._whole_index = index
        self._index = PruneIndex(index)
        self._repository_id = repository_id
        self._clock = clock
        self._time = time
        self._options = options
        self._hooks = hooks
        self._report = PruneReport(dry_run=options.dry_run)
        self._remover = PackRemover(layout, self._index, hooks.closed)
        self._sessions = LiveSessions(0, None, None)
        self._used: set[int] = set()
        self._epoch = self._ripe = 0
        self._gathered = self._compared = 0

    def run(self) -> PruneReport:
        """Prune once. Raises DamagedData naming a point that cannot be read, DiskFull, Interrupted: run it again.

        ClockDoubtful: nothing was deleted, nor doomed by a time that nobody believes.
        """
        self._now_ns()
        if not self._options.dry_run:
            with suppress(DiskFull):  # a full disk is what a prune helps against
                self._time.note()
            finish_interrupted(self._layout, self._whole_index)
        # Not before: what was left may have entered a pack.
        last = self._whole_index.moment().pack
        with (
            files.disk_errors("prune"),
            PointList(self._layout) as points,
            Tally(self._layout.journal, last) as tally,
        ):
            self._mark_all(points, tally)
            self._delete(points, tally)
        return self._report

    def _now_ns(self) -> int:
        """Return the time that grace goes by. Asked anew each time: the clock may jump while a prune goes on."""
        return self._time.now_ns() if self._options.dry_run else self._time.believed_ns()

    def _new_name(self) -> str:
        return self._clock.random_bytes(16).hex()

    def _poll(self, step: str = "", done: int = 0, total: int = 0) -> None:
        if self._hooks.stop():
            raise Interrupted("the prune was stopped", "run it again: it goes on from there")
        if step:
            self._hooks.progress(PruneProgress(step, done, total))

    @contextmanager
    def _unit(self) -> Iterator[None]:
        """Do one unit that writes to the index, and let others have their turn after it."""
        began = time.monotonic()
        yield
        if self._sessions.count:
            time.sleep(min(time.monotonic() - began, _PAUSE))

    # -- what is needed, what is not --------------------------------------------------------------------------------

    def _mark_all(self, points: PointList, tally: Tally) -> None:
        moment = self._whole_index.moment()
        self._epoch = self._index.begin() if not self._options.dry_run else moment.epoch + 1
        self._sessions = live_sessions(self._layout.leases, moment.era)
        self._ripe = self._newest_ripe()
        points.look(self._poll)
        self._report.points = points.count
        total = sum(usage.records for usage in self._whole_index.usage())
        domains = self._index.domains()
        known = {name for _, name in domains}
        for name in points.domains():
            if name not in known:  # nothing to keep, but it must prove itself: its domain may be the damage
                with LiveIds(self._layout.journal) as ids:
                    self._gather(points, name, ids)
                    self._report.missing_chunks += ids.count_left()
        for number, name in domains:
            with LiveIds(self._layout.journal) as ids:
                self._gather(points, name, ids)
                self._mark(number, ids, tally, total)
        if not self._options.dry_run:
            self._index.complete(self._epoch, self._now_ns(), self._used)

    def _newest_ripe(self) -> int:
        """Return the newest epoch whose chunks may be deleted now, 0: none."""
        latest = self._now_ns() - int(self._options.grace_seconds * 1e9)
        epochs = self._index.epochs().items()
        return max((no for no, at_ns in epochs if at_ns <= latest and self._sessions.may_delete(no)), default=0)

    def _gather(self, points: PointList, domain: bytes, ids: LiveIds) -> None:
        for point in points.of(domain):
            for piece in points.needs(point):
                self._poll()
                ids.add(piece)
            self._gathered += 1
            self._poll("points", self._gathered, points.count)

    def _mark(self, domain: int, ids: LiveIds, tally: Tally, total: int) -> None:
        border, border_is_live = -1, False
        for rows in self._index.rows(domain):
            prefixes = prefixes_of([row[0] for row in rows])
            live = ids.take(prefixes[-1])
            self._report.missing_chunks += len(live.difference(prefixes))
            if border_is_live:
                live.add(border)  # the batch before may have ended within the records of one chunk
            border, border_is_live = prefixes[-1], prefixes[-1] in live
            doom, revive = self._compare(rows, prefixes, live, tally)
            if (doom or revive) and not self._options.dry_run:
                with self._unit():
                    self._index.mark(domain, self._epoch, doom, revive)
            self._compared += len(rows)
            self._poll("chunks", self._compared, max(total, self._compared))
        self._report.missing_chunks += ids.count_left()

    def _compare(
        self, rows: Sequence[ChunkRow], prefixes: Sequence[int], live: set[int], tally: Tally
    ) -> tuple[list[ChunkRow], list[ChunkRow]]:
        """Return what is to be doomed and what to be revived of some rows, and count all of them.

        Once for each chunk of a repository: nothing is called in this loop that need not be.
        """
        doom: list[ChunkRow] = []
        revive: list[ChunkRow] = []
        ripe, newest = self._ripe, self._sessions.pack
        sums: tuple[dict[int, int], ...] = ({}, {}, {})
        counts = [0, 0, 0]
        for row, prefix in zip(rows, prefixes, strict=True):
            _chunk, _key, pack, stored, doomed = row
            if prefix in live:
                column = LIVE
                if doomed:
                    revive.append(row)
            elif doomed:
                self._used.add(doomed)
                column = RIPE if doomed <= ripe else WAITING
            else:
                column = WAITING
                if newest is None or pack <= newest:  # else a session that goes on may have sent it
                    doom.append(row)
            counts[column] += 1
            sums[column][pack] = sums[column].get(pack, 0) + stored + _RECORD
        if doom:
            self._used.add(self._epoch)
        self._count(sums, counts, tally)
        self._report.revived_chunks += len(revive)
        return doom, revive

    def _count(self, sums: Sequence[dict[int, int]], counts: Sequence[int], tally: Tally) -> None:
        report = self._report
        for column, by_pack in enumerate(sums):
            for pack, size in by_pack.items():
                tally.add(pack, column, size)
        live, ripe, waiting = (sum(by_pack.values()) for by_pack in sums)
        report.live_chunks += counts[LIVE]
        report.live_bytes += live
        report.doomed_chunks += counts[RIPE] + counts[WAITING]
        report.doomed_bytes += ripe + waiting
        report.waiting_chunks += counts[WAITING]
        report.waiting_bytes += waiting

    # -- what goes --------------------------------------------------------------------------------------------------

    def _delete(self, points: PointList, tally: Tally) -> None:
        bound = self._bound()
        everything = bound >= self._epoch
        if everything:
            self._report.waiting_chunks = self._report.waiting_bytes = 0
        self._report.sessions = self._sessions.count
        if self._options.dry_run:
            self._estimate(tally, everything=everything)
            return
        self._revive_new(points)
        if not self._choose(tally, everything=everything):
            return
        if self._report.missing_chunks:
            self._take_in_unknown(tally)
        self._delete_rows(bound, tally)
        self._remove_dead(tally)
        self._compact(tally)

    def _bound(self) -> int:
        """Return the newest epoch whose chunks go: as at the beginning, or the one that is just complete, too."""
        self._sessions = live_sessions(self._layout.leases, self._whole_index.moment().era)
        if self._options.dry_run:
            alone = self._options.grace_seconds <= 0 and not self._sessions.count
            return self._epoch if alone else self._ripe
        newest = self._newest_ripe()
        return newest if newest >= self._epoch else self._ripe

    def _revive_new(self, points: PointList) -> None:
        """Revive what points need that were committed since the first look. After the look at the leases."""
        points.look(self._poll)
        for domain, point in points.new():
            for piece in points.needs(point):
                self._poll()
                for start in range(0, len(piece), 32 * limits.PRUNE_BATCH):
                    part = piece[start : start + 32 * limits.PRUNE_BATCH]
                    ids = [part[at : at + 32] for at in range(0, len(part), 32)]
                    self._whole_index.asked(domain, ids)

    def _verdict(self, pack: NumberedPack, kept: int) -> str:
        """Return what becomes of a pack of which so many bytes are kept: dead, thin, or nothing ("")."""
        wasted = pack.row.bytes - empty_length(pack.row.tenant) - kept
        if not kept:
            return "dead"
        return "thin" if wasted > max(0, pack.row.bytes * (1 - self._options.compact_below)) else ""

    def _kept(self, pack: NumberedPack, tally: Tally, *, everything: bool) -> int:
        return tally.of(pack.number, LIVE) + (0 if everything else tally.of(pack.number, WAITING))

    def _estimate(self, tally: Tally, *, everything: bool) -> None:
        report = self._report
        for pack in chain(self._index.packs(tally.last, IN_USE), self._index.packs(tally.last, CHOSEN)):
            kept = self._kept(pack, tally, everything=everything)
            verdict = self._verdict(pack, kept)
            report.packs_removed += verdict == "dead"
            report.packs_rewritten += verdict == "thin"
            if verdict:
                report.freed_bytes += pack.row.bytes - kept
                report.moved_bytes += kept

    def _choose(self, tally: Tally, *, everything: bool) -> bool:
        """Choose the packs that go or are rewritten; tell whether there are any, also of a prune that was cut short."""
        chosen: list[int] = []
        for pack in self._index.packs(tally.last):
            if self._verdict(pack, self._kept(pack, tally, everything=everything)):
                chosen.append(pack.number)
            if len(chosen) >= limits.PRUNE_BATCH:
                self._index.choose(chosen)
                chosen = []
        self._index.choose(chosen)
        return next(self._index.packs(tally.last, CHOSEN), None) is not None

    def _take_in_unknown(self, tally: Tally) -> None:
        """Let be what holds records that the index knows nothing of, and enter them: points may need them.

        As long as every chunk that points need has a place in the index, what it does not know is not needed.
        """
        for pack in self._index.packs(tally.last, CHOSEN):
            try:
                with open_pack(self._layout, pack.row.name) as fd:
                    entries = footer_or_records(fd)
            except TransporterError:
                continue  # the compactor names it
            if self._index.unknown(entries):
                self._index.take_in(pack, entries)
            self._poll()

    def _delete_rows(self, bound: int, tally: Tally) -> None:
        done, total = 0, self._compared
        for number, _name in self._index.domains():
            after = b""
            while True:
                with self._unit():
                    after, left, deleted = self._index.delete_doomed(number, after, bound)
                self._report.deleted_chunks += deleted
                for pack, count in left:
                    tally.add(pack, LEFT, count)
                done = min(total, done + limits.PRUNE_BATCH)
                self._poll("deleting", done, total)
                if not after:
                    break

    def _remove_dead(self, tally: Tally) -> None:
        dead: list[NumberedPack] = []
        for pack in self._index.packs(tally.last, CHOSEN):
            if not tally.of(pack.number, LEFT):
                dead.append(pack)
            if len(dead) >= limits.PACKS_AT_ONCE:
                self._remove(dead)
                dead = []
        self._remove(dead)

    def _remove(self, dead: list[NumberedPack]) -> None:
        if not dead:
            return
        gone = self._index.remove(dead)
        self._report.packs_removed += len(gone)
        self._note_freed(gone)
        self._remover.finish()
        self._poll("packs", self._report.packs_removed, 0)

    def _note_freed(self, packs: list[NumberedPack]) -> None:
        for pack in packs:
            self._report.freed_bytes += pack.row.bytes
            self._hooks.freed(pack.row.tenant, pack.row.bytes)

    # -- compaction -------------------------------------------------------------------------------------------------

    def _compact(self, tally: Tally) -> None:
        compactor = Compactor(self._layout, self._index, self._whole_index, self._repository_id, self._new_name)
        try:
            for pack in self._index.packs(tally.last, CHOSEN):
                with self._unit():
                    compactor.add(pack, tally.of(pack.number, LEFT))
                self._take_away(compactor)
                self._poll("compacting", compactor.done.rewritten, 0)
            compactor.flush()
            self._take_away(compactor)
        finally:
            compactor.close()
            self._report.packs_rewritten = compactor.done.rewritten
            self._report.packs_written = compactor.done.written
            self._report.moved_bytes = compactor.done.moved_bytes
            self._report.freed_bytes -= compactor.done.moved_bytes
            self._report.damaged_packs += compactor.done.damaged

    def _take_away(self, compactor: Compactor) -> None:
        gone, compactor.done.removed = compactor.done.removed, []
        if gone:
            self._note_freed(gone)
            self._remover.finish()
