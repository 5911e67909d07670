from __future__ import annotations

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import codec, limits
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.fields import Between, Flag, ListOf, OneOf, Sized, Text
from protocol.frame import _BY_TYPE, decode_control, decode_data, encode
from protocol.messages import (
    CONTROL_MESSAGES,
    DATA_MESSAGES,
    Chunk,
    Get,
    Have,
    HaveReply,
    Hello,
    KeyB,
    KeyBProof,
    Message,
    Missing,
    Pair,
    Paired,
    Ping,
    PointHead,
    Points,
    PutSlot,
    Start,
    Started,
)

ALL = CONTROL_MESSAGES + DATA_MESSAGES

# Written down once more on purpose: a kind is never renumbered and never used again.
KINDS = {
    1: "Hello", 2: "Pair", 3: "Paired", 4: "Ping", 5: "Pong",
    10: "Start", 11: "Started", 12: "Ready", 13: "Have", 14: "HaveReply", 15: "Stored", 16: "Get", 17: "Missing",
    18: "Flush", 19: "Flushed", 20: "Needs", 21: "PutSlot", 22: "SlotStored", 23: "Commit", 24: "CommitPlain",
    25: "Committed", 26: "ListPoints", 27: "Points", 28: "GetPoint", 29: "PointHead", 30: "Stop", 31: "Stopped",
    32: "Refused", 33: "StatusRequest", 34: "StatusReply", 35: "Progress", 36: "Limit",
    40: "Park", 41: "Parked", 42: "Reach", 43: "Tickets", 44: "Incoming",
    45: "GetSlots", 46: "Slots", 47: "PutSlots", 48: "SlotsPut",
    65: "GetChain", 66: "Chain", 67: "RemovePoints", 68: "PointsRemoved", 69: "PinPoint", 70: "PointPinned",
    71: "UndeletePoint", 72: "PointUndeleted",
    75: "GetCopy", 76: "CopyHead", 77: "GetNeeds", 78: "NeedsPart", 79: "GetForms", 80: "Forms", 81: "GetDigests",
    82: "Digests", 83: "FetchForms", 84: "CommitCopy", 90: "Mandate", 91: "Mandated", 92: "CopyTo", 93: "CopiedTo",
    94: "FoldPoint", 95: "PointFolded",
    60: "GetLost", 61: "Lost",
    100: "KeyB", 101: "KeyBProof", 102: "Chunk", 103: "Rekey", 104: "Fin", 105: "Piece",
}  # fmt: skip


def strategy_of(rule):
    if isinstance(rule, Between):
        return st.integers(rule.low, rule.high)
    if isinstance(rule, Sized):
        most = min(rule.high, rule.low + 4 * rule.step)
        sizes = st.sampled_from(range(rule.low, most + 1, rule.step))
        some = sizes.flatmap(lambda n: st.binary(min_size=n, max_size=n))
        return some | st.just(b"") if rule.empty else some
    if isinstance(rule, Text):
        return st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=rule.high // 4)
    if isinstance(rule, OneOf):
        return st.sampled_from(sorted(rule.words))
    if isinstance(rule, Flag):
        return st.booleans()
    assert isinstance(rule, ListOf)
    return st.lists(strategy_of(rule.item), max_size=3)


def fields_of(kind):
    table = _BY_TYPE[kind]
    return dict(table.header + ((table.in_payload,) if table.in_payload else ()))


def messages_of(kind):
    return st.builds(kind, **{name: strategy_of(check.__self__) for name, check in fields_of(kind).items()})


messages = st.sampled_from(ALL).flatmap(messages_of)


def body_of(message, payload=b""):
    front, rest = encode(message, payload)
    return memoryview(front + bytes(rest))


def decode(body):
    return (decode_control if body[0] < 100 else decode_data)(body)


def raw(kind, header, payload=b""):
    packed = header if isinstance(header, bytes) else codec.pack(header)
    return memoryview(struct.pack(">BH", kind, len(packed)) + packed + payload)


