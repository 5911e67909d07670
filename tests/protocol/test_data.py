from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.data import HEADROOM, NEED_DATA, PREFACE_LENGTH, PREFACE_MAGIC, DataChannel, parse_preface
from protocol.errors import LocalProtocolError, RemoteProtocolError, TamperingError, TruncatedError
from protocol.frame import encode
from protocol.limits import RekeyLimits
from protocol.messages import Chunk, Fin, KeyB, KeyBProof, Ping, Rekey

# --- two real channels over a fake wire ----------------------------------------------------------------------


@given(st.data())
def test_any_chunks_in_any_pieces_arrive_as_they_were_sent(wire, data):
    rekey = RekeyLimits(data.draw(st.integers(2, 9)), data.draw(st.sampled_from([1, 300, 1 << 30])))
    number = data.draw(st.sampled_from([0, 1, 31]))
    pair = wire.pair(number, rekey=rekey)
    ends = {"initiator": pair.initiator, "acceptor": pair.acceptor}
    sent = {side: [] for side in ends}
    streams = dict.fromkeys(ends, b"")
    for n in range(data.draw(st.integers(0, 25))):
        side = data.draw(st.sampled_from(sorted(ends)))
        header, stored = wire.chunk(n, data.draw(st.integers(0, 60)), n % 2)
        if data.draw(st.booleans()):
            streams[side] += wire.seal(ends[side], header, stored)
        else:
            streams[side] += ends[side].seal(header, stored)
        sent[side].append((header, stored))
    for side, other in (("initiator", "acceptor"), ("acceptor", "initiator")):
        streams[side] += ends[side].finish()
        stream = memoryview(streams[side])
        got = []
        while stream:
            size = data.draw(st.integers(1, 200))
            got += ends[other].receive_data(stream[:size])
            stream = stream[size:]
        assert [(event.message, event.payload) for event in got[:-1]] == sent[side]
        assert isinstance(got[-1].message, Fin)
        ends[other].eof()
    assert pair.initiator.finished and pair.acceptor.finished
    assert pair.initiator.epochs == pair.acceptor.epochs[::-1]


def test_the_receiving_loop_fills_each_frame_in_place(wire):
    pair = wire.pair()
    header, stored = wire.chunk(1, size=100_000)
    stream = memoryview(wire.seal(pair.initiator, header, stored) * 1 + wire.seal(pair.initiator, header, stored))
    events, at, calls = [], 0, 0
    while at < len(stream):
        while (event := pair.acceptor.next_event()) is not NEED_DATA:
            events.append(event)
        buffer = pair.acceptor.get_buffer()
        count = min(len(buffer), len(stream) - at)
        buffer[:count] = stream[at : at + count]
        pair.acceptor.buffer_updated(count)
        at += count
        calls += 1
    events.append(pair.acceptor.next_event())
    # A length word, then one call for each frame: the next length comes with it.
    assert calls == 3
    assert [event.payload == stored for event in events] == [True, True]
    assert len(events[0].payload.obj) == len(stream) // 2
    assert events[0].payload.obj is not events[1].payload.obj


def test_payloads_belong_to_their_events(wire):
    pair = wire.pair()
    first = pair.acceptor.receive_data(wire.seal(pair.initiator, *wire.chunk(1)))[0]
    kept = bytes(first.payload)
    for n in range(5):
        pair.acceptor.receive_data(wire.seal(pair.initiator, *wire.chunk(n + 2)))
    assert first.payload == kept
    assert not first.payload.readonly


# --- seal_chunk ---------------------------------------------------------------------------------------------


def test_a_buffer_can_be_sent_again_on_another_channel(wire):
    one, two = wire.pair(1), wire.pair(2)
    header, stored = wire.chunk(1, size=1000)
    buffer = bytearray(HEADROOM) + stored
    for pair in (one, two):
        (event,) = pair.acceptor.receive_data(pair.initiator.seal_chunk(header, memoryview(buffer)))
        assert (event.message, event.payload) == (header, stored)
        assert buffer[HEADROOM:] == stored


