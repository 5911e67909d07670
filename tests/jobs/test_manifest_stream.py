"""The manifest on its way out: chunks that give the same entries again, the same chunks however they are handed in."""

from __future__ import annotations

import itertools
import random
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.chunker import MANIFEST_SIZES
from transporter.errors import DamagedData
from transporter.jobs import manifest_stream as module
from transporter.jobs.fetch import MANIFEST_CHUNK
from transporter.jobs.manifest_stream import ManifestStream
from transporter.jobs.needs import Needs
from transporter.jobs.preamble import PREAMBLE_AT_MOST, Preamble, encode_preamble, split_preamble
from transporter.keys.chunk_id import ChunkIdKey
from transporter.workloads.cached_manifest import CachedManifest
from transporter.workloads.entry import CONTINUATION, MORE, UNTRUSTED, Entry, pack_extents
from transporter.workloads.manifest import ManifestDecoder

ID_OF = ChunkIdKey(bytes(32)).id_of
ROOTS = [b"srv/data", b"\xff"]
IDENTITY = b"run"


def digest(number):
    return blake3(number.to_bytes(8, "big")).digest()


def many(count, seed=0):
    """Entries that do not compress: about 140 bytes each."""
    chance = random.Random(seed)
    return [
        Entry(b"%08d" % at, "f", size=10, packed_extents=pack_extents([(chance.randbytes(32), 0, 10)]), user=b"u" * 40)
        for at in range(count)
    ]


@contextmanager
def stream(folder):
    needs = Needs(folder)
    made = ManifestStream(ID_OF, needs, CachedManifest(folder / "cache").writer(IDENTITY), ROOTS)
    try:
        yield made, needs
    finally:
        made.close()
        needs.close()


def sent(batches, folder):
    """Hand the batches in; return the chunks and the ids that are needed."""
    with stream(folder) as (made, needs):
        chunks = []
        for batch in batches:
            made.add(batch)
            chunks += made.take()
        chunks += made.take(last=True)
        for fsi, listed in ((False, made.chunks), (True, made.fsi_chunks)):
            assert listed == [(chunk.chunk_id, len(chunk.data)) for chunk in chunks if chunk.fsi is fsi]
        return chunks, b"".join(needs.parts())


def data_of(chunks, fsi):
    return [bytes(chunk.data) for chunk in chunks if chunk.fsi is fsi]


def batched(entries, cuts):
    edges = [0, *sorted(cut % (len(entries) + 1) for cut in cuts), len(entries)]
    return [entries[start:end] for start, end in itertools.pairwise(edges)]


def read(chunks):
    found = split_preamble(bytearray(b"".join(bytes(chunk.data) for chunk in chunks if not chunk.fsi)))
    assert found is not None
    decoder = ManifestDecoder()
    entries = list(decoder.feed(found[1]))
    decoder.finish()
    return found[0], entries


@given(st.lists(st.integers(0, 9), max_size=9), st.lists(st.integers(0, 99), max_size=4))
@settings(max_examples=40)
def test_what_goes_in_comes_out_with_its_roots_and_all_that_it_needs_is_named(numbers, cuts):
    entries = [
        Entry(b"%d" % at, "f", packed_extents=pack_extents([(digest(each), 0, 1)])) for at, each in enumerate(numbers)
    ]
    with tempfile.TemporaryDirectory() as folder:
        chunks, needed = sent(batched(entries, cuts), Path(folder))
    assert read(chunks) == (Preamble(ROOTS), entries)
    for chunk in chunks:
        assert chunk.chunk_id == ID_OF(chunk.data)
    ids = [digest(each) for each in numbers] + [chunk.chunk_id for chunk in chunks]
    assert needed == b"".join(dict.fromkeys(ids))


@pytest.mark.parametrize("cut_bytes", [1, 200_000, module.CUT_BYTES])
def test_the_chunks_do_not_depend_on_how_the_entries_were_handed_in(tmp_path, monkeypatch, cut_bytes):
    entries = many(8_000)
    at_once, _ = sent([entries], tmp_path)
    assert len(at_once) > 5
    assert max(len(chunk.data) for chunk in at_once) <= MANIFEST_SIZES.maximum == MANIFEST_CHUNK
    monkeypatch.setattr(module, "CUT_BYTES", cut_bytes)
    chance = random.Random(cut_bytes)
    for _ in range(3):
        chunks, _ = sent(batched(entries, [chance.randrange(9_999) for _ in range(9)]), tmp_path)
        for fsi in (False, True):
            assert data_of(chunks, fsi) == data_of(at_once, fsi)


def test_a_new_entry_changes_the_chunks_around_it_and_no_others(tmp_path):
    entries = many(8_000)
    before, _ = sent([entries], tmp_path)
    entries.insert(4_000, Entry(b"00003999-new", "f"))
    after, _ = sent([entries], tmp_path)
    for fsi, most in ((False, 3), (True, 2)):
        assert 1 <= len(set(data_of(after, fsi)) - set(data_of(before, fsi))) <= most
    assert len(data_of(after, fsi=True)) > 4


def test_little_is_held_back(tmp_path):
    """Memory does not grow with the tree: what was cut is given away."""
    with stream(tmp_path) as (made, _needs), mock.patch.object(module, "CUT_BYTES", 300_000):
        for at in range(20):
            made.add(many(1_000, seed=at))
            made.take()
            assert made._encoder.waiting <= 300_000
            assert len(made._rest) <= MANIFEST_SIZES.maximum


def test_the_copy_counts_once_it_is_kept_and_leaves_nothing_when_it_is_not(tmp_path):
    cache = CachedManifest(tmp_path / "cache")
    entries = many(10)
    with stream(tmp_path) as (made, _needs):
        made.add(entries)
    assert list(tmp_path.iterdir()) == []
    with stream(tmp_path) as (made, _needs):
        made.add(entries)
        made.keep()
    assert list(cache.read(IDENTITY)) == entries
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_long_file_that_is_distrusted_at_its_end_is_distrusted_from_its_beginning(tmp_path):
    long = [Entry(b"long", "f", MORE), Entry(b"long", "f", CONTINUATION | UNTRUSTED)]
    with stream(tmp_path) as (made, _needs):
        made.add([Entry(b"early", "f"), *long, Entry(b"short", "f", UNTRUSTED)])
        made.add([Entry(b"z", "f")])
        made.keep()
    flags = [(entry.path, bool(entry.flags & UNTRUSTED)) for entry in CachedManifest(tmp_path / "cache").read(IDENTITY)]
    assert flags == [(b"early", False), (b"long", True), (b"long", True), (b"short", True), (b"z", False)]


# --- the preamble, as a restore reads it ----------------------------------------------------------------------


@given(st.lists(st.binary(max_size=20), max_size=4), st.binary(max_size=9))
def test_a_preamble_is_read_once_all_of_it_is_here(roots, rest):
    whole = encode_preamble(Preamble(roots))
    for length in range(len(whole)):
        assert split_preamble(bytearray(whole[:length])) is None
    assert split_preamble(bytearray(whole + rest)) == (Preamble(roots), rest)


@pytest.mark.parametrize(
    "start",
    [(PREAMBLE_AT_MOST + 1).to_bytes(4, "big"), b"\0\0\0\1\xc1", b"\0\0\0\1\x05", b"\0\0\0\3\x91\xa1\xff"],
    ids=["long", "no", "ill", "text"],
)
def test_what_does_not_begin_as_a_manifest_is_refused_and_not_gathered(start):
    with pytest.raises(DamagedData, match="does not begin as one does"):
        split_preamble(bytearray(start))
