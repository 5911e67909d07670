"""The backup copy job: restore points from one repository to another, as they are, while nobody opens them.

An attempt is whole in itself: it asks both ends what there is and copies what is missing. So a line that breaks, a
process that is killed and a source that changes all lead to the same: the next attempt, which finds most of it done.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from pipeline.run import open_tasks
from transporter.errors import (
    CannotConnect,
    DamagedData,
    JobBusy,
    LinkLost,
    NoKey,
    TransporterError,
    UnknownPassword,
    UsageError,
)
from transporter.events import (
    DamageFound,
    JobFinished,
    JobStarted,
    Note,
    PointCopied,
    Progress,
    Redialling,
    SecurityEvent,
)
from transporter.events import LinkLost as LinkLostEvent
from transporter.jobs.chain import note_copied_back, note_copying
from transporter.jobs.context import JobContext, job_lock, own_tenant
from transporter.jobs.copy_conduct import LimitMoved, batches, open_conductor
from transporter.jobs.copy_ends import CopyRow, CopySource, CopyTarget
from transporter.jobs.copy_here import SourceHere, open_target_here
from transporter.jobs.copy_pins import bring_pins
from transporter.jobs.copy_plan import CopyOrder, Group, list_end, plan
from transporter.jobs.copy_point import CopyCounters, PointCopy, Proven
from transporter.jobs.copy_seal import Sealing, begin_sealing, plain_check
from transporter.jobs.copy_there import SourceThere, TargetThere, open_source_there, open_target_there
from transporter.jobs.points import DAMAGED
from transporter.jobs.search_here import open_store
from transporter.keys.database_schema import has_password
from transporter.link.broken import LinkBroken, NoAnswer
from transporter.points.copied import CopiedPoint, another_point, copy_name
from transporter.repository import PointMissing

RUN_ID_LENGTH = 16
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 15.0
PROGRESS_SECONDS = 0.25
# As of every link: who owes something and gives nothing for so long does not work, even if its heartbeat does.
STALL_SECONDS = 600.0
ALIVE_BYTES = 64 << 10
WATCH_SECONDS = 10.0


async def run_copy(context: JobContext, order: CopyOrder) -> JobFinished:
    """Copy what the order names and the target lacks. Raises what ended it, after everything that could be copied.

    A point that the source cannot give, or that meets another of its id, keeps none of the others from being copied.
    """
    if order.seal in ("plain", "all") and not has_password(context.home.keys_db, order.password):
        # Also where nothing is left to be sealed: the name is wrong today, and not on the day of the next point.
        raise UnknownPassword.of(order.password)
    with job_lock(context.home, f".copy-{order.label}"):
        return await CopyRun(context, order).run()


@dataclass
class CopyRun:
    """One run: attempts, one after the other, until nothing is left to be copied."""

    context: JobContext
    order: CopyOrder
    counters: CopyCounters = field(default_factory=CopyCounters)
    # Points that could not be copied, and why.
    failures: dict[bytes, TransporterError] = field(default_factory=dict)
    # Those that have been copied by this run, and what is known of the last one's chunks.
    done: set[bytes] = field(default_factory=set)
    copied: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    # Points that the source itself cannot read any more.
    damaged: set[bytes] = field(default_factory=set)
    left_out: set[tuple[str, int]] = field(default_factory=set)
    run_id: bytes = b""
    streams: int = 0
    last_point: bytes = b""
    _ends: list[SourceThere | TargetThere] = field(default_factory=list)
    # What has gone straight from peer to peer in the request that is under way.
    _pushed: int = 0
    _sent_before: int = 0
    _received_before: int = 0

    async def run(self) -> JobFinished:
        """Do it. Raises what ended it, and what kept a point from being copied."""
        context, order = self.context, self.order
        began = context.clock.monotonic()
        self.run_id = context.clock.random_bytes(RUN_ID_LENGTH)
        context.bus.publish(
            JobStarted(
                job=order.label, operation="copy", peer=order.target.peer, repository=order.target.repository, zone=""
            )
        )
        async with open_tasks() as nursery:
            nursery.start_soon(self._publish_progress)
            await self._persist()
            await self._confirm()
            nursery.cancel_scope.cancel()
        if self.failures:
            raise next(iter(self.failures.values()))
        counters = self.counters
        return JobFinished(
            job=order.label,
            operation="copy",
            point=self.last_point.hex(),
            kind="copy",
            points=counters.points,
            bytes_new=counters.bytes_new,
            bytes_written=counters.bytes_stored,
            bytes_sent=self._sent_before,
            bytes_received=self._received_before,
            chunks=counters.chunks,
            chunks_new=counters.chunks_new,
            seconds=round(context.clock.monotonic() - began, 3),
            streams=self.streams,
            redials=counters.redials,
        )

    # --- attempts -------------------------------------------------------------------------------------------------

    async def _persist(self) -> None:
        """Attempt until nothing is left. Raises LinkLost when a line stays away for ``redial_for`` seconds."""
        pause, lost_at, moved = FIRST_PAUSE, None, 0
        redial_for = float(self.context.config.limits.redial_for)
        while True:
            try:
                if await self._attempt():
                    return
                continue
            except (LinkBroken, CannotConnect, JobBusy) as error:
                now = trio.current_time()
                if self.counters.moved == 0:
                    raise _first_failure(error) from error
                if self.counters.moved != moved:
                    pause, lost_at, moved = FIRST_PAUSE, None, self.counters.moved
                lost_at = now if lost_at is None else lost_at
                if now - lost_at > redial_for:
                    raise LinkLost(
                        f"the link was lost and did not come back for {redial_for:.0f} s: {error}",
                        "copy again when both repositories can be reached; only what is missing there is copied",
                    ) from error
                self.counters.redials += 1
                place = self.order.target.peer or self.order.source.peer
                self.context.bus.publish(LinkLostEvent(peer=place, reason=str(error)))
                delay = pause * random.uniform(0.5, 1.5)
                self.context.bus.publish(Redialling(peer=place, attempt=self.counters.redials, delay=delay))
            await trio.sleep(delay)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _attempt(self) -> bool:
        """Copy what is missing; return False where a point failed, and others may be left."""
        groups = await self._groups()
        for group in groups:
            await self._bring_pins(group, group.unpinned)
        left = [group.without(self.failures.keys() | self.done) for group in groups]
        for group in left:
            if group.rows and not await self._copy_group(group):
                return False
        return True

    async def _groups(self) -> list[Group]:
        """Ask both ends what there is, and return what is to be copied."""
        order = self.order
        there = await list_end(self.context, order.source, order.job)
        self._forget_removed(there)
        self._name_damaged(there)
        groups = plan(self.context, order, there, await list_end(self.context, order.target, ""))
        return [await self._without_removed(group) for group in groups]

    async def _without_removed(self, group: Group) -> Group:
        """Leave out what went from the target on purpose: else retention there would be undone by each copy."""
        order = self.order
        if order.point or order.removed_too:
            return group
        dropped = await trio.to_thread.run_sync(self.context.catalog.dropped, str(order.target), group.job)
        left = group.without(dropped)
        count = len(group.rows) - len(left.rows)
        if count and (group.job, count) not in self.left_out:
            self.left_out.add((group.job, count))
            points = f"{count} restore point{'s' * (count != 1)}"
            self._note(
                f"{points} of job {group.job} that went from {order.target} are left out; --removed-too copies them"
            )
        return left

    async def _confirm(self) -> None:
        """See that the target shows what it said it had committed. Raises DamagedData."""
        if not self.copied:
            return
        there = {
            (each.row.job, each.row.point): each.row for each in await list_end(self.context, self.order.target, "")
        }
        for (job, point), point_hash in self.copied.items():
            row = there.get((job, point))
            if row is None or row.point_hash != point_hash:
                what = f"it does not show restore point {point.hex()[:8]}, which it said it had committed"
                self.context.bus.publish(SecurityEvent(peer=str(self.order.target), what=what))
                raise DamagedData(
                    f"{self.order.target}: {what}", "find out what happened to that repository; copy the point again"
                )

    def _name_damaged(self, there: list[CopyRow]) -> None:
        for each in there:
            if each.row.kind == DAMAGED and each.row.point not in self.damaged:
                self.damaged.add(each.row.point)
                where = f"restore point {each.row.point.hex()[:8]} at {self.order.source}"
                self.context.bus.publish(DamageFound(where=where, what="it cannot be read any more, nor copied"))

    def _forget_removed(self, there: list[CopyRow]) -> None:
        """A point that went while it was copied is no failure: the source had no use for it any more."""
        present = {each.row.point for each in there}
        for point in self.failures.keys() - present:
            del self.failures[point]
            self._note(f"restore point {point.hex()[:8]} was removed at {self.order.source} while it was copied")

    async def _copy_group(self, group: Group) -> bool:
        if not self.order.straight or self.order.source.peer == self.order.target.peer:
            return await self._copy_here(group)
        for rows in batches(group.rows):
            if not await self._conduct(group, rows):
                return False
        return True

    async def _conduct(self, group: Group, rows: list[CopyRow]) -> bool:
        """Have the source push points to the target."""
        taken = 0

        def moved(size: int) -> None:
            nonlocal taken
            if size != taken:
                taken, self.counters.moved = size, self.counters.moved + 1
                self._pushed = size

        if clash := [row for row in rows if row.row.point in group.there and not row.row.resealed]:
            point = clash[0].row.point
            damaged = group.there[point].kind == DAMAGED
            return self._failed(point, _damaged_there(self.order, point) if damaged else another_point(point))
        try:
            for row in rows:
                await self._note_copying(group, row)
            async with open_conductor(self.context, self.order, moved) as conductor:
                done = await conductor.copy(group, rows)
        except LimitMoved:
            # The source may be busy with the copy for a moment yet: that is no first failure.
            self.counters.moved += 1
            return False
        except (DamagedData, PointMissing) as error:
            if len(rows) == 1:
                return self._failed(rows[0].row.point, error)
            # One of them; each alone, so that it keeps none of the others back.
            return all([await self._conduct(group, [row]) for row in rows])
        counters = self.counters
        counters.points += done.points
        counters.chunks += done.chunks
        counters.chunks_new += done.chunks_new
        counters.bytes_new += done.bytes_new
        counters.bytes_stored += done.bytes_stored
        self._pushed = 0
        counters.moved += 1
        for row in rows:
            await self._copied(group, row, row.row.point_hash)
        await self._bring_pins(group, rows)
        return True

    async def _note_copying(self, group: Group, row: CopyRow) -> None:
        """Remember a copy before it is there: the next contact would find a point that this node knows nothing of."""
        if self.order.target.peer:
            where, of = str(self.order.target), row.row
            note = partial(note_copying, self.context, where, group.job, of.point, of.committed_ns)
            await trio.to_thread.run_sync(note)

    async def _bring_pins(self, group: Group, rows: Sequence[CopyRow]) -> None:
        """Pin at the target what is pinned at the source. The next run does what could not be done."""
        due = [row for row in rows if row.row.point not in self.failures]
        for point, error in await bring_pins(self.context, self.order, group.job, due):
            self.failures[point] = error
            self._note(f"copied, but not pinned: {point.hex()[:8]}: {error}")

    async def _note_copied_back(self, group: Group, point: bytes, point_hash: bytes) -> None:
        """Before the next look at the target, which would take a copy for an exchanged point."""
        where = str(self.order.target)
        note = partial(note_copied_back, self.context, where, group.job, point, point_hash)
        if await trio.to_thread.run_sync(note):
            self._note(f"{where}: restore point {point.hex()[:8]} of job {group.job} was missing, and is a copy now")

    def _failed(self, point: bytes, error: TransporterError) -> bool:
        """Note that a point cannot be copied; the others can."""
        self.failures[point] = error
        self.context.bus.publish(Note(text=f"not copied: {point.hex()[:8]}: {error}", job=self.order.label))
        return False

    async def _copied(self, group: Group, row: CopyRow, point_hash: bytes) -> None:
        point = self.last_point = row.row.point
        if self.order.target.peer:
            await self._note_copied_back(group, point, point_hash)
        self.done.add(point)
        self.copied[group.job, point] = point_hash
        where = str(self.order.source), str(self.order.target)
        self.context.bus.publish(PointCopied(job=row.row.job, point=point.hex(), source=where[0], target=where[1]))

    async def _copy_here(self, group: Group) -> bool:
        """Copy through this node, or from or to a repository of it."""
        row: CopyRow | None = None
        try:
            async with AsyncExitStack() as stack:
                source = await stack.enter_async_context(self._open_source())
                target = await stack.enter_async_context(self._open_target(group, source))
                watch = await stack.enter_async_context(open_tasks())
                watch.start_soon(self._watch)
                proven = Proven()
                if group.proven is not None:
                    await _learn(source, group.proven, proven)
                sealing = await begin_sealing(self.context, self.order, group, target)
                for row in group.rows:
                    await self._copy_one(source, target, row, group, proven, sealing)
                if sealing is not None:
                    await trio.to_thread.run_sync(sealing.committed)
                watch.cancel_scope.cancel()
        except (DamagedData, NoKey, PointMissing, _Conflict) as error:
            if row is None:
                raise
            known = error.error if isinstance(error, _Conflict) else error
            return self._failed(row.row.point, known)
        finally:
            self._count_bytes()
        return True

    async def _copy_one(
        self,
        source: CopySource,
        target: CopyTarget,
        row: CopyRow,
        group: Group,
        proven: Proven,
        sealing: Sealing | None,
    ) -> None:
        point = await source.open_point(row)
        self._check(point, row, group)
        already = group.there.get(point.point_id)
        if already is not None and already.kind == DAMAGED:
            raise _Conflict(_damaged_there(self.order, point.point_id))
        if already is not None:
            if already.point_hash == point.origin.hash:
                return
            raise _Conflict(another_point(point.point_id))
        await self._note_copying(group, row)
        seal = None if sealing is None else await trio.to_thread.run_sync(sealing.begin, point)
        plain = None
        if group.seal and isinstance(target, TargetThere) and sealing is None:
            head = point.decoded()
            target.begin_point(head)
            plain = plain_check(head)
        copy = PointCopy(source, target, point, proven, self.counters, self._note, seal, plain)
        await copy.run()
        self.counters.points += 1
        self.counters.moved += 1
        await self._copied(group, row, point.origin.hash)
        # At once, and not at the end of what may take days: retention there must not come first.
        await self._bring_pins(group, [row])

    def _check(self, point: CopiedPoint, row: CopyRow, group: Group) -> None:
        """Raise unless the source gives the point that it listed, and that this home made, where it made it."""
        head = point.decoded()
        if head.job != group.head_job or point.point_id != row.row.point:
            raise DamagedData(
                f"{self.order.source} gives another restore point than it lists",
                "find out what happened to that repository",
            )
        last = self.context.catalog.last_point(head.job)
        mine = last is not None and last.point == point.point_id and not row.row.resealed
        if mine and last is not None and last.point_hash != point.origin.hash:
            what = f"restore point {point.point_id.hex()[:8]} is not the one that this node committed"
            self.context.bus.publish(SecurityEvent(peer=str(self.order.source), what=what))
            raise DamagedData(what, "find out what happened to that repository; copy it from another one")

    # --- ends -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _open_source(self) -> AsyncIterator[CopySource]:
        end, context = self.order.source, self.context
        if end.peer:
            async with open_source_there(context, end.peer, end.repository, self.order.label) as there:
                self._ends.append(there)
                yield there
            return
        # For reading only: it goes on beside the daemon that writes.
        store = await trio.to_thread.run_sync(open_store, context, end.repository)
        with store:
            yield SourceHere(str(end), context.identity.pin, store)

    @asynccontextmanager
    async def _open_target(self, group: Group, source: CopySource) -> AsyncIterator[CopyTarget]:
        end, context = self.order.target, self.context
        there = group.seal and self.order.seal == "target"
        by = "sealed there under" if there else "sealed under"
        anew = f"{by} {self.order.password}".encode() if group.seal else b""
        name = copy_name(source.pin, source.repository_id, group.domain, anew)
        if end.peer:
            opened = open_target_there(
                context,
                end.peer,
                end.repository,
                group.job,
                name,
                self.run_id,
                self.order.label,
                sealed_by=self.order.password if there else None,
            )
            async with opened as target:
                self._ends.append(target)
                yield target
            return
        if there:
            raise UsageError("the target is this node: it seals on the way", "--encrypt source --password NAME")
        with context.store(end.repository) as store:
            async with open_target_here(store, str(end), own_tenant(context), group.job, name) as here:
                yield here

    def _count_bytes(self) -> None:
        """Add what the sessions that have ended moved."""
        for end in self._ends:
            if end.session is not None:
                self._sent_before += end.session.bytes_sent
                self._received_before += end.session.bytes_received
                self.streams = max(self.streams, end.session.streams)
        self._ends.clear()

    def _sessions_moved(self) -> int:
        sessions = (end.session for end in self._ends)
        return sum(session.bytes_sent + session.bytes_received for session in sessions if session is not None)

    async def _watch(self) -> None:
        """Break off when an end owes something and gives nothing; a paused job owes nothing."""
        since, moved, alive = trio.current_time(), self.counters.moved, self._sessions_moved()
        while True:
            await trio.sleep(WATCH_SECONDS)
            went = self._sessions_moved()
            if self.counters.moved != moved or went - alive >= ALIVE_BYTES or self.context.gate.shut:
                since, moved, alive = trio.current_time(), self.counters.moved, went
            if trio.current_time() - since >= STALL_SECONDS:
                raise NoAnswer("one end of the copy neither gives nor takes chunks")

    # --- for people -----------------------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        self.context.bus.publish(Note(text=text, job=self.order.label))

    async def _publish_progress(self) -> None:
        while True:
            await trio.sleep(PROGRESS_SECONDS)
            counters = self.counters
            self.context.bus.publish(
                Progress(
                    job=self.order.label,
                    bytes_read=counters.bytes_stored + self._pushed,
                    bytes_new=counters.bytes_new,
                    bytes_sent=self._sent_before + self._sessions_moved(),
                )
            )


class _Conflict(Exception):
    """Another point of that id is at the target."""

    def __init__(self, error: TransporterError) -> None:
        super().__init__(str(error))
        self.error = error


def _first_failure(error: Exception) -> Exception:
    if isinstance(error, LinkBroken):
        return CannotConnect(str(error), "check the line and the log of the peer")
    return error


def _damaged_there(order: CopyOrder, point: bytes) -> DamagedData:
    return DamagedData(
        f"restore point {point.hex()[:8]} is damaged at {order.target}",
        "have it removed there (scrub names it), then copy it again",
    )


async def _learn(source: CopySource, row: CopyRow, proven: Proven) -> None:
    """Take in the chunks of a point that is at the target already: they were proven when it was copied."""
    await source.open_point(row)
    start = 0
    while part := await source.needs(start):
        start += len(part) // 32
        proven.add([part[at : at + 32] for at in range(0, len(part), 32)])
    proven.settle()
