"""zstd chunks: frozen frames good and bad, bombs, any bytes; and what the compressor makes of which data."""

from __future__ import annotations

import base64
import json
import os
import struct
import threading
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.chunk import CODEC_LZ4, CODEC_RAW, CODEC_ZSTD
from pipeline.compress import DecompressionError, compress, compress_zstd, decompress
from pipeline.rungs import LADDER
from pipeline.zstd import WINDOW, ZstdCompressors

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "codecs" / "chunks.json").read_text())
TEXT = b"".join(b"%d: and again something of which much repeats\n" % number for number in range(30_000))
LEVELS = [rung.level for rung in LADDER if rung.level]
MIB = 1 << 20


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])
def test_frozen_chunks(case):
    coded = bytes.fromhex(case["coded"])
    if case["outcome"] == "ok":
        plain = bytes.fromhex(case["plain"])
        assert bytes(decompress(case["codec"], memoryview(coded), len(plain))) == plain
        return
    with pytest.raises(DecompressionError):
        decompress(case["codec"], memoryview(coded), case["plain_length"])


def test_a_frame_that_asks_for_a_dictionary_is_refused_for_that_reason():
    (coded,) = (bytes.fromhex(case["coded"]) for case in CASES if "dictionary" in case["name"])
    with pytest.raises(DecompressionError, match="dictionary"):
        decompress(CODEC_ZSTD, coded, 5)


@pytest.mark.parametrize("level", LEVELS)
def test_compressing_and_back_at_every_level(level):
    compressors = ZstdCompressors()
    for plain in (TEXT, TEXT[:5000], TEXT * 3, bytes(4 * MIB)):
        codec, coded = compress_zstd(memoryview(plain), level, compressors)
        assert codec == CODEC_ZSTD
        assert len(coded) < len(compress(plain)[1])
        assert decompress(codec, coded, len(plain)) == plain


@given(st.binary(max_size=3000), st.integers(1, 50), st.sampled_from(LEVELS))
@settings(deadline=None)
def test_any_data_comes_back(data, times, level):
    for plain in (data, data * times):
        codec, coded = compress_zstd(plain, level, ZstdCompressors())
        assert bytes(decompress(codec, coded, len(plain))) == plain
        assert len(coded) <= len(plain)


def test_a_frame_says_how_long_it_is_and_nothing_that_is_not_needed():
    codec, coded = compress_zstd(bytes(TEXT * 3)[: 4 * MIB], 9, ZstdCompressors())
    frame = zstandard.get_frame_parameters(coded)
    assert (codec, frame.content_size) == (CODEC_ZSTD, min(len(TEXT) * 3, 4 * MIB))
    assert (frame.dict_id, frame.has_checksum) == (0, False)
    assert frame.window_size <= WINDOW


@pytest.mark.parametrize("level", LEVELS)
def test_what_does_not_shrink_is_kept_as_it_is_and_costs_no_high_level(level, monkeypatch):
    used = []
    really = ZstdCompressors.compress
    monkeypatch.setattr(
        ZstdCompressors, "compress", lambda self, data, level: used.append(level) or really(self, data, level)
    )
    noise = os.urandom(MIB)
    assert compress_zstd(noise, level, ZstdCompressors()) == (CODEC_RAW, noise)
    assert used == [1]
    assert compress_zstd(TEXT, level, ZstdCompressors())[0] == CODEC_ZSTD
    assert used == [1, level]


def test_what_only_has_few_signs_shrinks_although_lz4_finds_nothing():
    digits = base64.b64encode(os.urandom(MIB))
    assert compress(digits)[0] == CODEC_RAW
    codec, coded = compress_zstd(digits, 9, ZstdCompressors())
    assert codec == CODEC_ZSTD and len(coded) < 0.8 * len(digits)


