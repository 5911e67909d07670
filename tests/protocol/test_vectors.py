"""The frozen vectors: what the wire looks like, and what comes of what it must not look like."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from protocol import channel_keys, messages
from protocol.data import NEED_DATA, DataChannel, parse_preface
from protocol.errors import LocalProtocolError, RemoteProtocolError, TamperingError
from protocol.frame import decode_control, decode_data, encode
from protocol.limits import REKEY, RekeyLimits
from protocol.messages import KeyB

VECTORS = Path(__file__).parents[1] / "vectors" / "protocol"
h = bytes.fromhex


KINDS = {kind.__name__: kind for kind in messages.CONTROL_MESSAGES + messages.DATA_MESSAGES}


def cases(name):
    found = json.loads((VECTORS / f"{name}.json").read_text())
    return [pytest.param(case, id=case["name"]) for case in found]


def value(shown):
    if isinstance(shown, dict):
        return h(shown["hex"])
    return [value(item) for item in shown] if isinstance(shown, list) else shown


def outcome_of(error):
    return type(error).__name__ + (f" {error.failed}" if isinstance(error, TamperingError) else "")


@pytest.mark.parametrize("case", cases("derive"))
def test_derivations(case):
    inputs = [case[name] if isinstance(case[name], int) else h(case[name]) for name in
              ("input_key", "direction", "channel", "epoch", "session", "salt", "binding")]  # fmt: skip
    made = channel_keys.derive(*inputs)
    assert made == channel_keys.ChannelKey(h(case["key"]), h(case["base_nonce"]), h(case["commitment"]))


@pytest.mark.parametrize("case", cases("helpers"))
def test_helpers(case):
    function = getattr(channel_keys, case["function"])
    inputs = [h(each) for each in case["inputs"]]
    if case["outcome"] == "ok":
        assert function(*inputs) == h(case["output"])
        return
    with pytest.raises(LocalProtocolError):
        function(*inputs)


@pytest.mark.parametrize("case", cases("bodies"))
def test_bodies(case):
    data = memoryview(h(case["body"]))
    decode = decode_data if data and 100 <= data[0] < 200 else decode_control
    if case["outcome"] != "ok":
        with pytest.raises(RemoteProtocolError) as caught:
            decode(data)
        assert outcome_of(caught.value) == case["outcome"]
        return
    message, payload = decode(data)
    expected = {name: value(shown) for name, shown in case["fields"].items()}
    assert message == KINDS[case["message"]](**expected)
    assert payload == h(case["payload"])
    # A message that got a field since then is encoded with it.
    if case.get("canonical") and set(expected) == {field.name for field in dataclasses.fields(message)}:
        front, rest = encode(message, payload)
        assert front + bytes(rest) == data


def test_every_message_has_a_vector():
    named = {case.values[0].get("message") for case in cases("bodies")}
    assert named >= KINDS.keys()


def opened(case):
    """Return the channel that receives, and what it must have sent so far."""
    rekey = RekeyLimits(**case["rekey"]) if case["rekey"] else REKEY
    key, bound = h(case["input_key"]), h(case["binding"])
    if case["role"] == "acceptor":
        channel = DataChannel.accept(
            parse_preface(h(case["preface"])), key, bound, salt=h(case["acceptor_salt"]), rekey=rekey
        )
        return channel
    channel = DataChannel.initiate(case["channel"], h(case["session"]), key, bound, h(case["salt"]), rekey=rekey)
    assert channel.data_to_send() == h(case["preface"])
    if case["channel"] == 0:
        channel.switch_to_key_b(h(case["key_b"]))
    return channel


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("case", cases("channels"))
def test_channels(case, size):
    channel, events, outcome = opened(case), [], "ok"
    stream = h(case["stream"])
    try:
        for at in range(0, len(stream), size):
            for event in _switching(channel, stream[at : at + size]):
                events.append(event)
        channel.eof()
    except RemoteProtocolError as error:
        outcome = outcome_of(error)
    assert (outcome, len(events)) == (case["outcome"], case["events"])


def _switching(channel, data):
    """Feed bytes; as the acceptor of channel 0 go on under Key B as soon as it comes."""
    view = memoryview(data)
    while True:
        while (event := channel.next_event()) is not NEED_DATA:
            if isinstance(event.message, KeyB):
                channel.switch_to_key_b(event.message.key)
            yield event
        if not view:
            return
        buffer = channel.get_buffer()
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        channel.buffer_updated(count)
        view = view[count:]


@pytest.mark.parametrize("case", cases("prefaces"))
def test_prefaces(case):
    data = h(case["data"])
    key, bound = bytes(range(32, 64)), channel_keys.binding(b"\1" * 32, b"\2" * 32, b"\3" * 32)
    try:
        preface = parse_preface(data)
        outcome = "incomplete" if preface is None else "ok"
        if preface is not None:
            DataChannel.accept(preface, key, bound)
    except RemoteProtocolError as error:
        outcome = outcome_of(error)
    assert outcome == case["outcome"]
    if outcome == "ok":
        assert (preface.channel, preface.session) == (case["channel"], h(case["session"]))


def test_outcomes_are_of_every_class():
    seen = {case.values[0]["outcome"] for name in ("bodies", "channels", "prefaces") for case in cases(name)}
    assert seen == {
        "ok", "incomplete", "RemoteProtocolError", "TruncatedError", "TamperingError tag", "TamperingError length",
        "TamperingError commitment", "TamperingError trailing",
    }  # fmt: skip


def test_fields_that_came_later_have_defaults():
    for case in (case.values[0] for case in cases("bodies")):
        if case["outcome"] == "ok":
            later = [field for field in dataclasses.fields(KINDS[case["message"]]) if field.name not in case["fields"]]
            missing = dataclasses.MISSING
            assert all(f.default is not missing or f.default_factory is not missing for f in later), (
                "a later field needs a default"
            )
