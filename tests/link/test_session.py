"""One session from the initiating side: many questions under way, each answer to its question, and no wait for ever."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from protocol.control import Received
from protocol.data import Event
from protocol.limits import PIECE
from protocol.messages import (
    Committed,
    Fin,
    Flush,
    Flushed,
    Have,
    HaveReply,
    Limit,
    Missing,
    Piece,
    PointHead,
    Progress,
    Ready,
    Refused,
    SlotStored,
    Started,
    Stop,
    Stopped,
    Stored,
)
from protocol.pieces import RECOVERY_AT_MOST
from transporter.errors import QuotaExceeded, RefusedByPeer, TamperingDetected
from transporter.link import open_session
from transporter.link import session as module
from transporter.link.broken import LinkBroken, NoAnswer
from transporter.link.channels import stripe
from transporter.link.session import Session, SessionHandlers

KEYS = [b"a" * 32, b"b" * 32]


def ids(count):
    return [number.to_bytes(32, "big") for number in range(count)]


class FakeLink:
    """A control link whose other end is the test."""

    bytes_sent = bytes_received = 0
    peer_name = "offsite"

    def __init__(self):
        self.sent = []
        self._say, self._hear = trio.open_memory_channel(100)

    async def send(self, message, payload=b""):
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    async def receive(self):
        try:
            return Received(await self._hear.receive(), memoryview(b"payload"))
        except trio.EndOfChannel:
            raise LinkBroken("the control connection broke") from None

    def say(self, *messages):
        for message in messages:
            self._say.send_nowait(message)

    def cut(self):
        self._say.close()


class Heard:
    """What the job was told."""

    def __init__(self):
        self.stored, self.missing = [], []

    @property
    def handlers(self):
        async def nothing(_header, _payload):
            return

        return SessionHandlers(trio.sleep_forever, self.stored.append, nothing, lambda *args: self.missing.append(args))


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def link():
    return FakeLink()


@pytest.fixture
def session(link, heard):
    return Session(link, Started(session=bytes(16), key_a=bytes(32), domain=bytes(16)), heard.handlers)


def reply(batch, known, keys=KEYS):
    return HaveReply(batch=batch, known=bytes(known), key_ids=list(keys))


async def test_questions_are_pipelined_and_answers_matched_in_any_order(session, link, nursery):
    nursery.start_soon(session.read_control)
    answers = {}

    async def ask(name, wanted):
        answers[name] = await session.have(wanted)

    for name in range(5):
        nursery.start_soon(ask, name, ids(2))
        await trio.testing.wait_all_tasks_blocked()
    assert [message.batch for message in link.sent] == [1, 2, 3, 4, 5], "none waits for the one before it"
    for batch in (4, 1, 5, 3, 2):
        link.say(reply(batch, [batch % 3, 0]))
    await trio.testing.wait_all_tasks_blocked()
    marks = {0: None, 1: KEYS[0], 2: KEYS[1]}
    assert answers == {name: [marks[(name + 1) % 3], None] for name in range(5)}


@pytest.mark.parametrize(
    "known", [[], [0], [0, 0, 0], [3, 0], [0, 255]], ids=["none", "too few", "too many", "no such key", "far too high"]
)
async def test_an_answer_that_does_not_fit_is_refused(session, link, known):
    link.say(reply(1, known))
    with pytest.RaisesGroup(RefusedByPeer, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.read_control)
            await session.have(ids(2))


@pytest.mark.parametrize(
    "message", [reply(7, [0]), Flushed(), Committed(point=bytes(16), hash=bytes(32)), Stopped()], ids=type
)
async def test_an_answer_to_nothing_is_refused(session, link, message):
    link.say(message)
    with pytest.raises(RefusedByPeer, match="what nobody asked"):
        await session.read_control()


async def test_an_answer_is_good_for_one_question(session, link):
    link.say(reply(1, [0]), reply(1, [0]))
    with pytest.RaisesGroup(RefusedByPeer, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.read_control)
            await session.have(ids(1))
            await trio.sleep_forever()


async def test_an_answer_of_another_kind_is_refused(session, link):
    with pytest.RaisesGroup(RefusedByPeer, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.read_control)
            link.say(PointHead(point=bytes(16), slots=[]))
            await session.request(Flush(), b"", Flushed)


async def test_requests_take_turns(session, link, nursery):
    nursery.start_soon(session.read_control)
    answered = []

    async def ask():
        await session.request(Flush(), b"", Flushed)
        answered.append(True)

    nursery.start_soon(ask)
    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    assert link.sent == [Flush()]
    link.say(Flushed())
    await trio.testing.wait_all_tasks_blocked()
    assert (link.sent, answered) == ([Flush(), Flush()], [True])
    link.say(Flushed())
    await trio.testing.wait_all_tasks_blocked()
    assert len(answered) == 2


async def test_what_needs_no_answer_reaches_the_job(session, link, heard, nursery):
    nursery.start_soon(session.read_control)
    link.say(
        Stored(chunks=ids(2)[1]),
        Missing(id=ids(3)[2], reason="damaged"),
        SlotStored(slot=bytes(16)),
        Progress(activity="writing", done=1),
    )
    await trio.testing.wait_all_tasks_blocked()
    assert heard.stored == [ids(2)[1]]
    assert heard.missing == [(ids(3)[2], "damaged")]


async def test_the_peer_may_ask_for_less_at_any_time(session, link, heard, nursery):
    nursery.start_soon(session.read_control)
    flow = session._handlers.flow
    for rate in (50_000, 25_000, 0):
        link.say(Limit(bytes_per_second=rate))
        await trio.testing.wait_all_tasks_blocked()
        assert flow.sending.limited is bool(rate)
    assert not session._over


async def test_a_limit_before_ready_is_taken_in(session, link):
    link.say(Limit(bytes_per_second=50_000), Limit(bytes_per_second=25_000), Ready())
    await open_session._wait_until_ready(link, session._handlers.flow)
    assert session._handlers.flow.sending.limited


async def test_a_refusal_is_the_error_that_it_names(session, link):
    link.say(Refused(code="quota-exceeded", what="full", remedy="buy more"))
    with pytest.raises(QuotaExceeded, match="full"):
        await session.read_control()


async def test_a_peer_that_does_not_answer_is_not_waited_for_for_ever(session, nursery, autojump_clock):
    nursery.start_soon(session.read_control)
    for question in (session.have(ids(1)), session.request(Flush(), b"", Flushed)):
        began = trio.current_time()
        with pytest.raises(NoAnswer):
            await question
        assert trio.current_time() - began == module.ANSWER_SECONDS


async def test_a_peer_that_does_not_end_the_session_is_left(session, nursery, autojump_clock):
    nursery.start_soon(session.read_control)
    began = trio.current_time()
    with pytest.raises(LinkBroken, match="did not end the session in time"):
        await session.close()
    assert trio.current_time() - began == module.CLOSING_SECONDS


async def test_an_end_wakes_everybody_who_waits(session, autojump_clock):
    woken = []

    async def ask(question):
        with pytest.raises(LinkBroken):
            await question
        woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, session.have(ids(1)))
        nursery.start_soon(ask, session.request(Flush(), b"", Flushed))
        await trio.testing.wait_all_tasks_blocked()
        session.end()
    assert woken == [0, 0]
    with pytest.raises(LinkBroken):
        await session.have(ids(1))


async def test_the_last_word_of_the_peer_is_heard_after_a_channel_broke(session, link, heard, autojump_clock):
    link.say(Stored(chunks=ids(1)[0]), Refused(code="tampering", what="altered"))
    assert isinstance(await session.last_word(), TamperingDetected)
    assert heard.stored == ids(1), "acknowledgements on the way count"


async def test_without_a_last_word_it_is_a_broken_line(session, link, autojump_clock):
    began = trio.current_time()
    assert await session.last_word() is None
    assert trio.current_time() - began == module.LAST_WORD_SECONDS
    link.cut()
    began = trio.current_time()
    assert await session.last_word() is None
    assert trio.current_time() == began


async def test_the_session_ends_with_stop(session, link, nursery):
    nursery.start_soon(session.read_control)
    link.say(Stopped())
    await session.close()
    assert link.sent == [Stop()]


async def test_batches_are_forgotten_once_answered(session, link, nursery):
    nursery.start_soon(session.read_control)
    for batch in range(1, 20):
        link.say(reply(batch, [0]))
        await session.have(ids(1))
    assert session._batches == {}
    assert isinstance(link.sent[0], Have)


class FakeChannel:
    """A data channel that notes what is done to it. ``answered``: whether anything came on it."""

    bytes_sent = 0

    def __init__(self, answered):
        self.answered = answered
        self.bytes_received = 100 if answered else 0
        self.done = []
        self._gone = trio.Event()

    async def finish(self):
        self.done.append("fin")

    async def receive(self):
        if self.answered:
            return Event(Fin(frames=1, payload_bytes=0), memoryview(b""))
        await self._gone.wait()
        raise LinkBroken("closed")

    async def aclose(self):
        self.done.append("closed")
        self._gone.set()


async def test_a_channel_that_was_not_answered_is_left_without_fin(session, link, nursery):
    nursery.start_soon(session.read_control)
    channels = [FakeChannel(answered=True), FakeChannel(answered=False)]
    for channel in channels:
        session.add(channel)
        nursery.start_soon(session.receive_chunks, channel)
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(5):
        async with trio.open_nursery() as closing:
            closing.start_soon(session.close)
            # The answer comes only when it was asked for.
            await trio.testing.wait_all_tasks_blocked()
            link.say(Stopped())
    assert [channel.done for channel in channels] == [["fin"], ["closed"]]
    assert session.streams == 1
    assert link.sent == [Stop()]


async def test_a_channel_of_the_session_that_breaks_ends_it(session):
    channel = FakeChannel(answered=False)
    session.add(channel)
    await channel.aclose()
    with pytest.raises(LinkBroken):
        await session.receive_chunks(channel)


class SlowOpener:
    """Is in the middle of adding a channel, where it cannot be cancelled."""

    opened = 2

    def __init__(self):
        self.released = trio.Event()

    async def grow_to(self, _count):
        with trio.CancelScope(shield=True):
            await self.released.wait()


@pytest.mark.parametrize("last", [True, False])
async def test_the_end_is_said_only_when_no_channel_is_being_added(session, link, nursery, last):
    nursery.start_soon(session.read_control)
    opener = SlowOpener()
    nursery.start_soon(stripe, session, opener, 32, 0.1)
    await trio.testing.wait_all_tasks_blocked()
    assert session.is_growing
    if last:
        nursery.start_soon(lambda: session.request(Flush(), b"", Flushed, last=True))
    else:
        nursery.start_soon(session.close)
    await trio.testing.wait_all_tasks_blocked()
    assert Stop() not in link.sent
    opener.released.set()
    await trio.testing.wait_all_tasks_blocked()
    assert not session.is_growing
    assert link.sent[-1] == Stop()
    nursery.cancel_scope.cancel()


async def test_of_what_was_asked_for_so_much_may_be_begun(session):
    """The bound for what comes in a recovery: a peer that sends first pieces only fills no more memory than that."""
    payload, begun = memoryview(bytes(PIECE)), 0

    class Begins(FakeChannel):
        async def receive(self):
            nonlocal begun
            begun += 1
            piece = Piece(id=ids(begun)[-1], codec=0, plain_length=4 << 20, length=4 << 20, index=0)
            return Event(piece, payload)

    with pytest.raises(RefusedByPeer, match="not finished"):
        await session.receive_chunks(Begins(answered=True))
    assert begun - 1 == RECOVERY_AT_MOST // (4 << 20)