@pytest.mark.parametrize("memory", [bytes, bytearray, lambda data: memoryview(bytes(data))])
@pytest.mark.parametrize("size", [0, 1, 70_000, limits.MAX_CHUNK_PAYLOAD])
def test_any_memory_of_any_size(wire, memory, size):
    pair = wire.pair()
    header, _ = wire.chunk(1)
    stored = b"\x07" * size
    frame = pair.initiator.seal_chunk(header, memory(bytes(HEADROOM) + stored))
    assert len(frame) <= limits.LENGTH_WORD + limits.MAX_DATA_FRAME
    (event,) = pair.acceptor.receive_data(frame)
    assert event.payload == stored


def test_the_scratch_memory_is_used_again(wire):
    pair = wire.pair()
    first = pair.initiator.seal_chunk(wire.chunk(1)[0], bytearray(HEADROOM + 1000))
    second = pair.initiator.seal_chunk(wire.chunk(1)[0], bytearray(HEADROOM + 2000))
    assert first.obj is second.obj


def test_the_front_of_a_chunk_fits_the_headroom():
    front, _ = encode(Chunk(id=bytes(32), codec=255, plain_length=limits.U32, flags=255))
    assert len(front) <= HEADROOM


def test_buffers_that_do_not_fit(wire):
    pair = wire.pair()
    for size in (0, HEADROOM - 1, HEADROOM + limits.MAX_CHUNK_PAYLOAD + 1):
        with pytest.raises(LocalProtocolError):
            pair.initiator.seal_chunk(wire.chunk(1)[0], bytearray(size))
    # Nothing was sealed, and no counter was spent.
    assert len(pair.acceptor.receive_data(wire.seal(pair.initiator, *wire.chunk(1)))) == 1


# --- Key A, Key B -------------------------------------------------------------------------------------------


def test_channel_0_hands_over_key_b(wire):
    pair = wire.pair(0, ready=False)
    with pytest.raises(LocalProtocolError):
        pair.initiator.seal(*wire.chunk(1))
    offer = pair.initiator.switch_to_key_b(wire.KEY_B)
    with pytest.raises(LocalProtocolError, match="WAITING_FOR_PROOF"):
        pair.initiator.seal(*wire.chunk(1))
    with pytest.raises(LocalProtocolError, match="WAITING_FOR_KEY_B"):
        pair.acceptor.switch_to_key_b(wire.KEY_B)
    (event,) = pair.acceptor.receive_data(offer)
    assert event.message == KeyB(wire.KEY_B)
    with pytest.raises(LocalProtocolError):
        pair.acceptor.seal(*wire.chunk(1))
    with pytest.raises(LocalProtocolError, match="not the Key B"):
        pair.acceptor.switch_to_key_b(b"x" * 32)
    proof = pair.acceptor.switch_to_key_b(wire.KEY_B)
    (event,) = pair.initiator.receive_data(pair.answer + proof)
    assert isinstance(event.message, KeyBProof)
    for sender, receiver in ((pair.initiator, pair.acceptor), (pair.acceptor, pair.initiator)):
        assert len(receiver.receive_data(wire.seal(sender, *wire.chunk(1)))) == 1
    with pytest.raises(LocalProtocolError):
        pair.initiator.switch_to_key_b(wire.KEY_B)


def test_after_the_proof_nothing_of_key_a_is_left(wire):
    pair = wire.pair(0)
    for channel in (pair.initiator, pair.acceptor):
        held = [cipher._input_key for cipher in (channel._send, channel._receive)]
        assert held == [wire.KEY_B, wire.KEY_B]
        assert wire.KEY_A not in vars(channel).values()
        assert channel._key_b is None


def test_other_channels_know_no_key_b(wire):
    pair = wire.pair(1)
    for channel in (pair.initiator, pair.acceptor):
        with pytest.raises(LocalProtocolError):
            channel.switch_to_key_b(wire.KEY_B)
    assert pair.acceptor.receive_data(wire.seal(pair.initiator, *wire.chunk(1)))


def test_a_key_b_of_a_wrong_length(wire):
    with pytest.raises(LocalProtocolError):
        wire.pair(0, ready=False).initiator.switch_to_key_b(b"short")


@pytest.mark.parametrize("message", [KeyB(bytes(32)), KeyBProof(bytes(32)), Rekey(1, bytes(32)), Fin(0, 0)])
def test_what_the_channel_sends_by_itself(wire, message):
    with pytest.raises(LocalProtocolError, match="by the channel itself"):
        wire.pair().initiator.seal(message)


def test_control_messages_do_not_travel_here(wire):
    with pytest.raises(LocalProtocolError):
        wire.pair().initiator.seal(Ping(1))


