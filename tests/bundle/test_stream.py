"""The outer form of a bundle: what was altered, cut, moved or lengthened anywhere does not open."""

from __future__ import annotations

import io
import struct
from collections import Counter

import pytest
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from bundle_world import CHEAP, PASSWORD, sealed, unsealed, whole
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from transporter.bundle import stream
from transporter.bundle.stream import HEADER_LENGTH, SEGMENT, TAG, SealedWriter, read_header
from transporter.clock import SystemClock
from transporter.errors import DamagedData, UnsupportedFormat, UsageError, WrongPassword

SEALED = SEGMENT + TAG


def test_the_page_says_how_it_is_read():
    """By the byte table of docs/bundle.md and other code than the product's."""
    data = sealed([b"a" * SEGMENT, b"tail"])
    header, rest = data[:112], data[112:]
    magic, version, memory, passes, lanes, salt, bundle_id, commitment = struct.unpack(">8sHIBB16s32s32s", header[:96])
    assert (magic, version, memory, passes, lanes) == (b"TPBUNDLE", 1, 8, 1, 1)
    assert header[96:] == blake3(header[:96]).digest(16)
    raw = hash_secret_raw(PASSWORD, salt, passes, memory, lanes, 32, Type.ID)
    both = HKDF(SHA256(), 64, bundle_id, b"transporter-pair v1 configuration bundle").derive(raw)
    assert both[32:] == commitment
    aead = AESGCM(both[:32])
    assert aead.decrypt(bytes(7) + b"\0\0\0\0" + b"\0", rest[:65552], header) == b"a" * 65536
    assert aead.decrypt(bytes(7) + b"\0\0\0\1" + b"\1", rest[65552:], header) == b"tail"


