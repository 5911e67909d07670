"""Buffers, the reader, the cutter and the compressor."""

from __future__ import annotations

import os
import random

import lz4.block
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.channel import ByteChannel
from pipeline.chunk import CODEC_LZ4, CODEC_RAW, Buffer, Chunk
from pipeline.chunker import CONTENT_SIZES, ChunkSizes, StreamCutter
from pipeline.compress import DecompressionError, compress, decompress
from pipeline.read import BufferPool, read_stage
from pipeline.trust_zone import Stage, Zone, backup_source, backup_target, recovery_source, recovery_target
from pipeline.workers import Lane

SIZES = ChunkSizes(64, 256, 1024)


# --- buffers --------------------------------------------------------------------------------------------------


async def test_a_pool_never_has_more_buffers_out_than_its_count(nursery):
    pool = BufferPool(2, headroom=10, block=20)
    first, second = await pool.take(), await pool.take()
    assert first is not second
    taken = []

    async def take():
        taken.append(await pool.take())

    nursery.start_soon(take)
    await trio.testing.wait_all_tasks_blocked()
    assert taken == []
    first.hold()
    first.drop()
    await trio.testing.wait_all_tasks_blocked()
    assert taken == [], "one user is left"
    first.drop()
    await trio.testing.wait_all_tasks_blocked()
    assert taken == [first], "the same memory again"


async def test_a_buffer_is_given_back_once_all_chunks_in_it_let_go():
    pool = BufferPool(1, headroom=0, block=100)
    buffer = await pool.take()
    chunks = [Chunk(bytes(32), 10, buffer.block[at : at + 10], buffer=buffer) for at in (0, 10)]
    for _ in chunks:
        buffer.hold()
    buffer.drop()
    for chunk in chunks:
        chunk.let_go()
        chunk.let_go()  # a second time does nothing
    with trio.fail_after(1):
        assert await pool.take() is buffer


async def test_a_closed_pool_lets_its_memory_go():
    pool = BufferPool(1, headroom=0, block=1)
    buffer = await pool.take()
    pool.close()
    buffer.drop()
    assert pool._free == []


async def test_a_cancelled_take_takes_nothing():
    pool = BufferPool(1, headroom=0, block=1)
    buffer = await pool.take()
    with trio.move_on_after(0):
        await pool.take()
    buffer.drop()
    with trio.fail_after(1):
        assert await pool.take() is buffer


async def test_the_reader_reads_until_the_end_in_bounded_memory(nursery):
    content = os.urandom(1000)
    pool = BufferPool(2, headroom=0, block=64)
    units = ByteChannel("units", 10, 10_000, lambda unit: unit.length)
    at = 0

    def fill(block):
        nonlocal at
        part = content[at : at + len(block)]
        block[: len(part)] = part
        at += len(part)
        return len(part), f"until {at}", at == len(content)

    nursery.start_soon(read_stage, fill, pool, units, Lane(1))
    got, seen, last = b"", set(), None
    async for unit in units:
        got += bytes(unit.buffer.block[: unit.length])
        seen.add(id(unit.buffer))
        last = unit
        unit.buffer.drop()
    assert got == content
    assert (last.last, last.pending) == (True, "until 1000")
    assert len(seen) <= 2


async def test_what_fails_in_the_readers_thread_is_the_stages_error():
    def fill(_block):
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        await read_stage(fill, BufferPool(1, 0, 1), ByteChannel("units", 1, 1, len), Lane(1))


# --- cutting --------------------------------------------------------------------------------------------------


def cut_in_blocks(data, ends, sizes, *, forced=()):
    cutter = StreamCutter(sizes)
    pieces, start = [], 0
    for number, end in enumerate([*ends, len(data)]):
        block = data[start:end]
        buffer = Buffer(sizes.maximum, max(len(block), 1), lambda _: None)
        buffer.block[: len(block)] = block
        last = number == len(ends)
        pieces += [bytes(piece) for piece in cutter.cut(buffer, len(block), last=last or number in forced)]
        if last or number in forced:
            assert cutter.waiting == 0
        assert cutter.waiting < sizes.maximum
        start = end
    return pieces


def noise(seed, size, zeros):
    """Random bytes with long runs of zeros, which FastCDC cuts at its maximum."""
    maker = random.Random(seed)
    data = bytearray(maker.randbytes(size))
    for _ in range(zeros):
        at = maker.randrange(size + 1)
        data[at : at + 3000] = bytes(len(data[at : at + 3000]))
    return bytes(data)


@given(st.integers(0, 2**32), st.integers(0, 12_000), st.integers(0, 3), st.lists(st.integers(0, 12_000), max_size=12))
@settings(max_examples=150, deadline=None)
def test_cutting_block_by_block_equals_cutting_the_whole(seed, size, zeros, ends):
    data = noise(seed, size, zeros)
    ends = sorted(min(end, size) for end in ends)
    whole = [bytes(piece) for piece in StreamCutter(SIZES).cut_whole(memoryview(data))]
    assert cut_in_blocks(data, ends, SIZES) == whole
    assert b"".join(whole) == data


def test_the_real_sizes_cut_alike_in_any_blocks():
    data = random.Random(1).randbytes(20 << 20)
    data = data[: 9 << 20] + bytes(9 << 20) + data[9 << 20 :]
    whole = [bytes(piece) for piece in StreamCutter(CONTENT_SIZES).cut_whole(memoryview(data))]
    for block in (4 << 20, 3 << 20, 1_234_567):
        assert cut_in_blocks(data, range(block, len(data), block), CONTENT_SIZES) == whole
    lengths = list(map(len, whole))
    assert max(lengths) == CONTENT_SIZES.maximum
    assert min(lengths[:-1]) >= CONTENT_SIZES.minimum


