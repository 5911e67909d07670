from __future__ import annotations

import copy
import os
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.errors import DamagedData, NoKey
from transporter.keys import derive
from transporter.keys import session_key as module
from transporter.keys.session_key import (
    MAX_DATA,
    PLAIN_KEY_ID,
    ChunkOpener,
    ChunkSealer,
    MetaKey,
    SessionKey,
    sealed_length,
)

ID = b"i" * 32


def counter_of(stored):
    return int.from_bytes(stored[33:41], "big")


@pytest.fixture
def key():
    return SessionKey.generate()


@given(st.binary(max_size=5000), st.binary(min_size=32, max_size=32), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_what_is_sealed_opens(data, chunk_id, codec, plain_length):
    key = SessionKey.generate()
    out = bytearray(sealed_length(len(data)) + 5)
    written = ChunkSealer(key).seal_into(out, chunk_id, codec, plain_length, data)
    assert written == sealed_length(len(data)) == len(data) + 57
    assert out[written:] == bytes(5)
    again = SessionKey.from_secret(key.secret)
    assert ChunkOpener([again]).open(chunk_id, codec, plain_length, memoryview(out)[:written]) == data


def test_seals_and_opens_in_place_and_into_reused_buffers(key):
    data = os.urandom(100_000)
    buffer = bytearray(sealed_length(len(data)))
    view = memoryview(buffer)
    view[41:-16] = data
    ChunkSealer(key).seal_into(view, ID, 1, 7, view[41:-16])
    stored = bytes(buffer)
    opener = ChunkOpener([key])
    scratch = bytearray(200_000)
    found = opener.open(ID, 1, 7, stored, scratch)
    assert found == data and scratch[: len(data)] == data and scratch[len(data) :] == bytes(100_000)
    assert opener.open(ID, 1, 7, view, view[41:]) == data
    assert opener.open(ID, 1, 7, stored, bytearray(10)) == data  # too small: a new one


def test_a_buffer_too_small_to_seal_into_is_our_error(key):
    with pytest.raises(ValueError, match="buf"):
        ChunkSealer(key).seal_into(bytearray(60), ID, 0, 4, b"data")


@pytest.mark.parametrize("chunk_id", [b"", b"i" * 31, b"i" * 33])
def test_a_chunk_id_has_32_bytes(key, chunk_id):
    with pytest.raises(ValueError, match="32"):
        ChunkSealer(key).seal(chunk_id, 0, 4, b"data")
    with pytest.raises(ValueError, match="32"):
        ChunkOpener([key]).open(chunk_id, 0, 4, ChunkSealer(key).seal(ID, 0, 4, b"data"))


def test_every_flipped_bit_and_every_cut_is_an_error_and_shows_nothing(key):
    data = b"plaintext" * 5
    stored = ChunkSealer(key).seal(ID, 1, 45, data)
    opener = ChunkOpener([key], allow_plain=False)
    for bit in range(len(stored) * 8):
        changed = bytearray(stored)
        changed[bit // 8] ^= 1 << bit % 8
        into = bytearray(len(data))
        with pytest.raises((DamagedData, NoKey)):
            opener.open(ID, 1, 45, changed, into)
        assert b"plain" not in into and into == bytes(len(data))
    for length in range(len(stored)):
        with pytest.raises(DamagedData):
            opener.open(ID, 1, 45, stored[:length])


def test_what_fails_its_tag_is_wiped(key):
    data = b"plaintext" * 500
    stored = ChunkSealer(key).seal(ID, 1, 4500, data)
    stored[-1] ^= 1
    into = bytearray(b"\xee" * 5000)
    with pytest.raises(DamagedData):
        ChunkOpener([key]).open(ID, 1, 4500, stored, into)
    assert into == bytes(4500) + b"\xee" * 500


def test_a_chunk_is_bound_to_its_id_codec_and_length(key):
    stored = ChunkSealer(key).seal(ID, 1, 45, b"data")
    opener = ChunkOpener([key])
    for header in ((b"j" * 32, 1, 45), (ID, 0, 45), (ID, 1, 46), (ID, 300, 45), (ID, 1, -1), (ID, 1, 2**40)):
        with pytest.raises(DamagedData):
            opener.open(*header, stored)


def test_keys_do_not_open_each_others_chunks(key):
    other = SessionKey.generate()
    stored = ChunkSealer(key).seal(ID, 1, 45, b"data")
    with pytest.raises(NoKey):
        ChunkOpener([other]).open(ID, 1, 45, stored)
    renamed = bytearray(stored)
    renamed[1:33] = other.key_id  # the hostile repository relabels it
    with pytest.raises(DamagedData):
        ChunkOpener([key, other]).open(ID, 1, 45, renamed)


def test_plain_chunks_only_where_allowed(key):
    opener = ChunkOpener([key], allow_plain=True)
    assert opener.open(ID, 0, 4, b"\0data") == b"data"
    assert opener.key_ids == {key.key_id, PLAIN_KEY_ID}
    assert ChunkOpener([key]).key_ids == {key.key_id}
    with pytest.raises(DamagedData, match="plain"):
        ChunkOpener([key]).open(ID, 0, 4, b"\0data")


def test_an_absurdly_long_chunk_is_refused_before_memory_is_taken(key):
    stored = bytearray(sealed_length(MAX_DATA + 1))
    stored[0] = 1
    stored[1:33] = key.key_id
    with pytest.raises(DamagedData, match="longer"):
        ChunkOpener([key]).open(ID, 0, 4, stored)


def test_counters_never_repeat_under_many_threads(key):
    """Sixteen threads, four sealers of one key: every counter once, and every chunk opens."""
    sealers = [ChunkSealer(key) for _ in range(4)]
    start = threading.Barrier(16)
    found = [[] for _ in range(16)]

    def work(index):
        start.wait()
        for _ in range(400):
            found[index].append(sealers[index % 4].seal(ID, 0, 4, b"data"))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = [each for part in found for each in part]
    assert sorted(counter_of(each) for each in stored) == list(range(6400))
    opener = ChunkOpener([key])
    assert all(opener.open(ID, 0, 4, each) == b"data" for each in stored)


def test_a_counter_is_taken_and_counted_on_under_the_lock(key):
    """The switch of threads that would show a missing lock is too rare to wait for: look at the lock instead."""
    seen = []

    class Spy:
        def __enter__(self):
            seen.append(key._counter)

        def __exit__(self, *_):
            seen.append(key._counter)

    key._lock = Spy()
    assert [key.next_counter(), key.next_counter()] == [0, 1]
    assert seen == [0, 1, 1, 2]


def test_one_opener_serves_many_threads(key):
    chunks = [(bytes((n,)) * 32, os.urandom(50_000)) for n in range(8)]
    sealer, opener = ChunkSealer(key), ChunkOpener([key])
    stored = [sealer.seal(chunk_id, 0, len(data), data) for chunk_id, data in chunks]
    wrong = []

    def work(index):
        chunk_id, data = chunks[index]
        scratch = bytearray(len(data))
        for _ in range(50):
            if opener.open(chunk_id, 0, len(data), stored[index], scratch) != data:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("kind", [SessionKey, MetaKey])
def test_a_key_that_was_read_back_never_seals(kind):
    key = kind.from_secret(kind.generate().secret)
    assert not key.may_seal
    with pytest.raises(RuntimeError, match="read back"):
        ChunkSealer(key)
    with pytest.raises(RuntimeError, match="read back"):
        key.next_counter()


def test_a_key_is_never_copied(key):
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            copier(key)


def test_a_forked_process_does_not_seal(key, monkeypatch):
    sealer = ChunkSealer(key)
    monkeypatch.setattr(module.os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="process"):
        sealer.seal(ID, 0, 4, b"data")


def test_a_key_ends_before_it_is_used_too_often(key, monkeypatch):
    monkeypatch.setattr(module, "MAX_CHUNKS_PER_KEY", 3)
    sealer = ChunkSealer(key)
    assert [counter_of(sealer.seal(ID, 0, 4, b"data")) for _ in range(3)] == [0, 1, 2]
    for _ in range(3):
        with pytest.raises(RuntimeError, match="as many"):
            sealer.seal(ID, 0, 4, b"data")


def test_session_key_and_metakey_of_one_secret_share_nothing():
    secret = os.urandom(32)
    session, meta = SessionKey.from_secret(secret), MetaKey.from_secret(secret)
    values = [secret, session.key_id, session.chunk_key, meta.key_id, meta.chunk_key, meta.fsi_key, meta.mac(b"")]
    assert len(set(values)) == len(values)
    assert session != meta


def test_mac_finds_every_flipped_bit_and_another_key():
    key, data = MetaKey.generate(), b"the head of a point"
    mac = key.mac(data)
    key.check_mac(data, mac)
    MetaKey.from_secret(key.secret).check_mac(data, mac)
    for bit in range(256):
        with pytest.raises(DamagedData):
            key.check_mac(data, (int.from_bytes(mac, "big") ^ 1 << bit).to_bytes(32, "big"))
    for wrong_data, wrong_mac in (
        (data + b"x", mac),
        (data, mac[:31]),
        (data, b""),
        (data, MetaKey.generate().mac(data)),
    ):
        with pytest.raises(DamagedData):
            key.check_mac(wrong_data, wrong_mac)


def test_the_index_has_a_key_of_its_own():
    """Derived from the metakey under a label of its own: neither opens what the other sealed."""
    meta = MetaKey.generate()
    assert meta.fsi.secret == derive.hkdf(meta.secret, derive.METAKEY_FSI)
    assert len({meta.key_id, meta.chunk_key, meta.fsi.key_id, meta.fsi.chunk_key, meta.fsi.secret}) == 5
    for one, other in ((meta, meta.fsi), (meta.fsi, meta)):
        sealed = ChunkSealer(one).seal(b"c" * 32, 0, 4, b"data")
        assert ChunkOpener([one]).open(b"c" * 32, 0, 4, sealed) == b"data"
        with pytest.raises(NoKey):
            ChunkOpener([other]).open(b"c" * 32, 0, 4, sealed)


def test_the_index_key_seals_only_where_its_metakey_does():
    meta = MetaKey.generate()
    assert [meta.fsi.next_counter(), meta.fsi.next_counter(), meta.next_counter()] == [0, 1, 0]
    assert MetaKey(meta.secret).fsi == meta.fsi
    with pytest.raises(RuntimeError):
        ChunkSealer(MetaKey(meta.secret).fsi)
