"""Chunks on their way out: what is packed opens again to the same bytes, under the key that is meant for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chunk import Chunk
from pipeline.trust_zone import Zone, backup_source
from protocol.data import HEADROOM
from transporter.clock import SystemClock
from transporter.jobs.fetch import KEY_ID, ChunkFetcher
from transporter.jobs.packing import compose_packing
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.session_key import ChunkOpener, MetaKey, SessionKey
from transporter.link.data_link import chunk_header
from transporter.points.run_keys import RunKeys

ID_KEY = ChunkIdKey(bytes(32))
KEYS = RunKeys(ID_KEY, SessionKey.generate(SystemClock()), MetaKey.generate(SystemClock()))
PLAIN_OPENER = ChunkOpener((), allow_plain=True)

# What compresses well, and what does not compress at all.
contents = st.binary(max_size=2000) | st.builds(lambda piece, times: piece * times, st.binary(max_size=9), st.just(900))


def packed(zone, plain, *, metadata=False):
    chunk = Chunk(ID_KEY.id_of(plain), len(plain), memoryview(plain), metadata=metadata)
    compose_packing(backup_source(zone), KEYS if zone is Zone.SOURCE else None)(chunk)
    return chunk


@given(contents, st.sampled_from(Zone), st.booleans())
def test_what_is_packed_opens_to_the_same_bytes(plain, zone, metadata):
    chunk = packed(zone, plain, metadata=metadata)
    opener = KEYS.ring().opener() if zone is Zone.SOURCE else PLAIN_OPENER
    opened = ChunkFetcher(opener, ID_KEY).open(chunk_header(chunk), memoryview(chunk.data)[HEADROOM:])
    assert opened == plain


@given(contents)
def test_where_nobody_seals_at_the_source_the_form_says_so(plain):
    for zone in (Zone.TARGET, Zone.NONE):
        assert packed(zone, plain).data[HEADROOM] == 0


@pytest.mark.parametrize("metadata", [False, True])
def test_data_is_sealed_under_the_session_key_and_metadata_under_the_metakey(metadata):
    stored = bytes(packed(Zone.SOURCE, b"what nobody may see", metadata=metadata).data[HEADROOM:])
    key = KEYS.metakey if metadata else KEYS.session_key
    assert (stored[0], stored[KEY_ID]) == (1, key.key_id)
    assert b"nobody" not in stored


def test_what_compresses_travels_compressed():
    plain = b"again and again " * 1000
    for zone in Zone:
        assert len(packed(zone, plain).data) < HEADROOM + len(plain) // 10


def test_nothing_is_sealed_without_keys_and_nothing_leaves_unsealed_for_want_of_them():
    with pytest.raises(ValueError, match="needs the keys"):
        compose_packing(backup_source(Zone.SOURCE), None)


def test_the_header_says_what_must_be_known_to_open_it():
    chunk = packed(Zone.SOURCE, b"x" * 5000, metadata=True)
    header = chunk_header(chunk)
    expected = SimpleNamespace(id=ID_KEY.id_of(b"x" * 5000), codec=1, plain_length=5000, flags=1)
    assert all(getattr(header, name) == value for name, value in vars(expected).items())