@pytest.mark.parametrize("size", [1, 2, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 3 * SEGMENT - 1])
@pytest.mark.parametrize("step", [1 << 20, 40_000])
def test_what_goes_in_comes_out(size, step):
    content = bytes(range(251)) * (size // 251 + 1)
    data = sealed(content[at : min(at + step, size)] for at in range(0, size, step))
    assert whole(data) == content[:size]
    assert len(data) == HEADER_LENGTH + size + TAG * -(-size // SEGMENT)


def test_every_flipped_bit_is_refused():
    data = sealed([b"what must not be changed"])
    for at in range(len(data)):
        for bit in (1 << at % 8, 0x80):
            altered = bytearray(data)
            altered[at] ^= bit
            with pytest.raises(DamagedData):
                whole(bytes(altered))


def test_every_length_but_the_whole_is_refused():
    data = sealed([b"what must not be cut"])
    for length in range(len(data)):
        with pytest.raises(DamagedData):
            whole(data[:length])


@pytest.fixture
def segments():
    """A bundle of four segments, in pieces, and what puts them together."""
    content = [bytes((number,)) * SEGMENT for number in range(3)] + [b"end"]
    data = sealed(content)
    body = data[HEADER_LENGTH:]
    return data[:HEADER_LENGTH], [body[at : at + SEALED] for at in range(0, len(body), SEALED)]


def test_it_ends_only_where_it_was_ended(segments):
    header, parts = segments
    assert len(parts) == 4
    for edge in range(4):
        for cut in (b"".join(parts[:edge]), b"".join(parts[:edge])[:-1], b"".join(parts[:edge]) + parts[edge][:1]):
            with pytest.raises(DamagedData):
                whole(header + cut)
    for more in (b"\0", parts[-1], parts[0], header):
        with pytest.raises(DamagedData):
            whole(header + b"".join(parts) + more)


@pytest.mark.parametrize(
    "order",
    [(1, 0, 2, 3), (0, 2, 1, 3), (0, 0, 1, 2, 3), (0, 1, 1, 3), (0, 1, 3), (0, 3), (3,), (1, 2, 3), (0, 1, 2, 3, 3)],
)
def test_segments_in_another_order_are_refused(segments, order):
    header, parts = segments
    with pytest.raises(DamagedData):
        whole(header + b"".join(parts[number] for number in order))


def test_nothing_of_another_bundle_fits_in(segments):
    header, parts = segments
    again = sealed([bytes((number,)) * SEGMENT for number in range(3)] + [b"end"])
    other_header, other = again[:HEADER_LENGTH], [again[HEADER_LENGTH:][at : at + SEALED] for at in (0, SEALED)]
    with pytest.raises(DamagedData):
        whole(header + other[0] + b"".join(parts[1:]))
    with pytest.raises((DamagedData, WrongPassword)):
        whole(other_header + b"".join(parts))


def test_nothing_comes_out_before_its_tag_was_checked(segments):
    header, parts = segments
    bad = bytearray(parts[1])
    bad[-1] ^= 1
    reader = unsealed(header + parts[0] + bytes(bad) + parts[2] + parts[3])
    assert reader.read_exactly(SEGMENT) == bytes(SEGMENT)
    with pytest.raises(DamagedData):
        reader.read(1)


def test_what_is_left_over_is_damage(segments):
    header, parts = segments
    reader = unsealed(header + b"".join(parts))
    reader.read_exactly(3 * SEGMENT + 1)
    with pytest.raises(DamagedData):
        reader.finish()
    reader.read_exactly(2)
    reader.finish()
    with pytest.raises(DamagedData):
        reader.read(1)


def test_another_password_is_told_apart_from_damage():
    data = sealed([b"x"])
    with pytest.raises(WrongPassword):
        unsealed(data, b"another")
    with pytest.raises(UsageError):
        unsealed(data, b"")


def test_a_bundle_opens_under_one_password_alone(monkeypatch):
    """Whoever finds a second key whose tag fits (AES-GCM allows it) still fails at the commitment."""
    data = sealed([b"x"])
    header = read_header(io.BytesIO(data))
    key, _commitment = stream._derive(b"another", header.salt, header.parameters, header.bundle_id)
    forged = AESGCM(key).encrypt(stream._NONCE.pack(0, True), b"y", header.raw)
    assert stream.SealedReader(io.BytesIO(forged), key, header).read(1) == b"y", "the forgery itself must work"
    with pytest.raises(WrongPassword):
        unsealed(data[:HEADER_LENGTH] + forged, b"another")


@pytest.mark.parametrize(
    "price", [(1 << 31, 1, 1), (8, 255, 1), (8, 0, 1), (8, 1, 0), (8, 1, 255), (0, 1, 1), (1 << 20, 17, 1), (7, 1, 1)]
)
def test_hostile_prices_are_refused_before_anything_is_computed(monkeypatch, price):
    monkeypatch.setattr(stream, "hash_password", lambda *_: pytest.fail("computed"))
    body = struct.pack(">8sHIBB16s32s32s", b"TPBUNDLE", 1, *price, bytes(16), bytes(32), bytes(32))
    with pytest.raises(DamagedData):
        read_header(io.BytesIO(body + blake3(body).digest(16)))


def test_a_newer_version_says_so():
    data = bytearray(sealed([b"x"]))
    data[9] = 2
    with pytest.raises(UnsupportedFormat):
        read_header(io.BytesIO(bytes(data)))


def test_a_file_that_is_none():
    for data in (b"", b"TPBUNDL", b"PK\3\4" + bytes(200), bytes(112)):
        with pytest.raises(DamagedData, match="no configuration bundle"):
            read_header(io.BytesIO(data))


def test_no_nonce_twice_and_no_key_twice(monkeypatch):
    used = Counter()

    class Watched:
        def __init__(self, key):
            self.key = key

        def encrypt(self, nonce, data, aad):
            used[self.key, nonce] += 1
            return data + bytes(16)

    monkeypatch.setattr(stream, "AESGCM", Watched)
    for _ in range(3):
        sealed([bytes(5 * SEGMENT)])
    assert len(used) == 15 and set(used.values()) == {1}
    assert len({key for key, _nonce in used}) == 3, "the same password, a new key for each bundle"


def test_the_writer_ends_before_its_counter_repeats(monkeypatch):
    monkeypatch.setattr(stream, "MAX_SEGMENTS", 2)
    writer = SealedWriter(io.BytesIO(), PASSWORD, CHEAP, SystemClock())
    with pytest.raises(RuntimeError):
        writer.write(bytes(4 * SEGMENT))


def test_an_empty_bundle_is_none():
    with pytest.raises(ValueError, match="never empty"):
        sealed([])
