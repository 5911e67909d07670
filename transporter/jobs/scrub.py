"""Scrub: prove a repository of this node beside running jobs, on all cores, and heal what is damaged.

The steps are the repository's (repository/scrub.py); here they are given to threads, paced, and remembered, so that a
scrub of weeks goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from transporter import events
from transporter.clock import Clock
from transporter.errors import DamagedData
from transporter.events import EventBus
from transporter.jobs.in_order import InOrder
from transporter.repository import Repository, RepositoryBusy
from transporter.repository.healing import Healed, Supply
from transporter.repository.scrub_course import Course
from transporter.repository.scrub_packs import PackFindings
from transporter.repository.scrub_report import Finding, ScrubReport
from transporter.repository.supply import Copy, Supplied, Wanted, supply_from
from transporter.throttle.pace import Arbiter, Bucket, Pace

PROGRESS_SECONDS = 0.25
# How often it is remembered where a scrub is: what is proved in so long is proved twice after a crash.
REMEMBER_SECONDS = 30.0
# How long healing waits for a prune, or another scrub that heals, and how often it looks.
TURN_SECONDS = 3600.0
TURN_AGAIN_SECONDS = 0.5
UNREADABLE = "nobody can tell whose it is: move the file out of the repository, then scrub once more"


@dataclass(frozen=True)
class ScrubOrder:
    """What is asked for. ``share``: of the packs, 0 < share ≤ 1; ``limit``: bytes a second, 0 for none.

    ``anew``: not to go on with a scrub that was interrupted.
    """

    repository: str
    share: float = 1.0
    limit: int = 0
    heal: bool = False
    anew: bool = False


@dataclass
class ScrubOutcome:
    """What a scrub did: ``report`` of what it found, and what became of that."""

    report: ScrubReport
    healed_packs: int = 0
    healed: Healed = field(default_factory=Healed)
    supplied: Supplied = field(default_factory=Supplied)
    resumed: bool = False
    seconds: float = 0.0

    @property
    def left(self) -> int:
        """How many objects are damaged now."""
        return self.report.damage_count - self.healed_packs

    def public(self) -> dict[str, Any]:
        """Return it as plain values."""
        report = self.report
        return {
            **{name: getattr(report, name) for name in ("packs", "records", "points", "slots", "bytes")},
            "damaged": report.damage_count,
            "healed": self.healed_packs,
            "kept": self.healed.saved,
            "supplied": self.healed.supplied + self.supplied.chunks,
            "lost": self.healed.lost,
            "resumed": self.resumed,
            "seconds": round(self.seconds, 3),
        }


class Scrub:
    """One scrub of ``store`` (open for writing, to heal); ``copy``: where lost chunks are looked for, to heal.

    ``far``: it is at a peer. Then packs are healed without it, and it supplies what they lost: while a pack is healed
    others wait for it, and they must not wait for a line.
    """

    def __init__(
        self,
        order: ScrubOrder,
        store: Repository,
        clock: Clock,
        bus: EventBus,
        copy: Copy | None = None,
        *,
        far: bool = False,
    ) -> None:
        self._order = order
        self._store = store
        self._clock = clock
        self._bus = bus
        self._copy = copy if order.heal else None
        self._far = far
        self._scrubber = store.scrubber()
        self._pace = Pace(Arbiter(), [Bucket(order.limit)])
        self._remembered = trio.current_time()
        self._told = float("-inf")
        self.outcome = ScrubOutcome(self._scrubber.report)

    async def run(self) -> ScrubOutcome:
        """Scrub. DiskFull and such where a disk fails; what was proved is remembered."""
        # Until it ends, a prune takes none of the packs that it may be reading.
        with await trio.to_thread.run_sync(self._store.session):
            return await self._run()

    async def _run(self) -> ScrubOutcome:
        began = self._clock.monotonic()
        await trio.to_thread.run_sync(self._scrubber.begin)
        await self._prove_packs()
        if self._order.heal:
            await self._supply_listed()
        await self._prove_points()
        await self._tell_new(self._scrubber.check_slots)
        for finding in self.outcome.report.repairable:
            self._tell(finding)
        for finding in self.outcome.report.notes:
            self._bus.publish(events.Note(text=f"{finding.where}: {finding.what}"))
        self.outcome.seconds = self._clock.monotonic() - began
        return self.outcome

    # -- packs ------------------------------------------------------------------------------------------------------

    async def _prove_packs(self) -> None:
        course = await trio.to_thread.run_sync(self._set_out)
        if course.resumed:
            self.outcome.resumed = True
            text = f"goes on where an earlier scrub of {self._order.repository} stopped: {course.packs:,} packs proved"
            self._bus.publish(events.Note(text=text))

        async def took(name: bytes, found: PackFindings) -> None:
            healed = await self._take(name, found)
            course.proved(name, found.report.bytes, damaged=bool(found.report.damaged_packs) and not healed)
            await self._on_the_way(course)

        try:
            for name in course.again:
                await self._take(name, await self._check(name))
            await InOrder(course.names(), self._check, took).run(len(os.sched_getaffinity(0)))
            if self._order.share == 1:
                course.end()
        finally:
            course.remember()
        if course.total:
            self._tell_progress(course)
        await self._tell_new(lambda: self._scrubber.end_of_packs(whole=course.whole))
        await self._heal_gone()

    def _set_out(self) -> Course:
        order = self._order
        file = self._store.scrub_state()
        return Course(file, self._scrubber.packs, self._clock, share=order.share, anew=order.anew)

    async def _check(self, name: bytes) -> PackFindings:
        return await trio.to_thread.run_sync(self._scrubber.packs.check_pack, name, self._before_read)

    def _before_read(self, count: int) -> None:
        """Wait for the turn of ``count`` bytes; raises Cancelled. In a thread."""
        if self._order.limit:
            trio.from_thread.run(self._pace.pay, count)
        else:
            trio.from_thread.check_cancelled()

    async def _take(self, name: bytes, found: PackFindings) -> bool:
        """Take in what was found of a pack, heal it where that is asked for, and return whether it was."""
        damaged = bool(found.report.damaged_packs)
        if damaged and self._order.heal:
            # When points are looked at these are there again, or unknown.
            found.report.damaged_chunks.clear()
        self._scrubber.packs.take(found)
        for finding in found.report.damage:
            self._tell(finding)
        return damaged and self._order.heal and await self._heal(name)

    async def _on_the_way(self, course: Course) -> None:
        now = trio.current_time()
        if now - self._remembered > REMEMBER_SECONDS:
            self._remembered = now
            await trio.to_thread.run_sync(course.remember)
        if now - self._told > PROGRESS_SECONDS:
            self._told = now
            self._tell_progress(course)

    def _tell_progress(self, course: Course) -> None:
        report = self.outcome.report
        packs, size = (course.packs, course.size) if self._order.share == 1 else (report.packs, report.bytes)
        self._bus.publish(
            events.ScrubProgress(
                repository=self._order.repository,
                packs=packs,
                packs_total=max(course.total, packs),
                bytes_checked=size,
                bytes_total=max(course.total_bytes, size) or None,
            )
        )

    # -- healing ----------------------------------------------------------------------------------------------------

    async def _heal(self, name: bytes) -> bool:
        supply = supply_from(self._copy) if self._copy is not None and not self._far else None
        try:
            done = await self._heal_in_turn(name, supply)
        except DamagedData as error:
            self._tell(Finding(f"pack {name.hex()}", f"{error.what}: {UNREADABLE}"))
            return False
        self.outcome.healed_packs += 1
        self.outcome.healed += done
        return True

    async def _heal_in_turn(self, name: bytes, supply: Supply | None) -> Healed:
        """Heal a pack once nobody prunes, or heals: a scrub of hours must not be lost for minutes of that."""
        until, told = trio.current_time() + TURN_SECONDS, False
        while True:
            try:
                return await trio.to_thread.run_sync(self._store.heal, [name], supply)
            except RepositoryBusy as busy:
                if trio.current_time() >= until:
                    raise
                if not told:
                    self._bus.publish(events.Note(text=f"healing waits: {busy.what}"))
                    told = True
            await trio.sleep(TURN_AGAIN_SECONDS)

    async def _heal_gone(self) -> None:
        """Heal what was found after the packs had been gone through: those that are not there."""
        if self._order.heal:
            for name in self._scrubber.packs.gone:
                await self._heal(name)

    async def _supply_listed(self) -> None:
        """Have the copy supply what earlier damage took, and forget the lists of which nothing is missing any more."""
        copy = self._copy
        if copy is not None:
            done = await self._supply(copy, self._store.wanted_chunks())
            healed = self.outcome.healed
            self.outcome.healed = replace(healed, lost=min(healed.lost, done.still_lost))
        await trio.to_thread.run_sync(self._store.forget_found)

    async def _supply(self, copy: Copy, wanted: Iterable[Wanted]) -> Supplied:
        done = await trio.to_thread.run_sync(self._store.supply, copy, wanted, self._before_read)
        self.outcome.supplied.chunks += done.chunks
        self.outcome.supplied.bytes += done.bytes
        self.outcome.supplied.unproved += done.unproved
        if self._far and done.unproved:
            text = (
                f"of {done.unproved:,} chunks that the peer supplied no hash is left here: they are what its repository"
                " proves; `transporter verify` at the source proves that they open"
            )
            self._bus.publish(events.Note(text=text))
        for problem in done.problems if self._far else ():
            self._bus.publish(events.Note(text=f"not supplied: {problem}"))
        return done

    # -- points -----------------------------------------------------------------------------------------------------

    async def _prove_points(self) -> None:
        report = self.outcome.report
        before = (report.damage_count, len(report.damage), report.points, report.bytes)
        await self._each_point()
        copy = self._copy
        if copy is not None and report.missing_chunks:
            wanted = await trio.to_thread.run_sync(self._unlisted)
            if wanted and (await self._supply(copy, wanted)).chunks:
                # What they lacked is there now, or some of it: what counts is how they are left.
                report.damage_count, kept, report.points, report.bytes = before
                del report.damage[kept:]
                report.missing_chunks.clear()
                await self._each_point()
        for finding in report.damage[before[1] :]:
            self._tell(finding)

    def _unlisted(self) -> list[Wanted]:
        """Return the missing chunks that may be had from the copy without knowing anything but their names.

        Of a peer never what is listed as lost: it has just failed to give what was, and must not give something else.
        """
        missing = dict(self.outcome.report.missing_chunks)
        for tenant, chunk in self._store.lost_chunks() if self._far else ():
            missing.pop((tenant, chunk.domain, chunk.chunk_id), None)
        return [Wanted(*chunk, None) for chunk in missing]

    async def _each_point(self) -> None:
        for point in await trio.to_thread.run_sync(list, self._scrubber.points()):
            await trio.to_thread.run_sync(self._scrubber.check_point, *point)

    # -- telling ----------------------------------------------------------------------------------------------------

    async def _tell_new(self, step: Callable[[], None]) -> None:
        """Take a step in a thread, and tell of the damage that it found."""
        before = len(self.outcome.report.damage)
        await trio.to_thread.run_sync(step)
        for finding in self.outcome.report.damage[before:]:
            self._tell(finding)

    def _tell(self, finding: Finding) -> None:
        self._bus.publish(events.DamageFound(where=finding.where, what=finding.what))
