from __future__ import annotations

import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits, states
from protocol.control import ControlConnection
from protocol.errors import LocalProtocolError, RemoteProtocolError, VersionMismatch
from protocol.keeping_messages import (
    Chain,
    GetChain,
    PinPoint,
    PointPinned,
    PointsRemoved,
    PointUndeleted,
    RemovePoints,
    UndeletePoint,
)
from protocol.messages import (
    Commit,
    CommitCopy,
    CommitPlain,
    Committed,
    CopiedTo,
    CopyHead,
    CopyTo,
    Digests,
    FetchForms,
    Flush,
    Flushed,
    Forms,
    Get,
    GetCopy,
    GetDigests,
    GetForms,
    GetLost,
    GetNeeds,
    GetPoint,
    GetSlots,
    Have,
    HaveReply,
    Hello,
    Incoming,
    Limit,
    ListPoints,
    Lost,
    Mandate,
    Mandated,
    Missing,
    Needs,
    NeedsPart,
    Pair,
    Paired,
    Park,
    Parked,
    Ping,
    PointHead,
    Points,
    Pong,
    Progress,
    PutSlot,
    PutSlots,
    Reach,
    Ready,
    Refused,
    Slots,
    SlotsPut,
    SlotStored,
    Start,
    Started,
    StatusReply,
    StatusRequest,
    Stop,
    Stopped,
    Stored,
    Tickets,
)
from protocol.transform_messages import FoldPoint, PointFolded

ID, POINT = bytes(32), bytes(16)
SIDES = {states.INITIATOR, states.PROVIDER}
HELLO = Hello(1, 1, "name", "agent")

SAMPLES = {
    "Hello": HELLO, "Pair": Pair(ID, "n"), "Paired": Paired("n", [], "t"), "Ping": Ping(1), "Pong": Pong(1),
    "Start backup": Start("backup", "j", "r", "source"), "Start recovery": Start("recovery", "j", "r", "none"),
    "Started": Started(POINT, ID, POINT), "Ready": Ready(), "Have": Have(1, ID), "HaveReply": HaveReply(1, b"\0", []),
    "Stored": Stored(ID), "Get": Get(1, ID), "Missing": Missing(ID, "damaged"), "Flush": Flush(), "Flushed": Flushed(),
    "Needs": Needs(ID), "PutSlot": PutSlot(POINT, POINT), "SlotStored": SlotStored(POINT), "Commit": Commit(POINT),
    "CommitPlain": CommitPlain(POINT), "Committed": Committed(POINT, ID), "ListPoints": ListPoints("r"),
    "Points": Points(False), "Points more": Points(True), "GetPoint": GetPoint("r", "j", POINT),
    "PointHead": PointHead(POINT, []), "Stop": Stop(), "Stopped": Stopped(), "Refused": Refused("quota-exceeded", "no"),
    "StatusRequest": StatusRequest(), "StatusReply": StatusReply(), "Progress": Progress("writing", 1),
    "Limit": Limit(2_500_000), "Park": Park(POINT), "Parked": Parked(), "Reach": Reach(ID, 1), "Tickets": Tickets(ID),
    "Incoming": Incoming(ID, ID), "GetSlots": GetSlots("r", "j", POINT), "Slots": Slots(POINT, "t"),
    "PutSlots": PutSlots("r", "j"), "SlotsPut": SlotsPut(1), "GetChain": GetChain("r", "j"), "Chain": Chain(0, 0),
    "RemovePoints": RemovePoints("r", "j", POINT), "PointsRemoved": PointsRemoved(),
    "PinPoint": PinPoint("r", "j", POINT), "PointPinned": PointPinned(),
    "UndeletePoint": UndeletePoint("r", "j", POINT), "PointUndeleted": PointUndeleted(),
    "FoldPoint": FoldPoint("r", "j", POINT, POINT), "PointFolded": PointFolded(bytes(32)),
    "GetCopy": GetCopy("j", POINT),
    "Start copy-in": Start("copy-in", "j", "r", "source"), "Start copy-out": Start("copy-out", "", "r", "source"),
    "Start copy-seal": Start("copy-seal", "j", "r", "target"),
    "CopyHead": CopyHead(POINT, POINT, "t", 1, ID, 2), "GetNeeds": GetNeeds(0), "NeedsPart": NeedsPart(ID),
    "GetForms": GetForms(ID), "Forms": Forms(), "GetDigests": GetDigests(POINT, ID + ID), "Digests": Digests(ID),
    "FetchForms": FetchForms(ID + ID), "CommitCopy": CommitCopy(POINT, POINT, "t", 1, ID), "Mandate": Mandate(),
    "Mandated": Mandated(), "CopyTo": CopyTo("r", "j", ID), "CopiedTo": CopiedTo(1, 2, 3, 4, 5, 6),
    "GetLost": GetLost(), "Lost": Lost(b""),
}  # fmt: skip
EVENTS = [(side, name) for side in sorted(SIDES) for name in SAMPLES]