def test_a_forced_cut_ends_a_chunk_and_begins_the_next_stream():
    data = random.Random(2).randbytes(10_000)
    pieces = cut_in_blocks(data, [5_000], SIZES, forced={0})
    first = [bytes(piece) for piece in StreamCutter(SIZES).cut_whole(memoryview(data[:5_000]))]
    second = [bytes(piece) for piece in StreamCutter(SIZES).cut_whole(memoryview(data[5_000:]))]
    assert pieces == first + second


def test_a_buffer_without_enough_headroom_is_refused():
    cutter = StreamCutter(SIZES)
    assert cutter.cut(Buffer(1024, 50, lambda _: None), 50, last=False) == []
    assert cutter.waiting == 50
    with pytest.raises(ValueError, match="headroom"):
        cutter.cut(Buffer(49, 50, lambda _: None), 50, last=False)


# --- compressing ----------------------------------------------------------------------------------------------


@given(st.binary(max_size=3000), st.integers(1, 50))
@settings(deadline=None)
def test_compressing_and_back(data, times):
    for plain in (data, data * times):
        codec, coded = compress(plain)
        assert bytes(decompress(codec, coded, len(plain))) == plain
        assert len(coded) <= len(plain)


def test_what_gains_little_is_kept_as_it_is():
    noise = os.urandom(10_000)
    assert compress(noise) == (CODEC_RAW, noise)
    codec, coded = compress(bytes(10_000))
    assert codec == CODEC_LZ4 and len(coded) < 100


@pytest.mark.parametrize("length", [0, 1, 999_999, 1_000_001, 4 << 20])
def test_any_other_length_is_refused(length):
    _, bomb = compress(bytes(1_000_000))
    with pytest.raises(DecompressionError):
        decompress(CODEC_LZ4, bomb, length)
    with pytest.raises(DecompressionError):
        decompress(CODEC_RAW, bytes(1_000_000), length)


def test_a_bomb_gets_no_more_memory_than_was_announced():
    """100 MB in 400 KB; what is allocated is the announced length, never what the bytes claim."""
    import tracemalloc

    bomb = lz4.block.compress(bytes(100 << 20), store_size=True)
    tracemalloc.start()
    try:
        for data in (bomb, bomb[4:]):
            with pytest.raises(DecompressionError):
                decompress(CODEC_LZ4, data, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", [2, 3, 255])
def test_an_unknown_codec_is_refused(codec):
    with pytest.raises(DecompressionError, match="codec"):
        decompress(codec, b"x", 1)


@given(st.binary(max_size=200), st.integers(0, 5000))
@settings(deadline=None)
def test_any_bytes_decompress_or_are_refused(data, length):
    try:
        assert len(decompress(CODEC_LZ4, data, length)) == length
    except DecompressionError:
        pass


# --- zones ----------------------------------------------------------------------------------------------------

READ, CHUNK, KNOWN, COMPRESS, ENCRYPT, SEND = (
    Stage.READ, Stage.CHUNK, Stage.KNOWN, Stage.COMPRESS, Stage.ENCRYPT, Stage.SEND,
)  # fmt: skip
RECEIVE, DECRYPT, DECOMPRESS, WRITE = Stage.RECEIVE, Stage.DECRYPT, Stage.DECOMPRESS, Stage.WRITE


@pytest.mark.parametrize(
    ("zone", "at_rest", "source_out", "target_in", "target_out", "source_in"),
    [
        (
            Zone.SOURCE, at_rest,
            (READ, CHUNK, KNOWN, COMPRESS, ENCRYPT, SEND), (RECEIVE, WRITE),
            (READ, SEND), (RECEIVE, DECRYPT, DECOMPRESS, WRITE),
        )
        for at_rest in (False, True)
    ]
    + [
        (
            zone, at_rest,
            (READ, CHUNK, KNOWN, COMPRESS, SEND), (RECEIVE, ENCRYPT, WRITE),
            (READ, DECRYPT, SEND), (RECEIVE, DECOMPRESS, WRITE),
        )
        for zone, at_rest in ((Zone.TARGET, False), (Zone.TARGET, True), (Zone.NONE, True))
    ]
    + [
        (
            Zone.NONE, False,
            (READ, CHUNK, KNOWN, COMPRESS, SEND), (RECEIVE, WRITE),
            (READ, SEND), (RECEIVE, DECOMPRESS, WRITE),
        )
    ],
)  # fmt: skip
def test_the_stages_of_every_zone(zone, at_rest, source_out, target_in, target_out, source_in):
    assert backup_source(zone) == source_out
    assert backup_target(zone, encrypt_at_rest=at_rest) == target_in
    assert recovery_target(zone, encrypt_at_rest=at_rest) == target_out
    assert recovery_source(zone) == source_in
    sealing = [stage for stage in (*source_out, *target_in) if stage is ENCRYPT]
    opening = [stage for stage in (*target_out, *source_in) if stage is DECRYPT]
    assert len(sealing) == len(opening) <= 1, "sealed once, opened at the same end"
    assert (ENCRYPT in source_out) == (DECRYPT in source_in)
