"""Buffers, the reader, the cutter and the compressor."""

from __future__ import annotations

import os
import random

import lz4.block
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.chunk import CODEC_LZ4, CODEC_RAW, Buffer, Chunk, SharedBuffer
from pipeline.chunker import CONTENT_SIZES, ChunkSizes, StreamCutter
from pipeline.compress import DecompressionError, compress, decompress
from pipeline.trust_zone import Stage, Zone, backup_source, backup_target, recovery_source, recovery_target

SIZES = ChunkSizes(64, 256, 1024)


# --- buffers --------------------------------------------------------------------------------------------------


def test_a_buffer_is_given_back_once_all_chunks_in_it_let_go():
    given_back = []
    buffer = SharedBuffer(2, lambda: given_back.append(True))
    first, second = (Chunk(bytes(32), 10, bytes(10), buffer=buffer) for _ in range(2))
    first.let_go()
    first.let_go()  # a second time does nothing
    assert given_back == []
    second.let_go()
    assert given_back == [True]


# --- cutting --------------------------------------------------------------------------------------------------


def memory_buffer(headroom, block):
    return Buffer(memoryview(bytearray(headroom + block)), headroom)


def cut_in_blocks(data, ends, sizes, *, forced=()):
    cutter = StreamCutter(sizes)
    pieces, start = [], 0
    for number, end in enumerate([*ends, len(data)]):
        block = data[start:end]
        buffer = memory_buffer(sizes.maximum, max(len(block), 1))
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
    assert cutter.cut(memory_buffer(1024, 50), 50, last=False) == []
    assert cutter.waiting == 50
    with pytest.raises(ValueError, match="headroom"):
        cutter.cut(memory_buffer(49, 50), 50, last=False)


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


@pytest.mark.parametrize("codec", [3, 4, 255])
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