def other(side):
    return (SIDES - {side}).pop()


def greeted():
    initiator, provider = ControlConnection.initiator(), ControlConnection.provider()
    provider.receive_data(initiator.send(HELLO))
    initiator.receive_data(provider.send(HELLO))
    return initiator, provider


def at(state, role):
    """Return a connection in ``state``, with every request open."""
    connection = ControlConnection(role)
    connection.state = state
    connection._open = {(side, reply): 1 for side in SIDES for reply in states.ANSWERS}
    return connection


def allowed(state, side, name):
    if name in states.HEARTBEAT:
        return state not in states.NO_HEARTBEAT
    return (side, name) in states.CONTROL[state]


def frame(body):
    return struct.pack(">I", len(body)) + body


# --- the tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", states.CONTROL)
def test_what_is_not_in_the_table_is_an_error_of_whoever_does_it(state):
    for side, name in EVENTS:
        sender, receiver = at(state, side), at(state, other(side))
        if allowed(state, side, name):
            data = sender.send(SAMPLES[name])
            assert receiver.receive_data(data)[0].message == SAMPLES[name]
            assert sender.state == receiver.state == states.CONTROL[state].get((side, name), state)
            continue
        with pytest.raises(LocalProtocolError):
            sender.send(SAMPLES[name])
        assert sender.state == state
        # Sealed by nobody, so a peer can send what it likes: take the bytes from a place where they are allowed.
        free = at(next(s for s in states.CONTROL if allowed(s, side, name)), side) if _somewhere(side, name) else None
        if free is None or state == states.CONTROL_CLOSED:
            continue
        with pytest.raises(RemoteProtocolError):
            receiver.receive_data(free.send(SAMPLES[name]))
        assert receiver.state == states.CONTROL_CLOSED
        with pytest.raises(LocalProtocolError, match="closed"):
            receiver.receive_data(b"")


def _somewhere(side, name):
    return any(allowed(state, side, name) for state in states.CONTROL)


def test_tables_name_only_states_and_messages_that_exist():
    for row in states.CONTROL.values():
        assert set(row.values()) <= set(states.CONTROL)
        assert {name for _, name in row} <= set(SAMPLES)
    used = {name for row in states.CONTROL.values() for _, name in row} | states.HEARTBEAT
    assert used == set(SAMPLES), "every message has a place"
    for reply, requests in states.ANSWERS.items():
        assert {reply, *requests} <= set(SAMPLES)


def test_every_state_is_reached():
    seen, queue = {states.CONTROL_START, states.CONTROL_CLOSED}, [states.CONTROL_START]
    while queue:
        for target in states.CONTROL[queue.pop()].values():
            if target not in seen:
                seen.add(target)
                queue.append(target)
    assert seen == set(states.CONTROL)


# --- two real connections -----------------------------------------------------------------------------------