def test_kinds_are_what_they_were():
    assert {kind.KIND: kind.__name__ for kind in ALL} == KINDS


@given(messages, st.binary(max_size=40))
def test_what_is_encoded_is_decoded(message, payload):
    if not message.PAYLOAD or message.IN_PAYLOAD:
        payload = b""
    assert decode(body_of(message, payload)) == (message, payload)


@given(
    messages,
    st.sampled_from([None, True, -1, 2**63, 1.5, b"", b"x" * 17, "x" * 201, "\x1b[2J", [1], {"a": 1}]),
    st.data(),
)
def test_what_is_accepted_could_have_been_sent(message, odd, data):
    """Both directions check the same rules: any value in any field is refused by both or by none."""
    names = [name for name, _ in _BY_TYPE[type(message)].header]
    if not names:
        return
    name = data.draw(st.sampled_from(names))
    header = {field: getattr(message, field) for field in names} | {name: odd}
    payload = getattr(message, message.IN_PAYLOAD) if message.IN_PAYLOAD else b""
    try:
        got, _ = decode(raw(message.KIND, header, payload))
    except RemoteProtocolError:
        with pytest.raises(LocalProtocolError):
            encode(dataclasses.replace(message, **{name: odd}))
    else:
        assert got == dataclasses.replace(message, **{name: odd})
        encode(got)


@given(messages, st.data())
def test_a_field_is_missing(message, data):
    table = _BY_TYPE[type(message)]
    names = [name for name, _ in table.header]
    if not names:
        return
    gone = data.draw(st.sampled_from(names))
    header = {name: getattr(message, name) for name in names if name != gone}
    payload = getattr(message, message.IN_PAYLOAD) if message.IN_PAYLOAD else b""
    if gone in table.required:
        with pytest.raises(RemoteProtocolError, match=f"{gone} is missing"):
            decode(raw(message.KIND, header, payload))
    else:
        decode(raw(message.KIND, header, payload))


def test_unknown_fields_are_skipped():
    message, _ = decode_control(raw(Ping.KIND, {"token": 7, "later": [1, {"a": b"b"}]}))
    assert message == Ping(token=7)


def test_a_newer_field_may_be_missing():
    message, _ = decode_control(raw(Start.KIND, {"purpose": "backup", "job": "j", "repository": "r", "zone": "none"}))
    assert message == Start("backup", "j", "r", "none", password="", point=b"", resume=b"", kind="")


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"", "too short"),
        (b"\x04\x00", "too short"),
        (b"\x04\x00\x05\x80", "longer than its frame"),
        (raw(0, {}), "unknown kind 0"),
        (raw(99, {}), "unknown kind 99"),
        (raw(Chunk.KIND, {}), "unknown kind 102"),
        (raw(Ping.KIND, [1]), "not a map"),
        (raw(Ping.KIND, b""), "ends early"),
        (raw(Ping.KIND, {"token": 1}, b"x"), "payload of 1"),
        (raw(Ping.KIND, {"token": True}), "not an integer"),
        (raw(Ping.KIND, {"token": -1}), "out of range"),
        (raw(Have.KIND, {"batch": 1}, bytes(31)), "wrong length"),
        (raw(Have.KIND, {"batch": 1}, bytes(32 * 4097)), "131104 bytes"),
        (raw(HaveReply.KIND, {"batch": 1, "known": b"", "key_ids": [b"x"]}), "item that has a wrong length"),
        (raw(HaveReply.KIND, {"batch": 1, "known": "", "key_ids": []}), "known is not binary"),
        (raw(Points.KIND, {"more": 1}), "not a boolean"),
        (raw(Paired.KIND, {"name": "n", "repositories": "r", "tenant": "t"}), "not a list"),
        (raw(Start.KIND, {"purpose": "prune", "job": "", "repository": "", "zone": "none"}), "not one of the words"),
        (raw(Hello.KIND, {"version_min": 1, "version_max": 1, "name": "a\x1b[2J", "agent": ""}), "control characters"),
        (raw(Hello.KIND, {"version_min": 1, "version_max": 1, "name": "é\x85", "agent": ""}), "control characters"),
        (raw(Hello.KIND, {"version_min": 1, "version_max": 1, "name": "é" * 101, "agent": ""}), "too long"),
    ],
)
def test_malformed_bodies(body, match):
    with pytest.raises(RemoteProtocolError, match=match):
        decode_control(memoryview(body))


