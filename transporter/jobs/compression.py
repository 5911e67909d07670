"""Which codec a run's chunks get, and at what level: as configured, or as the line and the processors want it.

Stands between the packing threads and the link, because it has to see both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.chunk import CODEC_LZ4, CODEC_RAW, CODEC_ZSTD, Chunk
from pipeline.controller import Controller, Look
from pipeline.rungs import LADDER
from pipeline.workers import Lane, processors
from protocol.data import HEADROOM
from transporter.clock import Clock
from transporter.jobs.packing import Pack
from transporter.jobs.processor_time import ProcessorTime
from transporter.link.resilient import ResilientLink

# The level of a job that wants zstd whatever the line does.
FIXED_LEVEL = {"lz4": 0, "zstd": 3}
# A put that takes longer had to wait for room.
WAITED_SECONDS = 0.001


@dataclass
class CodecCount:
    """How many chunks went by one codec, and how many bytes they had as they were stored."""

    chunks: int = 0
    bytes: int = 0


@dataclass
class Compression:
    """Packs the groups of one run and puts their chunks. ``mode`` as in the configuration."""

    link: ResilientLink
    pack: Pack
    mode: str
    clock: Clock
    counts: dict[int, CodecCount] = field(
        default_factory=lambda: {codec: CodecCount() for codec in (CODEC_RAW, CODEC_LZ4, CODEC_ZSTD)}
    )

    def __post_init__(self) -> None:
        self.width = processors()
        self._lane = Lane(self.width)
        self._controller = Controller(self.width)
        self._processor_time = ProcessorTime()
        self._busy = self._processor_time.busy()
        self._packing_seconds = 0.0
        self._put_bytes = 0
        self._put_began: float | None = None
        self._waited = False

    async def pack_group(self, chunks: list[Chunk]) -> list[Chunk]:
        """Pack a group in a thread and return it."""
        rung, level = self._choose()
        plain = sum(chunk.plain_length for chunk in chunks)
        began = self.clock.monotonic()
        cpu_seconds = await self._lane.run(_pack_all, self.pack, chunks, level)
        self._packing_seconds += cpu_seconds
        stored = sum(self._count(chunk) for chunk in chunks)
        self._controller.packed(rung, plain, stored, cpu_seconds, self.clock.monotonic() - began)
        return chunks

    async def put(self, chunk: Chunk) -> None:
        """Hand a packed chunk to the link; one task at a time."""
        began = self._put_began = self.clock.monotonic()
        size = chunk.size
        await self.link.put(chunk)
        self._put_began = None
        self._put_bytes += size
        self._waited |= self.clock.monotonic() - began > WAITED_SECONDS

    def _choose(self) -> tuple[int, int]:
        """Return (rung, level) for the next group."""
        fixed = FIXED_LEVEL.get(self.mode)
        if fixed is not None:
            return 0, fixed
        rung = self._controller.choose(self._look())
        return rung, LADDER[rung].level

    def _look(self) -> Look:
        now, queued = self.clock.monotonic(), self.link.queued
        waits = self._put_began is not None and now - self._put_began > WAITED_SECONDS
        waited, self._waited = self._waited or waits, False
        return Look(now, self._put_bytes - queued, queued, waited, self._others())

    def _others(self) -> float | None:
        """Return the seconds of processors since the last look that anything but packing took."""
        busy, before = self._processor_time.busy(), self._busy
        self._busy = busy
        packing, self._packing_seconds = self._packing_seconds, 0.0
        return None if busy is None or before is None else busy - before - packing

    def _count(self, chunk: Chunk) -> int:
        stored = chunk.size - HEADROOM
        count = self.counts[chunk.codec]
        count.chunks += 1
        count.bytes += stored
        return stored

    def facts(self) -> dict[str, int]:
        """Return what went by which codec, named as in the job's last event."""
        names = {"raw": CODEC_RAW, "lz4": CODEC_LZ4, "zstd": CODEC_ZSTD}
        chunks = {f"chunks_{name}": self.counts[codec].chunks for name, codec in names.items()}
        return chunks | {f"bytes_{name}": self.counts[codec].bytes for name, codec in names.items()}


def _pack_all(pack: Pack, chunks: Sequence[Chunk], level: int) -> float:
    """Pack a group; return how long this thread had a processor for it."""
    began = time.thread_time()
    for chunk in chunks:
        pack(chunk, level)
    return time.thread_time() - began
