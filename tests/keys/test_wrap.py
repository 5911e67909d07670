from __future__ import annotations

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from transporter.errors import DamagedData, NoKey
from transporter.keys import derive
from transporter.keys.derive import bind, hkdf
from transporter.keys.wrap import MAX_WRAPPED, WRAP_OVERHEAD, WrongKey, context, unwrap, wrap

KEK, OTHER, KEY = b"k" * 32, b"o" * 32, b"s" * 32
PLACE = context("slot", "tenant", b"r" * 16, b"p" * 16)
PLACES = st.tuples(st.text(max_size=8), st.text(max_size=8), st.binary(max_size=8), st.binary(max_size=8))


def flips(data):
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def resum(cryptogram):
    return cryptogram[:-16] + blake3(cryptogram[:-16]).digest(16)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=200), st.binary(max_size=60))
def test_what_is_wrapped_comes_out(kek, key, place):
    cryptogram = wrap(kek, key, place)
    assert len(cryptogram) == len(key) + WRAP_OVERHEAD
    assert unwrap(kek, cryptogram, place, length=len(key)) == key


def test_every_flipped_bit_is_damage():
    cryptogram = wrap(KEK, KEY, PLACE)
    for changed in flips(cryptogram):
        with pytest.raises(DamagedData):
            unwrap(KEK, changed, PLACE)


def test_every_flipped_bit_with_a_new_checksum_still_opens_nothing():
    cryptogram = wrap(KEK, KEY, PLACE)
    for changed in flips(cryptogram[:-16]):
        with pytest.raises((DamagedData, WrongKey)):
            unwrap(KEK, resum(changed + bytes(16)), PLACE)


def test_every_cut_is_damage():
    cryptogram = wrap(KEK, KEY, PLACE)
    for length in range(len(cryptogram)):
        with pytest.raises(DamagedData):
            unwrap(KEK, cryptogram[:length], PLACE)


def test_another_key_and_another_place_are_told_apart():
    cryptogram = wrap(KEK, KEY, PLACE)
    with pytest.raises(WrongKey) as caught:
        unwrap(OTHER, cryptogram, PLACE)
    assert isinstance(caught.value, NoKey) and caught.value.exit_status == 6
    with pytest.raises(DamagedData):
        unwrap(KEK, cryptogram, context("ring", "tenant", b"r" * 16, b"p" * 16))


@given(PLACES, PLACES)
def test_two_places_never_look_alike(one, other):
    assert (context(*one) == context(*other)) == (one == other)


@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_binding_is_unambiguous(one, other):
    assert (bind(*one) == bind(*other)) == (one == other)


def test_one_key_wrapped_twice_shares_nothing():
    one, other = wrap(KEK, KEY, PLACE), wrap(KEK, KEY, PLACE)
    assert one[1:33] != other[1:33] and one[33:65] != other[33:65] and one[65:97] != other[65:97]


@pytest.mark.parametrize("length", [0, MAX_WRAPPED + 1])
def test_only_keys_are_wrapped(length):
    with pytest.raises(ValueError, match="wrapped"):
        wrap(KEK, bytes(length), PLACE)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_has_32_bytes(length):
    with pytest.raises(ValueError, match="32"):
        wrap(bytes(length), KEY, PLACE)


def test_no_two_purposes_share_a_label():
    labels = [value for name, value in vars(derive).items() if name[0] != "_" and isinstance(value, bytes)]
    assert len(labels) >= 12 and len(set(labels)) == len(labels)
    assert len({hkdf(KEY, label) for label in labels}) == len(labels)


# ---- the partitioning oracle: one ciphertext that AES-GCM opens under two keys ----

_R = 0xE1 << 120


def multiply(left, right):
    product = 0
    for bit in range(127, -1, -1):
        if right >> bit & 1:
            product ^= left
        left = left >> 1 ^ (_R if left & 1 else 0)
    return product


def invert(value):
    result, power = 1 << 127, value  # 1 in GCM's bit order
    for _ in range(127):
        power = multiply(power, power)
        result = multiply(result, power)
    return result


def ghash(h, blocks):
    state = 0
    for block in blocks:
        state = multiply(state ^ block, h)
    return state


def colliding_ciphertext(one, other, aad):
    """Return a 32-byte ciphertext ‖ tag that AES-GCM opens under both keys (Len, Grubbs, Ristenpart 2021)."""

    def parts(key):
        encrypt = Cipher(AES(key), ECB()).encryptor()
        h = int.from_bytes(encrypt.update(bytes(16)), "big")
        mask = int.from_bytes(encrypt.update(bytes(12) + b"\0\0\0\1"), "big")
        return h, mask

    padded = aad + bytes(-len(aad) % 16)
    head = [int.from_bytes(padded[at : at + 16], "big") for at in range(0, len(padded), 16)]
    lengths = len(aad) * 8 << 64 | 256
    first = 0x1234
    (h1, m1), (h2, m2) = parts(one), parts(other)
    # tag = mask ^ GHASH(aad, first, 0, lengths) ^ second·h²; equal for both keys:
    known1 = m1 ^ ghash(h1, [*head, first, 0, lengths])
    known2 = m2 ^ ghash(h2, [*head, first, 0, lengths])
    second = multiply(known1 ^ known2, invert(multiply(h1, h1) ^ multiply(h2, h2)))
    tag = known1 ^ multiply(second, multiply(h1, h1))
    return b"".join(number.to_bytes(16, "big") for number in (first, second, tag))


def test_a_ciphertext_for_two_keys_is_refused_by_the_commitment():
    salt, aad = b"w" * 32, bind(derive.WRAP, b"\x01", PLACE)
    keys = {kek: hkdf(kek, derive.WRAP, 64, salt) for kek in (KEK, OTHER)}
    forged = colliding_ciphertext(keys[KEK][:32], keys[OTHER][:32], aad)
    opened = [AESGCM(both[:32]).decrypt(bytes(12), forged, aad) for both in keys.values()]
    assert len(set(opened)) == 2, "the attack itself must work, else this test shows nothing"
    for kek, other in ((KEK, OTHER), (OTHER, KEK)):
        cryptogram = resum(b"\x01" + salt + keys[kek][32:] + forged + bytes(16))
        assert unwrap(kek, cryptogram, PLACE) in opened
        with pytest.raises(WrongKey):
            unwrap(other, cryptogram, PLACE)