@given(st.data())
def test_messages_that_cross_never_confuse_two_honest_sides(data):
    """Any interleaving of what both sides may send: nobody ever sees an error, and both end in the same state."""
    ends = {states.INITIATOR: ControlConnection.initiator(), states.PROVIDER: ControlConnection.provider()}
    wires = {side: deque() for side in ends}
    for _ in range(data.draw(st.integers(5, 60))):
        side = data.draw(st.sampled_from(sorted(ends)))
        if wires[side] and data.draw(st.booleans()):
            ends[side].receive_data(wires[side].popleft())
            continue
        names = [name for name in SAMPLES if allowed(ends[side].state, side, name)]
        # Away from the loops, or a run would seldom leave a session.
        moving = [
            name for name in names if states.CONTROL[ends[side].state].get((side, name)) not in {None, ends[side].state}
        ]
        name = data.draw(st.sampled_from((moving if moving and data.draw(st.booleans()) else names) or ["none"]))
        try:
            wires[other(side)].append(ends[side].send(SAMPLES[name]))
        except (KeyError, LocalProtocolError):
            continue
    for side, wire in wires.items():
        while wire:
            ends[side].receive_data(wire.popleft())
    assert ends[states.INITIATOR].state == ends[states.PROVIDER].state


@given(st.binary(max_size=300), st.sampled_from(sorted(SIDES)), st.sampled_from(sorted(states.CONTROL)))
def test_any_bytes_are_a_message_or_an_error(data, role, state):
    connection = at(state, role)
    try:
        connection.receive_data(data)
    except RemoteProtocolError:
        assert connection.state == states.CONTROL_CLOSED
    except LocalProtocolError:
        assert state == states.CONTROL_CLOSED


def test_a_backup_from_hello_to_stop():
    initiator, provider = greeted()
    script = [
        (initiator, "Start backup"), (provider, "Started"), (provider, "Ready"),
        (initiator, "Have"), (initiator, "Have"), (provider, "HaveReply"), (initiator, "Flush"), (provider, "Stored"),
        (provider, "HaveReply"), (provider, "Flushed"), (initiator, "Needs"), (initiator, "PutSlot"),
        (provider, "SlotStored"), (initiator, "Commit"), (provider, "Progress"), (provider, "Committed"),
        (initiator, "Stop"), (provider, "Stored"), (provider, "Stopped"), (initiator, "ListPoints"),
        (provider, "Points more"), (provider, "Points"), (initiator, "Start recovery"), (provider, "Refused"),
    ]  # fmt: skip
    for sender, name in script:
        receiver = provider if sender is initiator else initiator
        (received,) = receiver.receive_data(sender.send(SAMPLES[name]))
        assert received.message == SAMPLES[name]
    assert initiator.state == provider.state == "IDLE"


def test_payload_is_handed_on():
    initiator, provider = greeted()
    initiator.send(StatusRequest())
    provider.receive_data(ControlConnectionBytes.status_request)
    (received,) = initiator.receive_data(provider.send(StatusReply(), b"payload"))
    assert received.payload == b"payload"
    assert "payload" not in repr(received)


class ControlConnectionBytes:
    status_request = frame(b"\x21\x00\x01\x80")


# --- Hello --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs", "version"), [((1, 1), (1, 1), 1), ((1, 3), (2, 5), 3), ((2, 2), (1, 4), 2)])
def test_the_highest_common_version_is_agreed_on(ours, theirs, version):
    initiator, provider = ControlConnection.initiator(), ControlConnection.provider()
    first, second = initiator.send(Hello(*ours, "a", "a")), provider.send(Hello(*theirs, "b", "b"))
    initiator.receive_data(second)
    provider.receive_data(first)
    assert initiator.version == provider.version == version
    assert initiator.state == provider.state == "IDLE"


def test_no_common_version_is_told_to_both():
    initiator, provider = ControlConnection.initiator(), ControlConnection.provider()
    provider.receive_data(initiator.send(Hello(2, 3, "a", "a")))
    answer = provider.send(HELLO)
    for end, data in ((provider, initiator), (initiator, answer)):
        with pytest.raises(VersionMismatch, match="no common version"):
            end.receive_data(data if isinstance(data, bytes) else b"")
        assert end.state == states.CONTROL_CLOSED
        assert end.version == 0
        with pytest.raises(LocalProtocolError):
            end.send(Ping(1))


def test_an_empty_range_of_versions():
    with pytest.raises(LocalProtocolError):
        ControlConnection.initiator().send(Hello(2, 1, "a", "a"))
    provider = ControlConnection.provider()
    good = ControlConnection.initiator().send(HELLO)
    bad = good.replace(b"version_min\x01", b"version_min\x02")
    assert bad != good
    with pytest.raises(RemoteProtocolError, match="empty range"):
        provider.receive_data(bad)