# --- epochs -------------------------------------------------------------------------------------------------


def test_rekey_at_the_limit_of_frames(wire):
    pair = wire.pair(rekey=RekeyLimits(frames=3, sealed_bytes=1 << 30))
    epochs = []
    for n in range(7):
        pair.acceptor.receive_data(wire.seal(pair.initiator, *wire.chunk(n)))
        epochs.append(pair.acceptor.epochs[1])
    # Two chunks and the Rekey frame fill an epoch of three frames.
    assert epochs == [0, 0, 1, 1, 2, 2, 3]


def test_rekey_at_the_limit_of_bytes(wire):
    pair = wire.pair(rekey=RekeyLimits(frames=1 << 32, sealed_bytes=2000))
    epochs = []
    for n in range(5):
        pair.acceptor.receive_data(wire.seal(pair.initiator, *wire.chunk(n, size=950)))
        epochs.append(pair.acceptor.epochs[1])
    assert epochs == [0, 0, 1, 1, 2]


def test_a_peer_that_does_not_rekey_is_stopped(wire):
    pair = wire.pair(rekey=RekeyLimits(frames=3, sealed_bytes=1 << 30))
    pair.initiator._send._rekey = limits.REKEY
    pair.acceptor.receive_data(b"".join(wire.seal(pair.initiator, *wire.chunk(n)) for n in range(3)))
    with pytest.raises(RemoteProtocolError, match="without a new key"):
        pair.acceptor.receive_data(wire.seal(pair.initiator, *wire.chunk(3)))
    pair = wire.pair(rekey=RekeyLimits(frames=1 << 32, sealed_bytes=1000))
    pair.initiator._send._rekey = limits.REKEY
    big = wire.chunk(1, size=limits.MAX_CHUNK_PAYLOAD)
    with pytest.raises(RemoteProtocolError, match="without a new key"):
        for _ in range(3):
            pair.acceptor.receive_data(wire.seal(pair.initiator, *big))


def test_the_real_limits_are_those_of_the_design():
    assert (limits.REKEY.frames, limits.REKEY.sealed_bytes) == (2**32, 64 * 2**30)
    with pytest.raises(ValueError, match="two frames"):
        RekeyLimits(frames=1, sealed_bytes=1)


def test_no_nonce_is_used_twice_under_one_key(wire):
    pair = wire.pair(0, rekey=RekeyLimits(frames=4, sealed_bytes=1 << 30), ready=False)
    used = []
    for channel in (pair.initiator, pair.acceptor):
        step, cipher = channel._send._step, channel._send
        channel._send._step = lambda length, step=step, cipher=cipher: (
            used.append((cipher.commitment, cipher._base ^ cipher._counter)) or step(length)
        )
    pair.acceptor.receive_data(pair.initiator.switch_to_key_b(wire.KEY_B))
    pair.initiator.receive_data(pair.answer + pair.acceptor.switch_to_key_b(wire.KEY_B))
    for n in range(30):
        for channel in (pair.initiator, pair.acceptor):
            channel.seal(*wire.chunk(n))
    assert len(used) > 60
    assert len(set(used)) == len(used)


def test_a_replayed_preface_meets_other_keys(wire):
    """The acceptor's own salt: even if a channel number were accepted twice, no key of its direction comes back."""
    preface = parse_preface(wire.pair().preface)
    made = {DataChannel.accept(preface, wire.KEY_B, wire.BINDING).data_to_send() for _ in range(5)}
    assert len(made) == 5


# --- the end ------------------------------------------------------------------------------------------------


def test_an_end_without_fin_is_a_truncation(wire):
    pair = wire.pair()
    pair.acceptor.receive_data(wire.seal(pair.initiator, *wire.chunk(1)))
    with pytest.raises(TruncatedError):
        pair.acceptor.eof()
    assert pair.acceptor.dead


def test_nothing_is_sent_after_fin(wire):
    pair = wire.pair()
    pair.initiator.finish()
    for again in (pair.initiator.finish, lambda: pair.initiator.seal(*wire.chunk(1))):
        with pytest.raises(LocalProtocolError, match="FINISHED"):
            again()


