"""Sealing once more what was sealed: only ever the very same bytes, whatever the other end claims."""

from __future__ import annotations

import os

import pytest

from transporter.keys.resealing import SealedClaim, seal_as_claimed
from transporter.keys.session_key import ChunkOpener, ChunkSealer, MetaKey, SessionKey

CHUNK, OTHER = b"c" * 32, b"o" * 32


def claim_of(stored: bytes) -> SealedClaim:
    return SealedClaim(int.from_bytes(stored[33:41], "big"), bytes(stored[-16:]))


@pytest.fixture(params=[SessionKey, MetaKey])
def sealed(request):
    """A key as it was read back, and three chunks that it once sealed: (id, data, stored)."""
    key = request.param.generate()
    sealer = ChunkSealer(key)
    chunks = []
    for chunk_id, data in ((CHUNK, os.urandom(5000)), (OTHER, os.urandom(5000)), (b"x" * 32, b"")):
        chunks.append((chunk_id, data, bytes(sealer.seal(chunk_id, 1, 9000, data))))
    return request.param(key.secret), chunks


def test_what_was_sealed_comes_out_bit_for_bit_though_the_key_seals_no_more(sealed):
    key, chunks = sealed
    assert not key.may_seal
    for chunk_id, data, stored in chunks:
        again = seal_as_claimed(key, claim_of(stored), chunk_id, 1, 9000, data)
        assert again == stored
        assert bytes(ChunkOpener([key]).open(chunk_id, 1, 9000, again)) == data


def test_the_counter_of_another_chunk_makes_nothing(sealed):
    """The attack: two ciphertexts under one nonce would give away the difference of two plaintexts."""
    key, ((chunk_id, data, stored), (_id, _data, other), _last) = sealed
    mine, others = claim_of(stored), claim_of(other)
    for counter, tag in ((others.counter, mine.tag), (others.counter, others.tag), (mine.counter, others.tag)):
        assert seal_as_claimed(key, SealedClaim(counter, tag), chunk_id, 1, 9000, data) is None


@pytest.mark.parametrize("bit", range(0, 128, 7))
def test_a_tag_that_is_another_by_one_bit_makes_nothing(sealed, bit):
    key, ((chunk_id, data, stored), *_rest) = sealed
    claim = claim_of(stored)
    tag = bytearray(claim.tag)
    tag[bit // 8] ^= 1 << bit % 8
    assert seal_as_claimed(key, SealedClaim(claim.counter, bytes(tag)), chunk_id, 1, 9000, data) is None


def test_other_data_another_name_codec_length_or_key_make_nothing(sealed):
    key, ((chunk_id, data, stored), *_rest) = sealed
    claim = claim_of(stored)
    for changed in (
        (key, claim, chunk_id, 1, 9000, data[:-1] + bytes([data[-1] ^ 1])),
        (key, claim, OTHER, 1, 9000, data),
        (key, claim, chunk_id, 2, 9000, data),
        (key, claim, chunk_id, 1, 9001, data),
        (SessionKey.generate(), claim, chunk_id, 1, 9000, data),
        (key, SealedClaim(1 << 63, claim.tag), chunk_id, 1, 9000, data),
        (key, SealedClaim(claim.counter, b""), chunk_id, 1, 9000, data),
        (key, SealedClaim(claim.counter, claim.tag[:4]), chunk_id, 1, 9000, data),
    ):
        assert seal_as_claimed(*changed) is None
