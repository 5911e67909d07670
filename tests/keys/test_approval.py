"""Requests and approvals as bytes: what is signed is what is read, and nothing else is taken for one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.clock import ManualClock
from transporter.errors import DamagedData, NoKey, RefusedByPeer, TransporterError, UnsupportedFormat, UsageError
from transporter.keys.approval import HOUR_NS, MAX_HOURS, approve, make_request, read_approval, read_request
from transporter.keys.armour import APPROVAL as FAMILY
from transporter.keys.armour import Signed, armour, read_armour
from transporter.keys.deeds import KINDS, MAX_WORD, MAX_WORDS, OPERATIONS, deed, deed_of_policy
from transporter.keys.derive import APPROVAL, APPROVAL_REQUEST, bind
from transporter.keys.operator_key import (
    PublicOperator,
    generate_operator,
    name_in,
    open_operator,
    read_public,
    seal_operator,
)
from transporter.keys.password import KdfParameters

CLOCK = ManualClock()
ANNA, BERT = generate_operator("anna", CLOCK), generate_operator("bert", CLOCK)
PIN = bytes(range(32))
CHEAP = KdfParameters(8, 1, 1)
WORDS = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=MAX_WORD)
DEEDS = st.builds(
    lambda operation, words: deed(operation, *words),
    st.sampled_from(sorted(OPERATIONS)),
    st.lists(WORDS, min_size=1, max_size=MAX_WORDS),
)


CHANGE = deed("password.change", "office")


def asked(what=CHANGE, by=ANNA, clock=CLOCK, **how):
    return make_request(by, what, node="office", pin=PIN, clock=clock, **how)


def approved(**how):
    return approve(BERT, read_request(asked(**how)), CLOCK)


def forged(text, kind, change, key=None, label=APPROVAL_REQUEST):
    """The text with its body changed; signed again where a key is given."""
    signed = read_armour(kind, text, FAMILY)
    body = msgspec.msgpack.encode(change(msgspec.msgpack.decode(signed.body)))
    signature = key.sign(bind(label, body)) if key else signed.signature
    return armour(kind, msgspec.msgpack.encode(Signed(body, signature)), FAMILY)


def put(index, value):
    return lambda fields: [*fields[:index], value, *fields[index + 1 :]]


@given(DEEDS, st.integers(1, MAX_HOURS))
def test_what_is_signed_is_what_is_read(what, hours):
    request = read_request(asked(what, hours=hours))
    signed = read_approval(approve(BERT, request, CLOCK))
    assert signed.request.deed == what and signed.request.pin == PIN
    assert signed.request.expires_ns - signed.request.created_ns == hours * HOUR_NS
    assert (signed.request.asker, signed.approver) == (ANNA.public, BERT.public)
    assert signed.asked.id == request.id


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_flipped_bit_is_taken(at, flip):
    text = approved()
    data = bytearray(msgspec.msgpack.encode(read_armour("RESPONSE", text, FAMILY)))
    data[at % len(data)] ^= flip
    with pytest.raises((DamagedData, UnsupportedFormat, RefusedByPeer)):
        read_approval(armour("RESPONSE", bytes(data), FAMILY))


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: armour("RESPONSE", data, FAMILY)))
def test_whatever_else_is_read_is_one_of_our_errors(text):
    for read in (read_request, read_approval):
        with pytest.raises((DamagedData, UnsupportedFormat)):
            read(text)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_a_key_file_that_is_none(data):
    with pytest.raises((DamagedData, UnsupportedFormat)):
        open_operator(data, b"phrase")


@pytest.mark.parametrize("field", range(10))
def test_no_field_of_a_request_can_be_exchanged_under_its_signature(field):
    other = make_request(
        BERT, deed("keyset.retire", "2026"), node="other", pin=bytes(32), clock=ManualClock(wall_ns=77), hours=5
    )
    theirs = msgspec.msgpack.decode(read_armour("REQUEST", other, FAMILY).body)
    theirs[0] = 2
    with pytest.raises((DamagedData, UnsupportedFormat)):
        read_request(forged(asked(), "REQUEST", put(field, theirs[field])))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (4, "a\x1b[2J"),  # the node's name
        (4, "n" * 65),
        (5, b"short"),
        (6, "password.steal"),
        (7, []),
        (7, ["office", "a\nb"]),
        (7, ["w"] * (MAX_WORDS + 1)),
        (7, ["w" * (MAX_WORD + 1)]),
        (7, [""]),
        (8, "an\x07na"),  # who asks
        (8, " anna"),
        (3, -1),
        (0, 2),
    ],
)
def test_what_an_operator_signs_himself_is_bounded_and_can_be_shown(field, value):
    with pytest.raises((DamagedData, UnsupportedFormat)):
        read_request(forged(asked(), "REQUEST", put(field, value), ANNA))


def test_one_operator_alone():
    with pytest.raises(RefusedByPeer, match="cannot approve"):
        approve(ANNA, read_request(asked()), CLOCK)
    # One who signs with a program of his own.
    alone = forged(approved(), "RESPONSE", put(5, ANNA.public.key), ANNA, APPROVAL)
    with pytest.raises(RefusedByPeer, match="cannot approve"):
        read_approval(alone)


def test_a_request_under_somebody_elses_name():
    with pytest.raises(DamagedData):
        read_request(forged(asked(), "REQUEST", put(9, BERT.public.key), ANNA))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(3, CLOCK.now_ns() - 1), "expired"),
        (put(3, CLOCK.now_ns() + (MAX_HOURS + 2) * HOUR_NS), "longer than"),
        (lambda fields: put(2, CLOCK.now_ns() + 2 * HOUR_NS)(put(3, CLOCK.now_ns() + 3 * HOUR_NS)(fields)), "future"),
    ],
)
def test_nobody_approves_at_the_wrong_time(change, words):
    with pytest.raises(RefusedByPeer, match=words):
        approve(BERT, read_request(forged(asked(), "REQUEST", change, ANNA)), CLOCK)


@pytest.mark.parametrize("hours", [0, -1, MAX_HOURS + 1])
def test_a_time_out_of_range(hours):
    with pytest.raises(UsageError):
        asked(hours=hours)


def test_a_text_that_is_none():
    """As whoever holds an operator's key can sign it: in the place of the node's name."""
    body = read_armour("REQUEST", asked(), FAMILY).body
    body = body.replace(b"office", b"\xff" * 6, 1)
    signed = Signed(body, ANNA.sign(bind(APPROVAL_REQUEST, body)))
    with pytest.raises(DamagedData):
        read_request(armour("REQUEST", msgspec.msgpack.encode(signed), FAMILY))


def test_a_request_is_no_approval_and_the_reverse():
    for read, text in ((read_request, approved()), (read_approval, asked())):
        with pytest.raises(DamagedData):
            read(text)
    # Nor with the lines around it exchanged.
    signed = msgspec.msgpack.encode(read_armour("REQUEST", asked(), FAMILY))
    with pytest.raises(DamagedData):
        read_approval(armour("RESPONSE", signed, FAMILY))


class TestKeys:
    @given(st.text(min_size=1, max_size=64).filter(lambda name: name.isprintable() and name == name.strip()))
    def test_a_public_line_says_what_it_was_made_of(self, name):
        public = PublicOperator(name, ANNA.public.key)
        assert read_public(public.line + "\n") == public

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "x",
            ANNA.public.line.replace("-1 ", "-2 "),
            ANNA.public.line[:-5],
            ANNA.public.line + "\x1b",
            ANNA.public.line + "x" * 64,
            ANNA.public.line.replace("anna", " anna"),
        ],
        ids=range(7),
    )
    def test_what_is_no_public_line(self, line):
        with pytest.raises(DamagedData):
            read_public(line)

    def test_a_private_half_opens_by_its_pass_phrase_alone(self):
        text = seal_operator(ANNA, b"phrase", parameters=CHEAP).encode()
        again = open_operator(text, b"phrase")
        assert again.public == ANNA.public and again.sign(b"m") == ANNA.sign(b"m") and name_in(text) == "anna"
        with pytest.raises(NoKey, match="pass phrase"):
            open_operator(text, b"Phrase")
        assert ANNA.private.private_bytes_raw().hex() not in text.hex()
        assert ANNA.private.private_bytes_raw().hex() not in repr(ANNA)

    def test_a_private_half_that_was_altered(self):
        text = seal_operator(ANNA, b"phrase", parameters=CHEAP)
        content = msgspec.json.decode(text)
        other = msgspec.json.decode(seal_operator(BERT, b"phrase", parameters=CHEAP))
        other["lanes"], other["iterations"], other["memory_kib"], other["transporter_operator"] = 2, 2, 9, 2
        for field in content:
            with pytest.raises(TransporterError):
                open_operator(msgspec.json.encode(content | {field: other[field]}), b"phrase")

    @pytest.mark.parametrize("name", ["", "a\nb", " a", "x" * 65, "\x1b[2J"])
    def test_a_name_that_is_no_line(self, name):
        with pytest.raises(UsageError):
            generate_operator(name)


class TestDeeds:
    def test_every_operation_is_of_a_kind(self):
        assert {kind for kinds in OPERATIONS.values() for kind in kinds} == {*KINDS, "operators"}

    @pytest.mark.parametrize(
        "words", [("password.steal", "x"), ("password.change",), ("password.change", ""), ("password.change", "\n")]
    )
    def test_what_cannot_be_asked_for(self, words):
        with pytest.raises(UsageError):
            deed(*words)

    def test_kinds_have_one_order(self):
        assert deed_of_policy("four-eyes.stop", ["keyset", "force", "keyset"]).subject == ("force", "keyset")
        for wrong in ([], ["operators"], ["password", "everything"]):
            with pytest.raises(UsageError):
                deed_of_policy("four-eyes.stop", wrong)
