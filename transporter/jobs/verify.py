"""Verify: open every chunk of a point as a restore would, and write nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio
from msgspec import UNSET

from pipeline.run import open_tasks
from transporter.errors import DamagedData
from transporter.events import DamageFound, JobFinished, JobStarted, VerifyProgress, display_path
from transporter.jobs.context import JobContext
from transporter.jobs.fetch import Wanted
from transporter.jobs.opening import is_robbed
from transporter.jobs.point_order import PointOrder, find_ordered, open_found
from transporter.jobs.preamble import Preamble
from transporter.jobs.recovery import Recovery, wait_for
from transporter.workloads.entry import CONTINUATION, Entry
from transporter.workloads.fsi import FsiBlock
from transporter.workloads.fsi_proof import IndexProof
from transporter.workloads.restore_path import DryWalk

PROGRESS_SECONDS = 0.25
WAITING = 16
_BUCKETS = 1 << 32
# Bad chunks that are remembered, to name the files that they are in: some 100 bytes each. All are counted.
BAD_AT_MOST = 100_000


@dataclass(frozen=True)
class VerifyOrder:
    """What a person asked for. ``sample``: the share of the content chunks to open, 0 < sample ≤ 1."""

    job: str
    point: str
    sample: float
    source: str
    password: bytes
    zone: str
    tenant: str = ""

    @property
    def meant(self) -> PointOrder:
        """Which point is meant."""
        return PointOrder(self.job, self.point, self.source, self.password, self.zone, self.tenant)


def in_sample(share: float) -> Callable[[bytes], bool]:
    """Return the test for a sample: by chunk id, so that it is fair, repeatable and needs no memory."""
    limit = int(share * _BUCKETS)
    return lambda chunk_id: int.from_bytes(chunk_id[:4], "big") < limit


async def run_verify(context: JobContext, order: VerifyOrder) -> JobFinished:
    """Verify a point. Raises DamagedData (after looking at everything) when anything is not what was stored."""
    began = context.clock.monotonic()
    found = await find_ordered(context, order.meant)
    where, row = found.where, found.row
    point = row.point.hex()
    context.bus.publish(
        JobStarted(
            job=order.job, operation="verify", peer=where.peer, repository=where.repository, zone=row.zone, point=point
        )
    )
    async with open_found(context, found) as recovery:
        verify = _Verify(context, order, recovery)
        await verify.run()
    if verify.damaged:
        raise DamagedData(
            f"{verify.damaged} chunks of restore point {point[:8]} are damaged or missing{_in_files(verify.files_hit)}",
            "at the target run `scrub --heal`, with `--from` where there is a copy; the next run of the job helps, too",
        )
    if verify.index_problem:
        raise DamagedData(
            f"the file-system index of restore point {point[:8]} does not fit its manifest: {verify.index_problem}",
            "a restore is right all the same; a search finds what the index lists. Run the job again: its next point "
            "has an index of its own",
        )
    because = recovery.opened.kept_because
    if because is not None and is_robbed(recovery.opened):
        # Whole, and lost with this node all the same: what is to be proved is that it opens without it.
        raise type(because)(f"restore point {point[:8]} is whole, but {because.what}", because.remedy)
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


def _in_files(count: int) -> str:
    return f", in {count} files" if count else ""


class _Verify:
    def __init__(self, context: JobContext, order: VerifyOrder, recovery: Recovery) -> None:
        self._context = context
        self._order = order
        self._recovery = recovery
        self._wants = in_sample(order.sample)
        self._recent: dict[bytes, None] = {}
        self.files = 0
        self.damaged = 0
        self.index_problem = ""
        self.files_hit = 0
        self._bad: set[bytes] = set()

    async def run(self) -> None:
        send, receive = trio.open_memory_channel[Wanted](WAITING)
        async with open_tasks() as watch:
            watch.start_soon(self._publish_progress)
            proof = await self._check_index()
            async with open_tasks() as nursery:
                nursery.start_soon(self._read_manifest, send, proof)
                nursery.start_soon(self._check, receive)
            if self._bad:
                await self._name_files()
            watch.cancel_scope.cancel()
        self.index_problem = proof.problem() if proof is not None else ""
        if self.index_problem:
            self._context.bus.publish(DamageFound(where="file-system index", what=self.index_problem))

    async def _read_manifest(self, send: trio.MemorySendChannel[Wanted], proof: IndexProof | None) -> None:
        walk: DryWalk | None = None

        async def use(preamble: Preamble, entries: list[Entry]) -> None:
            nonlocal walk
            walk = walk or DryWalk(preamble.roots)
            if proof is not None:
                proof.take_entries(entries)
            for entry in entries:
                walk.take(entry)
                self.files += entry.kind == "f" and not entry.flags & CONTINUATION
                for chunk_id in entry.chunk_ids():
                    if self._new(chunk_id) and self._wants(chunk_id):
                        await send.send(await self._recovery.content.want(chunk_id))

        with send:
            await self._recovery.read_manifest(use)
        if walk is None:
            raise DamagedData("the manifest is empty", "restore another point")
        walk.finish()

    async def _name_files(self) -> None:
        """Name the files that bad chunks are in: the manifest is read once more, for who could remember every name."""
        hit: dict[str, Any] = {}

        def tell() -> None:
            if hit:
                self.files_hit += 1
                what = f"{hit['chunks']} of its chunks are damaged or missing, {hit['bytes']:,} bytes at most"
                self._context.bus.publish(
                    DamageFound(
                        where=f"file {display_path(hit['path'])}", what=what, point=self._recovery.row.point.hex()
                    )
                )
                hit.clear()

        async def use(_preamble: Preamble, entries: list[Entry]) -> None:
            for entry in entries:
                if not entry.flags & CONTINUATION:
                    tell()
                for chunk_id, _offset, length in entry.iter_extents():
                    if chunk_id in self._bad:
                        hit.setdefault("path", entry.path)
                        hit["chunks"] = hit.get("chunks", 0) + 1
                        hit["bytes"] = hit.get("bytes", 0) + length

        await self._recovery.read_manifest(use)
        tell()

    async def _check_index(self) -> IndexProof | None:
        """Open every block of the file-system index; return what proves the manifest against it, if all were sound."""
        listed = self._recovery.head.fsi
        if listed is UNSET:
            return None
        proof = IndexProof()
        damaged = self.damaged

        def take(data: memoryview) -> None:
            proof.take_block(FsiBlock.parse(data))

        send, receive = trio.open_memory_channel[Wanted](WAITING)
        async with open_tasks() as nursery:
            nursery.start_soon(self._want_index, [chunk_id for chunk_id, _length in listed], send)
            async for wanted in receive:
                try:
                    await trio.to_thread.run_sync(take, await wait_for(wanted))
                except DamagedData as error:
                    self._note_damage(f"file-system index, chunk {wanted.chunk_id.hex()[:16]}", error)
                self._recovery.content.done(wanted)
        return proof if self.damaged == damaged else None

    async def _want_index(self, ids: list[bytes], send: trio.MemorySendChannel[Wanted]) -> None:
        with send:
            for chunk_id in ids:
                await send.send(await self._recovery.content.want(chunk_id))

    def _note_damage(self, where: str, error: DamagedData) -> None:
        self.damaged += 1
        self._context.bus.publish(DamageFound(where=where, what=error.what))

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
                self._note_damage(f"chunk {wanted.chunk_id.hex()[:16]}", error)
                if len(self._bad) < BAD_AT_MOST:
                    self._bad.add(wanted.chunk_id)
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