def test_control_messages_are_no_data_messages():
    with pytest.raises(RemoteProtocolError, match="unknown kind"):
        decode_data(raw(Ping.KIND, {"token": 1}))


def test_ids_travel_beside_the_header():
    front, payload = encode(Have(batch=1, ids=bytes(32 * limits.MAX_IDS)))
    assert len(front) < 32
    assert len(payload) == 128 * 1024
    with pytest.raises(LocalProtocolError, match="makes its payload itself"):
        encode(Get(batch=1, ids=bytes(32)), b"x")


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_payload_bounds_hold_both_ways(kind):
    if kind.IN_PAYLOAD or kind.PAYLOAD > limits.MAX_SMALL_PAYLOAD * 8:
        return
    sample = _least(kind)
    most = bytes(kind.PAYLOAD)
    assert len(decode(body_of(sample, most))[1]) == kind.PAYLOAD
    with pytest.raises(LocalProtocolError, match="payload"):
        encode(sample, most + b"x")
    front, _ = encode(sample)
    with pytest.raises(RemoteProtocolError, match="payload"):
        decode(memoryview(front + most + b"x"))


def _least(kind):
    values = {}
    for name, check in fields_of(kind).items():
        rule = check.__self__
        values[name] = (
            max(rule.low, 0) if isinstance(rule, Between) else bytes(rule.low) if isinstance(rule, Sized)
            else "" if isinstance(rule, Text) else sorted(rule.words)[0] if isinstance(rule, OneOf)
            else False if isinstance(rule, Flag) else []
        )  # fmt: skip
    return kind(**values)


def _most(kind):
    values = {}
    for name, check in fields_of(kind).items():
        values[name] = _largest(check.__self__)
    return kind(**values)


def _largest(rule):
    if isinstance(rule, Between):
        return rule.high
    if isinstance(rule, Sized):
        return bytes(rule.high)
    if isinstance(rule, Text):
        return "x" * rule.high
    if isinstance(rule, OneOf):
        return max(rule.words, key=len)
    return True if isinstance(rule, Flag) else [_largest(rule.item)] * rule.high


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_the_largest_header_of_each_message_fits_the_bounds(kind):
    message = _most(kind)
    assert decode(body_of(message))[0] == message


@pytest.mark.parametrize("message", [KeyB(b"K" * 32), KeyBProof(b"K" * 32), Pair(b"K" * 32, "n"),
                                     Started(b"s" * 16, b"K" * 32, b"d" * 16, b"K" * 32)])  # fmt: skip
def test_no_key_is_shown(message):
    assert "KK" not in repr(message)


def test_messages_are_frozen_and_small():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Ping(1).token = 2
    assert not hasattr(Ping(1), "__dict__")


def test_only_messages_are_encoded():
    class Other(Message):
        pass

    with pytest.raises(LocalProtocolError, match="Other is not a message"):
        encode(Other())


def test_slots_have_bounds():
    with pytest.raises(LocalProtocolError):
        encode(PutSlot(bytes(16), bytes(16)), bytes(limits.MAX_SLOT + 1))
    with pytest.raises(LocalProtocolError):
        encode(PointHead(bytes(16), [b""] * (limits.MAX_SLOTS + 1)))
    with pytest.raises(LocalProtocolError):
        encode(Missing(bytes(32), "x" * 2001))
