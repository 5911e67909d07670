"""Backup, the target's half: stored chunks in, records in packs, acknowledgements back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from pipeline.channel import ByteChannel
from pipeline.workers import Lane
from protocol.messages import Chunk as ChunkHeader
from transporter.errors import TransporterError
from transporter.repository import ChunkRecord, PackWriter

# Enough to keep the disk busy while the next chunks arrive, little enough to lose in a crash.
QUEUE_BYTES = 8 << 20
QUEUE_ITEMS = 256
# A sync for each few MiB: its cost disappears beside the writing, and the source may forget the chunks sooner.
SYNC_BYTES = 6 << 20
IDLE_SECONDS = 0.02
BATCH_BYTES = 4 << 20
# Chunks come one by one, and a hop into a thread for each would cost as much as writing it: wait for a few.
GATHER_BYTES = 1536 << 10
GATHER_SECONDS = 0.005
ACKNOWLEDGE_AT_MOST = 1024


@dataclass(slots=True)
class Incoming:
    """A chunk as it came: its header and its stored bytes."""

    header: ChunkHeader
    stored: memoryview = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes held in memory."""
        return len(self.stored)


class ChunkWriter:
    """Writes what arrives and acknowledges what is durable. ``to_record`` seals where the zone says so."""

    def __init__(
        self,
        writer: PackWriter,
        to_record: Callable[[ChunkHeader, memoryview], ChunkRecord],
        acknowledge: Callable[[bytes], Awaitable[None]],
        lane: Lane,
    ) -> None:
        self._writer = writer
        self._to_record = to_record
        self._acknowledge = acknowledge
        self._lane = lane
        self._unsynced = 0
        self._unwritten = 0
        self._caught_up = trio.lowlevel.ParkingLot()
        self._written = trio.Event()
        self._synced = trio.Event()
        self.incoming: ByteChannel[Incoming] = ByteChannel("incoming", QUEUE_ITEMS, QUEUE_BYTES, lambda item: item.size)

    async def put(self, header: ChunkHeader, stored: memoryview) -> None:
        """Queue one chunk; waits while the disk is behind."""
        self._unwritten += 1
        await self.incoming.send(Incoming(header, stored))

    async def caught_up(self) -> None:
        """Wait until everything that has been put is written."""
        while self._unwritten:
            await self._caught_up.park()

    async def write(self) -> None:
        """Write until cancelled. One batch is one hop into a thread."""
        while True:
            # Wait for the next chunk; if none comes for a moment, what was written should not wait for a full batch.
            with trio.move_on_after(IDLE_SECONDS if self._unsynced else float("inf")) as idle:
                first = await self.incoming.receive()
            if idle.cancelled_caught:
                self._written.set()
                await self._synced.wait()
                continue
            batch = await self._gather(first)
            await self._lane.run(self._write_batch, batch)
            self._unsynced += sum(item.size for item in batch)
            self._unwritten -= len(batch)
            if not self._unwritten:
                self._caught_up.unpark_all()
            if self._unsynced >= SYNC_BYTES:
                self._written.set()

    async def _gather(self, first: Incoming) -> list[Incoming]:
        """Return ``first`` and what comes right behind it."""
        batch, size = [first], first.size
        with trio.move_on_after(GATHER_SECONDS):
            while size < GATHER_BYTES:
                batch.append(await self.incoming.receive())
                size += batch[-1].size
        while size < BATCH_BYTES:
            try:
                batch.append(self.incoming.receive_nowait())
            except trio.WouldBlock:
                break
            size += batch[-1].size
        return batch

    def _write_batch(self, batch: list[Incoming]) -> None:
        for item in batch:
            self._writer.append(self._to_record(item.header, item.stored))

    async def sync(self) -> None:
        """Make durable and acknowledge, beside the writing, until cancelled."""
        while True:
            await self._written.wait()
            self._written = trio.Event()
            self._unsynced = 0
            synced, self._synced = self._synced, trio.Event()
            synced.set()
            ids = await self._lane.run(self._writer.sync)
            for at in range(0, len(ids), ACKNOWLEDGE_AT_MOST):
                await self._acknowledge(b"".join(ids[at : at + ACKNOWLEDGE_AT_MOST]))

    def drain(self) -> None:
        """Write what is queued and close the packs, so that all of it is durable and visible. In a thread.

        Called at every end of a session. Where writing itself was the reason for the end (disk full, quota), that has
        been said already, and what cannot be published now stays in the journal for salvage.
        """
        with suppress(TransporterError):
            while True:
                try:
                    item = self.incoming.receive_nowait()
                except trio.WouldBlock:
                    break
                self._writer.append(self._to_record(item.header, item.stored))
        with suppress(TransporterError):
            self._writer.close()
