"""Verify: open every chunk of a point as a restore would, and write nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from pipeline.run import open_tasks
from transporter.errors import DamagedData
from transporter.events import DamageFound, JobFinished, JobStarted, VerifyProgress
from transporter.jobs.context import JobContext
from transporter.jobs.fetch import Wanted
from transporter.jobs.manifest_stream import Preamble
from transporter.jobs.points import check_newest, choose_point, expected_zone, list_points, where_of
from transporter.jobs.recovery import Recovery, open_recovery, wait_for
from transporter.workloads.entry import Entry
from transporter.workloads.restore_path import DryWalk

PROGRESS_SECONDS = 0.25
WAITING = 16
_BUCKETS = 1 << 32


@dataclass(frozen=True)
class VerifyOrder:
    """What a person asked for. ``sample``: the share of the content chunks to open, 0 < sample ≤ 1."""

    job: str
    point: str
    sample: float
    source: str
    password: bytes
    zone: str


def in_sample(share: float) -> Callable[[bytes], bool]:
    """Return the test for a sample: by chunk id, so that it is fair, repeatable and needs no memory."""
    limit = int(share * _BUCKETS)
    return lambda chunk_id: int.from_bytes(chunk_id[:4], "big") < limit


async def run_verify(context: JobContext, order: VerifyOrder) -> JobFinished:
    """Verify a point. Raises DamagedData (after looking at everything) when anything is not what was stored."""
    began = context.clock.monotonic()
    where = where_of(context, order.job, order.source)
    zone = expected_zone(context, order.job, order.zone)
    row = choose_point(await list_points(context, where), order.point, order.job, zone)
    point = row.point.hex()
    context.bus.publish(
        JobStarted(
            job=order.job, operation="verify", peer=where.peer, repository=where.repository, zone=row.zone, point=point
        )
    )
    async with open_recovery(context, where, row, order.password, by_kept_key=False) as recovery:
        check_newest(context, where, order.point, row.point, recovery.head.created_ns)
        verify = _Verify(context, order, recovery)
        await verify.run()
    if verify.damaged:
        raise DamagedData(
            f"{verify.damaged} chunks of restore point {point[:8]} are damaged or missing",
            "at the target stop the daemon and run `scrub --heal`; the next run of the job stores them again",
        )
    return JobFinished(
        job=order.job,
        operation="verify",
        point=point,
        kind=row.kind,
        zone=row.zone,
        bytes_received=recovery.link.bytes_received,
        bytes_sent=recovery.link.bytes_sent,
        bytes_total=row.size,
        files=verify.files,
        chunks=recovery.content.chunks + recovery.metadata.chunks,
        seconds=round(context.clock.monotonic() - began, 3),
        streams=recovery.link.streams,
        redials=recovery.redials[0],
    )


class _Verify:
    def __init__(self, context: JobContext, order: VerifyOrder, recovery: Recovery) -> None:
        self._context = context
        self._order = order
        self._recovery = recovery
        self._wants = in_sample(order.sample)
        self._recent: dict[bytes, None] = {}
        self.files = 0
        self.damaged = 0

    async def run(self) -> None:
        send, receive = trio.open_memory_channel[Wanted](WAITING)
        async with open_tasks() as watch:
            watch.start_soon(self._publish_progress)
            async with open_tasks() as nursery:
                nursery.start_soon(self._read_manifest, send)
                nursery.start_soon(self._check, receive)
            watch.cancel_scope.cancel()

    async def _read_manifest(self, send: trio.MemorySendChannel[Wanted]) -> None:
        walk: DryWalk | None = None

        async def use(preamble: Preamble, entries: list[Entry]) -> None:
            nonlocal walk
            walk = walk or DryWalk(preamble.roots)
            for entry in entries:
                walk.take(entry)
                self.files += entry.kind == "f"
                for chunk_id in entry.chunk_ids():
                    if self._new(chunk_id) and self._wants(chunk_id):
                        await send.send(await self._recovery.content.want(chunk_id))

        with send:
            await self._recovery.read_manifest(use)
        if walk is None:
            raise DamagedData("the manifest is empty", "restore another point")
        walk.finish()

    def _new(self, chunk_id: bytes) -> bool:
        """Tell whether a chunk was not looked at lately; looking twice costs time, remembering all costs memory."""
        if chunk_id in self._recent:
            return False
        self._recent[chunk_id] = None
        if len(self._recent) > 65_536:
            del self._recent[next(iter(self._recent))]
        return True

    async def _check(self, receive: trio.MemoryReceiveChannel[Wanted]) -> None:
        async for wanted in receive:
            try:
                await wait_for(wanted)
            except DamagedData as error:
                self.damaged += 1
                self._context.bus.publish(DamageFound(where=f"chunk {wanted.chunk_id.hex()[:16]}", what=error.what))
            self._recovery.content.done(wanted)

    async def _publish_progress(self) -> None:
        while True:
            await trio.sleep(PROGRESS_SECONDS)
            self._context.bus.publish(
                VerifyProgress(
                    job=self._order.job,
                    point=self._recovery.row.point.hex(),
                    chunks=self._recovery.content.chunks,
                    bytes_verified=self._recovery.content.bytes_plain,
                    bytes_total=self._recovery.row.size,
                )
            )
