"""Somebody stands in the line, or the peer itself is evil. Only prefixes of what was sent ever come out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.channel_keys import key_b_proof
from protocol.data import PREFACE_LENGTH, DataChannel, parse_preface
from protocol.errors import LocalProtocolError, RemoteProtocolError, TamperingError, TruncatedError
from protocol.frame import encode
from protocol.limits import RekeyLimits
from protocol.messages import Chunk, Fin, KeyB, KeyBProof, Ping, Rekey

TINY = RekeyLimits(frames=3, sealed_bytes=1 << 30)


def recorded(wire, number=1, count=3, **options):
    """Return the frames of one direction, FIN included, and a function that makes a fresh receiver for them."""
    pair = wire.pair(number, ready=False, **options)
    frames = [pair.initiator.switch_to_key_b(wire.KEY_B)] if number == 0 else []
    if number == 0:
        pair.acceptor.receive_data(frames[0])
        pair.initiator.receive_data(pair.answer + pair.acceptor.switch_to_key_b(wire.KEY_B))
    frames += [wire.seal(pair.initiator, *wire.chunk(n)) for n in range(count)]
    frames.append(pair.initiator.finish())
    key, rekey = (wire.KEY_A if number == 0 else options.get("key", wire.KEY_B)), options.get("rekey")

    def receiver():
        more = {} if rekey is None else {"rekey": rekey}
        made = DataChannel.accept(parse_preface(pair.preface), key, wire.BINDING, salt=wire.ANSWER_SALT, **more)
        made.data_to_send()
        return made

    return frames, receiver


def expect_tampered(wire, receiver, data, honest):
    """Feed ``data``; what comes out before the error is a prefix of ``honest``. Return the error."""
    channel = receiver()
    events = []
    try:
        # In one piece, so that a campaign is quick; other pieces are test_data.py's.
        for at in range(0, len(data), 64):
            events += _prove(wire, channel, channel.receive_data(data[at : at + 64]))
        channel.eof()
    except (TamperingError, TruncatedError) as error:
        assert channel.dead
        messages = [event.message for event in events]
        assert messages == honest[: len(messages)]
        return error
    raise AssertionError("nothing was noticed")


def _prove(wire, channel, events):
    for event in events:
        if isinstance(event.message, KeyB):
            channel.switch_to_key_b(event.message.key)
    return events


def honest_messages(wire, frames, receiver):
    channel = receiver()
    events = [event for frame in frames for event in _prove(wire, channel, channel.receive_data(frame))]
    channel.eof()
    return [event.message for event in events]


# --- somebody in the line ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_every_flipped_bit_is_noticed(wire, number):
    frames, receiver = recorded(wire, number, rekey=TINY)
    honest, stream = honest_messages(wire, frames, receiver), b"".join(frames)
    length_words = set()
    at = 0
    while at < len(stream):
        length_words |= set(range(at, at + 4))
        at += 4 + int.from_bytes(stream[at : at + 4], "big")
    for at in range(len(stream)):
        for bit in range(8):
            flipped = bytearray(stream)
            flipped[at] ^= 1 << bit
            error = expect_tampered(wire, receiver, bytes(flipped), honest)
            # A longer length swallows what follows: it looks like a cut to who waits for more.
            assert isinstance(error, TamperingError) or at in length_words


def test_every_flipped_bit_of_a_preface_is_noticed(wire):
    preface = wire.pair().preface
    for at in range(PREFACE_LENGTH * 8):
        flipped = bytearray(preface)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(RemoteProtocolError):
            DataChannel.accept(parse_preface(flipped), wire.KEY_B, wire.BINDING)


def test_every_flipped_bit_of_an_answer_is_noticed(wire):
    answer = wire.pair().answer
    for at in range(len(answer) * 8):
        flipped = bytearray(answer)
        flipped[at // 8] ^= 1 << at % 8
        initiator = wire.pair(ready=False).initiator
        with pytest.raises(TamperingError) as caught:
            initiator.receive_data(flipped)
        assert caught.value.failed == "commitment"


@pytest.mark.parametrize("number", [0, 1])
def test_every_cut_is_noticed(wire, number):
    frames, receiver = recorded(wire, number, rekey=TINY)
    honest, stream = honest_messages(wire, frames, receiver), b"".join(frames)
    for at in range(len(stream)):
        assert isinstance(expect_tampered(wire, receiver, stream[:at], honest), TruncatedError)


def test_frames_out_of_their_place(wire):
    frames, receiver = recorded(wire, count=4)
    honest = honest_messages(wire, frames, receiver)
    wrong = {}
    for one in range(len(frames)):
        for two in range(len(frames)):
            if one < two:
                swapped = list(frames)
                swapped[one], swapped[two] = swapped[two], swapped[one]
                wrong["swapped", one, two] = swapped
            wrong["repeated", one, two] = [*frames[:two], frames[one], *frames[two:]]
        if one < len(frames) - 1:
            wrong["dropped", one] = frames[:one] + frames[one + 1 :]
    del wrong["repeated", len(frames) - 1, len(frames) - 1]  # FIN after FIN is another error
    for name, stream in wrong.items():
        error = expect_tampered(wire, receiver, b"".join(stream), honest)
        assert isinstance(error, TamperingError) and error.failed == "tag", name


def test_a_frame_after_fin(wire):
    frames, receiver = recorded(wire)
    error = expect_tampered(wire, receiver, b"".join([*frames, frames[0]]), honest_messages(wire, frames, receiver))
    assert error.failed == "trailing"


@pytest.mark.parametrize(
    "other",
    [{"session": b"2" * 16}, {"key": b"2" * 32}, {"binding": b"2" * 32}, {"salt": b"2" * 24}, {"number": 2}],
    ids=lambda other: next(iter(other)),
)
def test_frames_of_another_channel_do_not_splice_in(wire, other):
    """Same contents, same place, but one thing of the channel they come from differs."""
    frames, receiver = recorded(wire)
    foreign = wire.pair(other.get("number", 1), **{k: v for k, v in other.items() if k != "number"})
    strange = [wire.seal(foreign.initiator, *wire.chunk(n)) for n in range(3)]
    for at in range(3):
        stream = b"".join([*frames[:at], strange[at], *frames[at + 1 :]])
        error = expect_tampered(wire, receiver, stream, honest_messages(wire, frames, receiver))
        assert isinstance(error, TamperingError) and error.failed == "tag"


def test_frames_of_another_epoch_do_not_splice_in(wire):
    frames, receiver = recorded(wire, count=8, rekey=TINY)
    honest = honest_messages(wire, frames, receiver)
    # Chunk 0 of epoch 0 and chunk 2, the first of epoch 1 (behind its Rekey frame), have the same counter.
    moved = b"".join([*frames[:2], frames[0], *frames[3:]])
    assert isinstance(expect_tampered(wire, receiver, moved, honest), TamperingError)


def test_reflection(wire):
    """Give a side its own frames back."""
    pair = wire.pair()
    frame = wire.seal(pair.initiator, *wire.chunk(1))
    with pytest.raises(TamperingError) as caught:
        pair.initiator.receive_data(frame)
    assert caught.value.failed == "tag"
    fresh = wire.pair(ready=False)
    with pytest.raises(TamperingError) as caught:
        fresh.initiator.receive_data(fresh.preface)
    assert caught.value.failed == "commitment"


@pytest.mark.parametrize("what", ["key", "binding"])
def test_another_key_or_tls_connection_never_gets_past_the_commitment(wire, what):
    """A proxy that ends TLS on both sides has two exporter values, so two bindings."""
    preface = parse_preface(wire.pair().preface)
    inputs = {"key": wire.KEY_B, "binding": wire.BINDING} | {what: b"x" * 32}
    with pytest.raises(TamperingError, match="commitment") as caught:
        DataChannel.accept(preface, inputs["key"], inputs["binding"])
    assert caught.value.failed == "commitment" and caught.value.channel == 1
    other = DataChannel.accept(parse_preface(wire.pair(**{what: b"x" * 32}).preface), inputs["key"], inputs["binding"])
    with pytest.raises(TamperingError, match="commitment"):
        wire.pair(ready=False).initiator.receive_data(other.data_to_send())


def test_text_that_nobody_vouches_for_is_wiped(wire):
    """With only the tag altered, the primitive leaves the whole plain text behind when it fails."""
    pair = wire.pair()
    stored = b"plain text of somebody"
    frame = bytearray(wire.seal(pair.initiator, wire.chunk(1)[0], stored))
    frame[-1] ^= 1
    with pytest.raises(TamperingError):
        sealed = memoryview(frame)[4:]
        pair.acceptor._receive.open_in_place(sealed)
    assert not any(sealed[:-16])


def test_nothing_is_decrypted_before_the_commitment(wire):
    pair = wire.pair(ready=False)
    bad = bytes(56)
    frame = wire.seal(pair.acceptor, *wire.chunk(1))
    with pytest.raises(TamperingError) as caught:
        pair.initiator.receive_data(bad + frame)
    assert caught.value.failed == "commitment"
    assert pair.initiator._receive.frames == 0


@given(st.data())
def test_any_mutation_of_a_stream_gives_a_prefix_and_an_error(wire, data):
    frames, receiver = recorded(wire, data.draw(st.sampled_from([0, 1])), count=4, rekey=TINY)
    honest, stream = honest_messages(wire, frames, receiver), bytearray(b"".join(frames))
    for _ in range(data.draw(st.integers(1, 3))):
        at, length = data.draw(st.integers(0, len(stream))), data.draw(st.integers(0, 100))
        piece = data.draw(st.binary(max_size=20) | st.just(bytes(stream[at : at + length])))
        stream[at : at + data.draw(st.integers(0, 100))] = piece
    if bytes(stream) != b"".join(frames):
        expect_tampered(wire, receiver, bytes(stream), honest)


# --- an evil peer: it holds the keys -------------------------------------------------------------------------


def evil(pair, *bodies):
    """Seal bodies past every check of the sending side."""
    return b"".join(pair.initiator._send.seal(bytes(body)) for body in bodies)


def body(message, payload=b""):
    front, rest = encode(message, payload)
    return front + bytes(rest)


@pytest.mark.parametrize(
    ("bodies", "match"),
    [
        ([b"\x66\x00\x00\x00"], "ends early"),
        ([b"\x66\xff\xff\x80"], "longer than its frame"),
        ([b"\x00\x00\x01\x80"], "unknown kind 0"),
        ([body(Ping(1))], "unknown kind 4"),
        ([body(KeyB(bytes(32)))], "may not send KeyB in state OPEN"),
        ([body(KeyBProof(bytes(32)))], "may not send KeyBProof in state OPEN"),
        ([body(Fin(1, 0))], "totals"),
        ([body(Fin(0, 1))], "totals"),
        ([body(Chunk(bytes(32), 1, 1), b"12345"), body(Fin(1, 4))], "totals"),
        ([body(Chunk(bytes(32), 1, 1), b"12345"), body(Fin(2, 5))], "totals"),
        ([body(Rekey(2, bytes(32)))], "epoch 2 after 0"),
        ([body(Rekey(0, bytes(32)))], "epoch 0 after 0"),
    ],
)
def test_an_evil_peer_is_the_peers_fault(wire, bodies, match):
    pair = wire.pair()
    with pytest.raises(RemoteProtocolError, match=match) as caught:
        pair.acceptor.receive_data(evil(pair, *bodies))
    assert not isinstance(caught.value, TamperingError)
    assert pair.acceptor.dead


def test_a_rekey_with_another_commitment(wire):
    pair = wire.pair()
    with pytest.raises(TamperingError) as caught:
        pair.acceptor.receive_data(evil(pair, body(Rekey(1, bytes(32)))))
    assert caught.value.failed == "commitment"


def test_an_early_rekey_is_fine(wire):
    pair = wire.pair()
    message = Rekey(1, pair.initiator._send.next_commitment())
    assert pair.acceptor.receive_data(evil(pair, body(message))) == []
    pair.initiator._send.next_epoch()
    assert pair.acceptor.receive_data(wire.seal(pair.initiator, *wire.chunk(1)))
    assert pair.acceptor.epochs == (0, 1)


@pytest.mark.parametrize("mac", [bytes(32), key_b_proof(b"\xb0" * 32, b"2" * 16, b"\xbb" * 32)])
def test_a_wrong_proof_of_key_b(wire, mac):
    pair = wire.pair(0, ready=False)
    pair.acceptor.receive_data(pair.initiator.switch_to_key_b(wire.KEY_B))
    pair.acceptor._send.switch(wire.KEY_B)
    with pytest.raises(TamperingError) as caught:
        pair.initiator.receive_data(pair.answer + pair.acceptor._send.seal(body(KeyBProof(mac))))
    assert caught.value.failed == "proof"


def test_chunks_before_the_proof_are_refused(wire):
    pair = wire.pair(0, ready=False)
    offer = pair.initiator.switch_to_key_b(wire.KEY_B)
    chunk = pair.initiator._send.seal(body(Chunk(bytes(32), 1, 1)))
    with pytest.raises(RemoteProtocolError, match="WAITING_FOR_PROOF"):
        pair.acceptor.receive_data(offer + chunk)


def test_key_a_is_good_for_nothing_after_key_b(wire):
    pair = wire.pair(0, ready=False)
    under_key_a = pair.initiator._send
    offer = under_key_a.seal(body(KeyB(wire.KEY_B)))
    pair.acceptor.receive_data(offer)
    pair.acceptor.switch_to_key_b(wire.KEY_B)
    with pytest.raises(TamperingError):
        pair.acceptor.receive_data(under_key_a.seal(body(Chunk(bytes(32), 1, 1))))


def test_errors_hold_no_secrets(wire):
    pair = wire.pair()
    stored = b"plain text of somebody"
    frame = bytearray(wire.seal(pair.initiator, wire.chunk(1)[0], stored))
    frame[-1] ^= 1
    with pytest.raises(TamperingError) as caught:
        pair.acceptor.receive_data(frame)
    shown = repr(caught.value) + str(caught.value)
    assert "plain" not in shown and "channel 1" in shown and "frame 0" in shown
    assert caught.value.__cause__ is None


def test_the_base_of_the_errors_is_never_raised():
    from protocol.errors import ProtocolError

    with pytest.raises(TypeError):
        ProtocolError("whose fault?")
    assert not issubclass(LocalProtocolError, RemoteProtocolError)