def test_before_hello_only_little_is_taken():
    provider = ControlConnection.provider()
    with pytest.raises(RemoteProtocolError, match="4096 are allowed"):
        provider.receive_data(bytes(limits.MAX_HELLO_MESSAGE + 1))


# --- framing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x00\x00\x00\x00", frame(b"\x04\x00\x00") + b"x", frame(b"\x04\x00\x00")[:-1]]
)
def test_a_websocket_message_is_exactly_one_frame(data):
    connection = at("IDLE", states.PROVIDER)
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(data)


def test_what_follows_a_frame_is_no_payload():
    data = at("BACKUP", states.INITIATOR).send(Commit(POINT), b"head")
    for wrong in (data + b"x", data[:-1]):
        with pytest.raises(RemoteProtocolError, match="not exactly one frame"):
            at("BACKUP", states.PROVIDER).receive_data(wrong)


def test_no_message_is_longer_than_the_limit():
    connection = at("IDLE", states.PROVIDER)
    with pytest.raises(RemoteProtocolError, match="16842752 are allowed"):
        connection.receive_data(bytes(limits.MAX_CONTROL_MESSAGE + 1))
    largest = at("BACKUP", states.INITIATOR).send(Commit(POINT), bytes(limits.MAX_HEAD))
    assert len(largest) <= limits.MAX_CONTROL_MESSAGE
    assert len(at("BACKUP", states.PROVIDER).receive_data(largest)[0].payload) == limits.MAX_HEAD


# --- replies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", states.ANSWERS)
def test_a_reply_that_nobody_asked_for(reply):
    initiator, provider = greeted()
    session = next(
        state
        for state in ("BACKUP", "COPY_IN", "COPY_OUT")
        if reply == "Pong" or allowed(state, states.PROVIDER, reply)
    )
    initiator.state = provider.state = session
    with pytest.raises(LocalProtocolError, match="nothing asked for it"):
        provider.send(SAMPLES[reply])
    data = at(session, states.PROVIDER).send(SAMPLES[reply])
    with pytest.raises(RemoteProtocolError, match="nothing asked for it"):
        initiator.receive_data(data)


def test_one_reply_for_each_request():
    initiator, provider = greeted()
    initiator.state = provider.state = "BACKUP"
    provider.receive_data(initiator.send(Have(1, ID)))
    data = provider.send(HaveReply(1, b"\0", []))
    initiator.receive_data(data)
    with pytest.raises(RemoteProtocolError):
        initiator.receive_data(data)


def test_requests_are_forgotten_with_their_session():
    initiator, provider = greeted()
    for name in (
        "Start backup",
        "Started",
        "Ready",
        "Have",
        "Ping",
        "Stop",
        "Stopped",
        "Start backup",
        "Started",
        "Ready",
    ):
        by_initiator = name in {"Start backup", "Have", "Ping", "Stop"}
        sender, receiver = (initiator, provider) if by_initiator else (provider, initiator)
        receiver.receive_data(sender.send(SAMPLES[name]))
    with pytest.raises(LocalProtocolError, match="nothing asked for it"):
        provider.send(HaveReply(1, b"\0", []))
    initiator.receive_data(provider.send(Pong(1)))


def test_closed_by_us():
    initiator, _ = greeted()
    initiator.close()
    with pytest.raises(LocalProtocolError):
        initiator.send(Ping(1))


def test_an_unknown_role():
    with pytest.raises(LocalProtocolError):
        ControlConnection("proxy")


def test_what_is_said_in_a_session_may_cross_its_end():
    """Whatever the one says in a session may be on its way when the other ends it by Refused, or by Stop."""
    sessions = [name for name, moves in states.CONTROL.items() if moves.get((states.INITIATOR, "Stop")) == "STOPPING"]
    assert {"BACKUP", "RECOVERY", "COPY_IN", "COPY_OUT"} <= set(sessions)
    for session in sessions:
        for sender, name in states.CONTROL[session]:
            if sender == states.INITIATOR:
                assert (sender, name) in states.CONTROL["REFUSED"], f"{name} in {session}"
            else:
                assert (sender, name) in states.CONTROL["STOPPING"], f"{name} in {session}"