def test_one_compressor_is_never_lent_to_two():
    """Eight threads at two levels: each gets what belongs to its own data."""
    compressors = ZstdCompressors()
    wrong = []

    def work(number):
        plain = TEXT[number:] * 2
        for turn in range(6):
            codec, coded = compress_zstd(plain, (1, 3)[turn % 2], compressors)
            if decompress(codec, coded, len(plain)) != plain:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(compressors._idle) <= 8


def test_a_compressor_is_used_again():
    compressors = ZstdCompressors()
    compress_zstd(TEXT, 3, compressors)
    ((_, first),) = compressors._idle
    compress_zstd(TEXT, 3, compressors)
    assert compressors._idle[0][1] is first
    compress_zstd(TEXT, 6, compressors)
    assert [level for level, _ in compressors._idle] == [6]


def _frame(descriptor, fields, blocks):
    return struct.pack("<IB", 0xFD2FB528, descriptor) + fields + blocks


def _repeat(size, *, last):
    return struct.pack("<I", last | 1 << 1 | size << 3)[:3] + b"z"


BLOCK = 128 << 10
ENDLESS = _repeat(BLOCK, last=False) * 800  # 100 MiB
BOMBS = {
    "announced as long as it is": _frame(0xA0, struct.pack("<I", 801 * BLOCK), ENDLESS + _repeat(BLOCK, last=True)),
    "announced as the chunk": _frame(0xA0, struct.pack("<I", 1000), ENDLESS + _repeat(BLOCK, last=True)),
    "not announced": _frame(0x00, b"\x88", ENDLESS + _repeat(BLOCK, last=True)),
    "announced as the chunk, with a window of 128 MiB": _frame(0x80, b"\x88" + struct.pack("<I", 1000), ENDLESS),
    "a window of 2 TiB": _frame(0x80, b"\xf8" + struct.pack("<I", 1000), ENDLESS),
    "2^63 bytes": _frame(0xE0, struct.pack("<Q", 1 << 63), ENDLESS),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_gets_no_more_memory_than_was_announced(bomb):
    tracemalloc.start()
    try:
        with pytest.raises(DecompressionError):
            decompress(CODEC_ZSTD, bomb, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1 * MIB
    finally:
        tracemalloc.stop()


def test_a_bomb_takes_no_memory_of_the_library_either():
    """What the library allocates for itself does not show above: the peak of the whole process does."""
    script = (
        "import resource, struct, sys\n"
        "from pipeline.compress import DecompressionError, decompress\n"
        "decompress(2, bytes.fromhex('28b52ffda0050000002900006279746573'), 5)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for _ in range(3):\n"
        "    for line in open(sys.argv[1]):\n"
        "        try: decompress(2, bytes.fromhex(line), 1000)\n"
        "        except DecompressionError: continue\n"
        "        raise SystemExit('opened')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    import subprocess
    import sys
    import tempfile

    with tempfile.NamedTemporaryFile("w") as file:
        file.write("\n".join(bomb.hex() for bomb in BOMBS.values()))
        file.flush()
        root = Path(__file__).parents[2]
        run = subprocess.run(
            [sys.executable, "-c", script, file.name], cwd=root, capture_output=True, text=True, check=False
        )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 8 << 10, "KiB"


@given(st.binary(max_size=200), st.integers(0, 5000))
@settings(deadline=None)
def test_any_bytes_decompress_or_are_refused(data, length):
    for coded in (data, struct.pack("<I", 0xFD2FB528) + data):
        try:
            assert len(decompress(CODEC_ZSTD, coded, length)) == length
        except DecompressionError:
            pass


@given(st.data())
@settings(deadline=None)
def test_every_flipped_bit_decompresses_or_is_refused(data):
    plain = TEXT[:3000]
    coded = bytearray(compress_zstd(plain, 3, ZstdCompressors())[1])
    coded[data.draw(st.integers(0, len(coded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert len(decompress(CODEC_ZSTD, bytes(coded), len(plain))) == len(plain)
    except DecompressionError:
        pass


def test_lz4_is_as_it_was():
    assert compress(TEXT)[0] == CODEC_LZ4