def test_directions_end_by_themselves(wire):
    pair = wire.pair()
    pair.acceptor.receive_data(pair.initiator.finish())
    assert not pair.acceptor.finished
    assert len(pair.initiator.receive_data(wire.seal(pair.acceptor, *wire.chunk(1)))) == 1
    (fin,) = pair.initiator.receive_data(pair.acceptor.finish())
    assert fin.message == Fin(frames=1, payload_bytes=5)
    assert pair.initiator.finished and pair.acceptor.finished


def test_bytes_after_fin(wire):
    pair = wire.pair()
    events, error = wire.drain(pair.acceptor, pair.initiator.finish() + b"\0")
    assert len(events) == 1
    assert isinstance(error, TamperingError) and error.failed == "trailing"


# --- dead channels and misuse -------------------------------------------------------------------------------


def test_a_dead_channel_does_nothing_more(wire):
    pair = wire.pair()
    with pytest.raises(TamperingError):
        pair.acceptor.receive_data(b"\0\0\0\x20" + bytes(32))
    uses = [
        pair.acceptor.next_event, pair.acceptor.get_buffer, pair.acceptor.eof, pair.acceptor.finish,
        lambda: pair.acceptor.seal(*wire.chunk(1)), lambda: wire.seal(pair.acceptor, *wire.chunk(1)),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(LocalProtocolError, match="dead"):
            use()


def test_a_buffer_is_taken_only_when_there_is_room(wire):
    pair = wire.pair()
    frame = wire.seal(pair.initiator, *wire.chunk(1))
    pair.acceptor.get_buffer()[:4] = frame[:4]
    pair.acceptor.buffer_updated(4)
    with pytest.raises(LocalProtocolError, match="take the next event"):
        pair.acceptor.get_buffer()
    for count in (-1, 5):
        with pytest.raises(LocalProtocolError):
            pair.acceptor.buffer_updated(count)


@pytest.mark.parametrize("length", [0, 19, limits.MAX_DATA_FRAME + 1, 0xFFFFFFFF])
def test_lengths_are_checked_before_memory_is_taken(wire, length):
    pair = wire.pair()
    with pytest.raises(TamperingError) as caught:
        pair.acceptor.receive_data(length.to_bytes(4, "big"))
    assert caught.value.failed == "length"
    assert len(pair.acceptor._reader._memory) == 4


def test_data_to_send_is_said_once(wire):
    channel = DataChannel.initiate(5, wire.SESSION, wire.KEY_B, wire.BINDING, wire.SALT)
    assert len(channel.data_to_send()) == PREFACE_LENGTH
    assert channel.data_to_send() == b""


@pytest.mark.parametrize("number", [-1, 32, 1 << 16])
def test_channel_numbers_have_a_bound(wire, number):
    with pytest.raises(LocalProtocolError):
        DataChannel.initiate(number, wire.SESSION, wire.KEY_B, wire.BINDING, wire.SALT)


# --- preface ------------------------------------------------------------------------------------------------


def test_a_preface_is_no_tls_and_no_text():
    assert PREFACE_MAGIC[0] not in range(0x80)
    with pytest.raises(UnicodeDecodeError):
        PREFACE_MAGIC.decode()


@given(st.integers(0, PREFACE_LENGTH + 10))
def test_a_preface_may_come_in_parts(wire, size):
    data = wire.pair(7).preface + b"more follows"
    preface = parse_preface(data[:size])
    assert (preface is None) == (size < PREFACE_LENGTH)
    if preface is not None:
        assert (preface.channel, preface.session, preface.salt) == (7, wire.SESSION, wire.SALT)
        assert bytes(preface) == data[:PREFACE_LENGTH]


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"GET / HTTP/1.1", b"\xf4X", PREFACE_MAGIC + b"\x02",
                                  PREFACE_MAGIC + b"\x01\x00\x20" + bytes(72)])  # fmt: skip
def test_what_is_no_preface_is_refused_as_soon_as_it_shows(data):
    with pytest.raises(RemoteProtocolError):
        parse_preface(data)


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_are_a_preface_or_an_error(data, with_magic):
    try:
        parse_preface(PREFACE_MAGIC + data if with_magic else data)
    except RemoteProtocolError:
        pass


@given(st.binary(max_size=300), st.sampled_from([0, 1]), st.booleans())
def test_any_bytes_are_events_or_an_error(wire, data, number, as_initiator):
    pair = wire.pair(number, ready=False)
    events, error = wire.drain(pair.initiator if as_initiator else pair.acceptor, data)
    assert events == []
    assert isinstance(error, TamperingError | TruncatedError)
