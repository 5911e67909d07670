from __future__ import annotations

import hashlib
import hmac
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol import channel_keys
from protocol.channel_keys import FROM_ACCEPTOR, FROM_INITIATOR, answer_salt, binding, derive, key_b_proof
from protocol.errors import LocalProtocolError
from protocol.messages import Chunk

ARGUMENTS = (b"k" * 32, FROM_INITIATOR, 3, 5, b"s" * 16, b"n" * 24, b"b" * 32)


def expand(key, info, length):
    """RFC 5869, 2.3, by hand."""
    output, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]


def test_the_formula():
    key, direction, channel, epoch, session, salt, bound = ARGUMENTS
    info = b"transporter/v1 data\0" + direction + struct.pack(">HI", channel, epoch) + session + salt + bound
    expected = expand(key, info, 76)
    made = derive(*ARGUMENTS)
    assert (made.key, made.base_nonce, made.commitment) == (expected[:32], expected[32:44], expected[44:])


def test_every_input_changes_everything():
    variants = [
        (b"K" * 32, *ARGUMENTS[1:]),
        (ARGUMENTS[0], FROM_ACCEPTOR, *ARGUMENTS[2:]),
        (*ARGUMENTS[:2], 4, *ARGUMENTS[3:]),
        (*ARGUMENTS[:3], 6, *ARGUMENTS[4:]),
        (*ARGUMENTS[:4], b"S" * 16, *ARGUMENTS[5:]),
        (*ARGUMENTS[:5], b"N" * 24, ARGUMENTS[6]),
        (*ARGUMENTS[:6], b"B" * 32),
        ARGUMENTS,
    ]
    made = [derive(*each) for each in variants]
    for part in ("key", "base_nonce", "commitment"):
        assert len({getattr(each, part) for each in made}) == len(variants)


@pytest.mark.parametrize("at", range(len(ARGUMENTS)))
def test_inputs_of_a_wrong_length(at):
    wrong = list(ARGUMENTS)
    wrong[at] = -1 if isinstance(wrong[at], int) else wrong[at] + b"x"
    with pytest.raises(LocalProtocolError):
        derive(*wrong)


def test_bindings_know_their_sides():
    one, two, exporter = b"1" * 32, b"2" * 32, b"e" * 32
    assert binding(one, two, exporter) == hashlib.sha256(one + two + exporter).digest()
    assert binding(one, two, exporter) != binding(two, one, exporter)
    for wrong in ((one[1:], two, exporter), (one, two + b"x", exporter), (one, two, b"")):
        with pytest.raises(LocalProtocolError):
            binding(*wrong)


def test_salts_of_both_sides_count():
    assert len(answer_salt(b"a" * 24, b"b" * 24)) == 24
    assert len({answer_salt(a * 24, b * 24) for a in (b"a", b"b") for b in (b"a", b"b")}) == 4


def test_proof_needs_key_session_and_binding():
    proofs = {key_b_proof(k * 32, s * 16, b * 32) for k in (b"1", b"2") for s in (b"1", b"2") for b in (b"1", b"2")}
    assert len(proofs) == 8


def test_keys_are_not_shown():
    made = derive(*ARGUMENTS)
    assert repr(made.key)[2:-1] not in repr(made)
    assert "key=" not in repr(made) and "base_nonce" not in repr(made)


@pytest.mark.parametrize("channel", [0, 1])
def test_a_frame_opened_by_hand(wire, channel):
    """The byte tables of docs/protocol.md, read by other code than ours."""
    pair = wire.pair(channel)
    header, stored = wire.chunk(7, size=10)
    first, second = wire.seal(pair.initiator, header, stored), wire.seal(pair.initiator, header, stored)
    magic, version, number, session, salt, commitment = struct.unpack(">8sBH16s24s32s", pair.preface)
    assert (magic, version, number, session, salt) == (b"\xf4TPDATA\0", 1, channel, wire.SESSION, wire.SALT)
    input_key = wire.KEY_A if channel == 0 else wire.KEY_B
    info = b"transporter/v1 data\0\0" + struct.pack(">HI", channel, 0) + session + salt + wire.BINDING
    assert commitment == expand(input_key, info, 76)[44:]
    output = expand(wire.KEY_B, info, 76)
    for counter, frame in enumerate((first, second)):
        nonce = bytes(a ^ b for a, b in zip(output[32:44], bytes(4) + struct.pack(">Q", counter), strict=True))
        aad = struct.pack(">BHBI", 1, channel, 0, len(frame) - 4)
        body = AESGCM(output[:32]).decrypt(nonce, frame[4:], aad)
        kind, header_length = struct.unpack_from(">BH", body)
        assert kind == Chunk.KIND
        assert body[3 + header_length :] == stored


def test_labels_are_all_different():
    labels = [channel_keys.LABEL, channel_keys.PROOF_LABEL, channel_keys.ANSWER_LABEL]
    assert all(label.startswith(b"transporter/v1 ") and label.endswith(b"\0") for label in labels)
    assert len(set(labels)) == len(labels)
