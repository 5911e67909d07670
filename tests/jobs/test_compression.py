"""Between the packing threads and the link: which level a group gets, and what is counted."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from pipeline.chunk import CODEC_LZ4, CODEC_RAW, CODEC_ZSTD, Chunk
from pipeline.compress import decompress
from pipeline.controller import PRESSED
from pipeline.trust_zone import Zone, backup_source
from protocol.data import HEADROOM
from transporter.clock import ManualClock
from transporter.jobs.compression import Compression
from transporter.jobs.packing import compose_packing
from transporter.jobs.processor_time import STAT, ProcessorTime

TEXT = b"".join(b"%d: again and again\n" % number for number in range(50_000))


class Line:
    """A link as the compressor sees it: what was put waits until it is taken."""

    def __init__(self):
        self.waiting = []
        self.room = trio.Event()
        self.room.set()

    @property
    def queued(self):
        return sum(chunk.size for chunk in self.waiting)

    async def put(self, chunk):
        await self.room.wait()
        self.waiting.append(chunk)


def group(count=3):
    return [Chunk(bytes(32), len(TEXT), TEXT) for _ in range(count)]


def compression(line, mode, clock=None):
    return Compression(line, compose_packing(backup_source(Zone.NONE), None), mode, clock or ManualClock())


@pytest.mark.parametrize(("mode", "codec"), [("lz4", CODEC_LZ4), ("zstd", CODEC_ZSTD), ("adaptive", CODEC_LZ4)])
async def test_the_codec_is_the_configured_one_and_adaptive_begins_with_lz4(mode, codec):
    made = compression(Line(), mode)
    chunks = await made.pack_group(group())
    assert {chunk.codec for chunk in chunks} == {codec}
    for chunk in chunks:
        assert decompress(chunk.codec, memoryview(chunk.data)[HEADROOM + 1 :], len(TEXT)) == TEXT


async def test_a_line_that_lags_behind_gets_harder_packed_chunks_and_a_free_one_lz4_again():
    line, clock = Line(), ManualClock()
    made = compression(line, "adaptive", clock)
    codecs, pressed = [], 0
    # One chunk leaves while three come. Ten rounds under pressure: what zstd makes of this text piles up slowly.
    while pressed < 10 and len(codecs) < 200:
        clock.advance(0.1)
        chunks = await made.pack_group(group())
        codecs.append(chunks[0].codec)
        for chunk in chunks:
            await made.put(chunk)
        del line.waiting[:1]
        pressed += line.queued >= PRESSED
    assert codecs[0] == CODEC_LZ4 and codecs[-1] == CODEC_ZSTD
    assert line.queued >= PRESSED
    for _ in range(40):
        line.waiting.clear()
        clock.advance(0.1)
        chunks = await made.pack_group(group())
    assert chunks[0].codec == CODEC_LZ4


async def test_whoever_waits_for_room_counts_as_a_line_that_lags_behind():
    line, clock = Line(), ManualClock()
    made = compression(line, "adaptive", clock)
    chunks = await made.pack_group(group())
    await made.put(chunks[0])
    assert not made._look().waited
    line.room = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.put, chunks[1])
        await trio.testing.wait_all_tasks_blocked()
        clock.advance(1.0)
        assert made._look().waited, "while it waits"
        line.room.set()
    assert made._look().waited, "and once after it has waited"
    assert not made._look().waited


async def test_what_went_by_which_codec_is_counted():
    made = compression(Line(), "zstd")
    noise = os.urandom(100_000)
    await made.pack_group([*group(2), Chunk(bytes(32), len(noise), noise)])
    facts = made.facts()
    assert (facts["chunks_zstd"], facts["chunks_raw"], facts["chunks_lz4"]) == (2, 1, 0)
    assert facts["bytes_raw"] == len(noise) + 1
    assert 0 < facts["bytes_zstd"] < len(TEXT)
    assert facts["bytes_lz4"] == 0
    assert CODEC_RAW == 0


def test_the_time_of_processors_is_what_is_not_idle(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 300 5000 600 7 8 9 0 0\ncpu0 1 2 3\n")
    source = ProcessorTime(stat)
    assert source.busy() == pytest.approx((100 + 20 + 300 + 7 + 8 + 9) / source._ticks)


@pytest.mark.parametrize("text", ["", "cpu\n", "cpu 1 2 3\n", "cpu a b c d e f g h\n", "intr 1 2 3 4 5 6 7 8\n", None])
def test_where_nobody_counts_it_is_unknown(tmp_path, text):
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert ProcessorTime(tmp_path / "stat").busy() is None


@pytest.mark.skipif(not STAT.exists(), reason="no such file here")
def test_this_machine_counts():
    assert ProcessorTime().busy() > 0
