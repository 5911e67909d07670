"""The link that comes back: what is sent again, what never is, and when it gives up."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from pipeline.chunk import Chunk
from protocol.messages import Commit, Committed, GetPoint, PointHead, Started
from transporter.errors import (
    CannotConnect,
    IdentityRefused,
    JobBusy,
    LinkLost,
    QuotaExceeded,
    RefusedByPeer,
    TamperingDetected,
)
from transporter.link import outbox, resilient
from transporter.link.broken import LinkBroken, NoAnswer
from transporter.link.gate import Gate
from transporter.link.resilient import ResilientLink

STARTED = Started(session=bytes(16), key_a=bytes(32), domain=bytes(16))
KEY = b"k" * 32


def chunk(number, size=1000):
    return Chunk(number.to_bytes(32, "big"), size, bytes(size))


class FakeSession:
    """A session that does what a test says. ``peer`` is what the other end has, over all sessions."""

    def __init__(self, peer, handlers):
        self.peer = peer
        self.handlers = handlers
        self.started = STARTED
        handlers.on_started(STARTED, b"")
        self.streams = 2
        self.bytes_sent = self.bytes_received = 0
        self.asked, self.told = [], []
        self.broken = trio.Event()
        self.error = LinkBroken("the line was cut")
        self.closed = False

    def cut(self, error=None):
        """End as a session does whose line was cut."""
        self.error = error or self.error
        self.broken.set()

    async def have(self, ids):
        await trio.lowlevel.checkpoint()
        self.asked += ids
        return [self.peer.durable.get(each) for each in ids]

    async def request(self, message, payload, reply, *, last=False):
        await self.peer.answers(message)
        return reply(point=bytes(16), slots=[]) if reply is PointHead else reply(point=bytes(16), hash=bytes(32)), b""

    async def tell(self, message, payload=b""):
        self.told.append(message)

    async def ask_for(self, ids, without=()):
        self.peer.requests.append(list(ids))
        self.peer.without.append(tuple(without))

    async def close(self):
        self.closed = True


class FakePeer:
    """The other end: what it has, and a session for each dialling. ``dial`` holds what comes of the next ones."""

    def __init__(self):
        self.durable = {}
        self.received = []
        self.requests = []
        self.without = []
        self.sessions = []
        self.dial = deque()
        self.sending = True
        self.opening = 0.0
        self.answers = self._at_once

    async def _at_once(self, _message):
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def connect(self, handlers):
        outcome = self.dial.popleft() if self.dial else None
        if isinstance(outcome, Exception):
            raise outcome
        session = FakeSession(self, handlers)
        self.sessions.append(session)

        async def take():
            while True:
                item = await handlers.next_chunk()
                self.received.append(item.chunk_id)
                session.bytes_sent += item.size

        async def end():
            await session.broken.wait()
            raise session.error

        await trio.sleep(self.opening)
        async with resilient.open_tasks() as nursery:
            if self.sending:
                nursery.start_soon(take)
            nursery.start_soon(end)
            yield session
            nursery.cancel_scope.cancel()

    @property
    def now(self):
        return self.sessions[-1]

    def acknowledge(self, *chunks, key=KEY):
        for each in chunks:
            self.durable[each.chunk_id] = key
        self.now.handlers.on_stored(b"".join(each.chunk_id for each in chunks))


@pytest.fixture
def peer():
    return FakePeer()


@pytest.fixture
def notes():
    return []


@pytest.fixture
def link(peer, notes):
    return ResilientLink(peer.connect, redial_for=100.0, notify=lambda *note: notes.append(note))


async def settled():
    await trio.testing.wait_all_tasks_blocked(0.001)


@asynccontextmanager
async def running(link):
    async with resilient.open_tasks() as nursery:
        nursery.start_soon(link.run)
        await link.started()
        yield nursery
        nursery.cancel_scope.cancel()


async def come_back(peer, count):
    while len(peer.sessions) < count:
        await trio.sleep(0.1)
    await trio.sleep(0.1)


# --- chunks ---------------------------------------------------------------------------------------------------


async def test_nobody_asks_about_chunks_that_never_left(link, peer, autojump_clock):
    """Those of a first run are put while its first data channel still opens: a question is a round trip for nothing."""
    peer.opening = 1.0
    async with running(link):
        await link.put(chunk(1))
        await link.put(chunk(2))
        await trio.sleep(2)
        assert peer.now.asked == []
        assert peer.received == [chunk(1).chunk_id, chunk(2).chunk_id]
        peer.sending, peer.opening = False, 0.0
        peer.now.cut()
        await come_back(peer, 2)
        await link.put(chunk(3))
        peer.now.cut()
        await come_back(peer, 3)
        assert peer.now.asked == [chunk(1).chunk_id, chunk(2).chunk_id]


async def test_a_session_that_breaks_while_it_is_asked_leaves_what_was_sent_to_be_asked_again(
    link, peer, autojump_clock, monkeypatch
):
    many = [chunk(number) for number in range(1025)]  # two questions
    async with running(link):
        for each in many:
            await link.put(each)
        await trio.sleep(1)
        have, left = FakeSession.have, [True, False]

        async def once(session, ids):
            if left and not left.pop(0):
                raise LinkBroken("cut between two answers")
            return await have(session, ids)

        monkeypatch.setattr(FakeSession, "have", once)
        peer.now.cut()
        await come_back(peer, 2)
        await come_back(peer, 3)
        assert peer.now.asked == [each.chunk_id for each in many]


async def test_what_was_not_acknowledged_is_offered_again_and_what_was_is_not(link, peer, notes, autojump_clock):
    done, arrived_after_all, lost = chunk(1), chunk(2), chunk(3)
    async with running(link):
        for each in (done, arrived_after_all, lost):
            await link.put(each)
        await trio.sleep(0.1)
        assert peer.received == [done.chunk_id, arrived_after_all.chunk_id, lost.chunk_id]
        peer.acknowledge(done)
        peer.durable[arrived_after_all.chunk_id] = KEY  # written there; its acknowledgement was lost
        peer.now.cut()
        await come_back(peer, 2)
        assert peer.now.asked == [arrived_after_all.chunk_id, lost.chunk_id], "nobody asks about the acknowledged one"
        assert peer.received[3:] == [lost.chunk_id], "only what is lacking is sent again"
        with trio.move_on_after(1):
            await link.drained()
            pytest.fail("one is still out")
        peer.acknowledge(lost)
        await link.drained()
    assert [what for what, *_ in notes] == ["up", "lost", "again"]


async def test_chunks_wait_while_the_link_is_down(link, peer, autojump_clock):
    async with running(link):
        peer.dial.extend([CannotConnect("away")] * 3)
        peer.now.cut()
        await trio.sleep(0.01)
        await link.put(chunk(1))
        await trio.sleep(0.01)
        assert peer.received == []
        await come_back(peer, 2)
        assert peer.received == [chunk(1).chunk_id]


async def test_a_chunk_known_only_under_a_key_that_nobody_holds_is_sent_again(link, peer, autojump_clock):
    link.usable = lambda key_id: key_id == KEY
    old, new = chunk(1), chunk(2)
    async with running(link):
        await link.put(old)
        await link.put(new)
        await trio.sleep(0.1)
        peer.durable = {old.chunk_id: b"x" * 32, new.chunk_id: KEY}
        peer.now.cut()
        await come_back(peer, 2)
        assert peer.received[2:] == [old.chunk_id]


async def test_unacknowledged_bytes_are_bounded_through_any_number_of_breaks(link, peer, autojump_clock):
    size = 1 << 20
    most = outbox.UNACKNOWLEDGED_BYTES // size
    put = 0
    async with running(link) as nursery:

        async def fill():
            nonlocal put
            while True:
                await link.put(chunk(put, size))
                put += 1

        nursery.start_soon(fill)
        for cuts in range(4):
            await trio.sleep(0.1)
            assert put - len(peer.durable) <= most
            out = peer.received[-1]
            peer.acknowledge(Chunk(out, size, bytes(size)))
            peer.now.cut()
            await come_back(peer, cuts + 2)
        assert put <= most + 4
        assert put >= most


async def test_an_acknowledgement_nobody_waits_for_changes_nothing(link, peer, autojump_clock):
    async with running(link):
        peer.acknowledge(chunk(9), chunk(9))
        await link.put(chunk(1))
        peer.acknowledge(chunk(1), chunk(1))
        await link.drained()
        assert link._outbox._budget.statistics().bytes == 0


async def test_a_chunk_is_claimed_once(link):
    assert link.claim(b"a")
    assert not link.claim(b"a")


async def test_claims_are_remembered_in_bounded_memory(link, monkeypatch):
    monkeypatch.setattr(outbox, "REMEMBERED", 10)
    for number in range(100):
        assert link.claim(number.to_bytes(4, "big"))
    assert len(link._outbox._claimed) == 10
    assert link.claim(bytes(4)), "long forgotten: asked for like any other"


# --- requests -------------------------------------------------------------------------------------------------


async def test_chunks_that_were_asked_for_are_asked_for_again_until_they_came(link, peer, autojump_clock):
    got = []
    link.on_missing = lambda chunk_id, reason: got.append((chunk_id, reason))
    a, b, c = (chunk(n).chunk_id for n in (1, 2, 3))
    async with running(link):
        for each in (a, b, c):
            await link.ask_for(each)
        await trio.sleep(1)
        assert peer.requests == [[a, b, c]], "requests of one moment travel together"
        link.arrived(a)
        peer.now.handlers.on_missing(b, "damaged")
        assert got == [(b, "damaged")]
        peer.now.cut()
        await come_back(peer, 2)
        assert peer.requests[1:] == [[c]]


async def test_a_chunk_that_two_ask_for_comes_twice_even_after_a_break(link, peer, autojump_clock):
    one = chunk(1).chunk_id
    async with running(link):
        await link.ask_for(one)
        await link.ask_for(one)
        await trio.sleep(1)
        assert peer.requests == [[one, one]]
        link.arrived(one)
        peer.now.cut()
        await come_back(peer, 2)
        assert peer.requests[1:] == [[one]]
        link.arrived(one)
        peer.now.cut()
        await come_back(peer, 3)
        assert peer.requests[2:] == []


async def test_another_form_of_a_chunk_is_asked_for_again_in_that_form_after_a_break(link, peer, autojump_clock):
    a, b, c = (chunk(n).chunk_id for n in (1, 2, 3))
    keys = [b"x" * 32, b"y" * 32]
    async with running(link):
        link.ask_for_another(a, keys)
        link.ask_for_another(b, keys)
        await link.ask_for(c)
        await trio.sleep(1)
        expected = [([a, b], tuple(keys)), ([c], ())]
        assert list(zip(peer.requests, peer.without, strict=True)) == expected
        peer.now.cut()
        await come_back(peer, 2)
        assert list(zip(peer.requests, peer.without, strict=True)) == expected * 2
        for each in (a, c):
            link.arrived(each)
        peer.now.handlers.on_missing(b, "missing")
        assert not link._without
        await link.ask_for(a)
        await trio.sleep(1)
        assert (peer.requests[-1], peer.without[-1]) == ([a], ()), "whoever asks anew takes any form"


async def test_another_form_is_asked_for_by_a_task_of_the_session_that_has_just_ended(link, peer, autojump_clock):
    """As a chunk does that comes with the last bytes of a session: its task must end, or there is no next session."""
    one = chunk(1).chunk_id
    async with running(link):
        peer.now.cut()
        link.ask_for_another(one, [KEY])
        await come_back(peer, 2)
        assert (peer.requests, peer.without) == ([[one]], [(KEY,)])


async def test_missing_chunks_that_nobody_asked_for_cost_no_memory(link, peer, autojump_clock):
    got = []
    link.on_missing = lambda chunk_id, reason: got.append(chunk_id)
    async with running(link):
        for number in range(1000):
            peer.now.handlers.on_missing(number.to_bytes(32, "big"), "nonsense")
    assert got == []
    assert not link._asked


async def test_a_question_is_asked_again_on_the_next_session(link, peer, autojump_clock):
    asked = []

    async def answers(message):
        asked.append(message)
        if len(asked) == 1:
            peer.now.cut()
            raise LinkBroken("the session is over")

    peer.answers = answers
    question = GetPoint(repository="main", job="docs", point=bytes(16))
    async with running(link):
        await link.request(question, b"", PointHead)
    assert asked == [question, question]


async def test_a_commit_and_what_belongs_to_it_go_within_one_session(link, peer, autojump_clock):
    asked = []

    async def answers(message):
        asked.append(message)
        if len(asked) == 1:
            peer.now.cut()
            raise LinkBroken("cut")

    peer.answers = answers
    async with running(link):
        needs, commit = GetPoint(repository="a", job="b", point=bytes(16)), Commit(point=bytes(16))
        await link.tell(lambda: iter([(needs, b"")]), commit, b"", Committed)
        assert [session.told for session in peer.sessions] == [[needs], [needs]]


# --- giving up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [LinkBroken("cut"), CannotConnect("nobody there")])
async def test_the_first_failure_is_that_it_cannot_connect(link, peer, error):
    peer.dial.append(error)
    with pytest.raises(CannotConnect):
        await link.run()
    assert len(peer.dial) == 0, "one attempt, no waiting"


async def test_a_first_job_that_is_busy_says_so(link, peer):
    peer.dial.append(JobBusy("another run"))
    with pytest.raises(JobBusy):
        await link.run()


async def test_a_peer_that_stays_away_is_given_up_after_the_deadline(link, peer, notes, autojump_clock):
    with pytest.raises(LinkLost, match="did not come back for 100 s"):
        async with running(link):
            peer.dial.extend([CannotConnect("away")] * 1000)
            await trio.sleep(50)
            peer.now.cut()
            began = trio.current_time()
            await trio.sleep_forever()
    assert 100 <= trio.current_time() - began <= 100 + 1.5 * resilient.LONGEST_PAUSE + 1
    delays = [delay for what, _why, delay in notes if what == "lost"]
    assert 8 <= len(delays) <= 40, "it is redialled with growing pauses"
    assert sum(delays) == pytest.approx(trio.current_time() - began), "and how long each is was told"


async def test_a_job_that_is_busy_there_is_waited_for_once_it_had_begun(link, peer, autojump_clock):
    async with running(link):
        peer.dial.extend([JobBusy("the old session is not over")] * 3)
        peer.now.cut()
        await come_back(peer, 2)


@pytest.mark.parametrize(
    "error",
    [
        TamperingDetected("altered"),
        IdentityRefused("another key"),
        QuotaExceeded("full"),
        RefusedByPeer("no"),
        ValueError("a fault of ours"),
    ],
)
@pytest.mark.parametrize("when", ["in the session", "when redialling"])
async def test_what_is_no_broken_line_is_never_retried(link, peer, error, when, autojump_clock):
    with pytest.raises(type(error)):
        async with running(link):
            if when == "in the session":
                peer.now.cut(error)
            else:
                peer.dial.append(error)
                peer.now.cut()
            await trio.sleep_forever()
    assert len(peer.sessions) == 1


async def test_breaks_far_apart_do_not_add_up(link, peer, autojump_clock):
    async with running(link):
        for number in range(20):
            await trio.sleep(30)
            peer.now.cut()
            await come_back(peer, number + 2)


async def test_a_line_that_flaps_without_getting_anywhere_is_given_up(link, peer, autojump_clock):
    with pytest.raises(LinkLost):
        async with running(link):
            while True:
                await trio.sleep(1)
                peer.now.cut()


async def test_a_line_that_flaps_but_gets_on_is_used(link, peer, autojump_clock):
    async with running(link):
        for number in range(100):
            await link.put(chunk(number))
            await trio.sleep(1.5)
            peer.acknowledge(chunk(number))
            peer.now.cut()
            await come_back(peer, number + 2)
        await link.drained()


# --- a peer that does not do its part, though its heartbeat beats ---------------------------------------------


async def test_a_question_without_an_answer_ends_the_session_and_at_last_the_job(link, peer, autojump_clock):
    async def never(_message):
        await trio.sleep(120)
        raise NoAnswer("the peer does not answer")

    peer.answers = never
    with pytest.raises(LinkLost, match="does not answer"):
        async with running(link):
            await link.request(GetPoint(repository="a", job="b", point=bytes(16)), b"", PointHead)
    assert 2 <= len(peer.sessions) <= 3


@pytest.mark.parametrize("seconds", [1, 11, 31, 200])
async def test_a_peer_that_cuts_instead_of_answering_is_given_up_however_long_it_waits(
    link, peer, autojump_clock, seconds
):
    async def never(_message):
        await trio.sleep(seconds)
        peer.now.cut()
        raise LinkBroken("cut")

    peer.answers = never
    with pytest.raises(LinkLost):
        async with running(link):
            await link.request(GetPoint(repository="a", job="b", point=bytes(16)), b"", PointHead)
    assert trio.current_time() < 1000


async def test_acknowledgements_that_never_come_end_the_job(link, peer, autojump_clock):
    with pytest.raises(LinkLost, match="neither acknowledges"):
        async with running(link):
            await link.put(chunk(1))
            await link.drained()
    assert set(peer.received) == {chunk(1).chunk_id}


async def test_chunks_that_never_come_end_the_job(link, peer, autojump_clock):
    with pytest.raises(LinkLost, match="sends those it was asked for"):
        async with running(link):
            await link.ask_for(chunk(1).chunk_id)
            await trio.sleep_forever()
    assert len(peer.requests) == len(peer.sessions)


async def test_a_peer_that_owes_nothing_may_be_idle_for_ever(link, peer, autojump_clock):
    async with running(link):
        await trio.sleep(100_000)
        assert len(peer.sessions) == 1
        await link.put(chunk(1))
        await trio.sleep(resilient.STALL_SECONDS - 2 * resilient.WATCH_SECONDS)
        peer.acknowledge(chunk(1))
        await trio.sleep(100_000)
        assert len(peer.sessions) == 1


async def test_bytes_add_up_over_sessions(link, peer, autojump_clock):
    async with running(link):
        await link.put(chunk(1, 1000))
        await trio.sleep(0.1)
        assert link.bytes_sent == 1000
        peer.now.cut()
        await come_back(peer, 2)
        assert link.bytes_sent == 2000
        assert (link.sessions, link.streams) == (2, 2)


async def test_finishing_closes_the_session_in_order(link, peer):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await link.started()
        link.finish()
    assert peer.now.closed


# --- paused -----------------------------------------------------------------------------------------------------


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def gated(peer, notes, gate):
    return ResilientLink(peer.connect, redial_for=100.0, notify=lambda *note: notes.append(note), gate=gate)


async def test_nothing_is_sent_or_asked_for_while_the_gate_is_shut(gated, gate, peer, autojump_clock):
    async with running(gated):
        assert gate.close()
        assert not gate.close(), "it was shut already"
        await gated.put(chunk(1))
        await gated.ask_for(chunk(2).chunk_id)
        await trio.sleep(60)
        assert (peer.received, peer.requests) == ([], [])
        assert gate.open()
        await trio.sleep(0.1)
        assert (peer.received, peer.requests) == ([chunk(1).chunk_id], [[chunk(2).chunk_id]])
        assert not gate.open()


async def test_a_pause_of_days_is_no_stall_but_the_time_after_it_counts(gated, gate, peer, notes, autojump_clock):
    async with running(gated):
        await gated.put(chunk(1))
        await trio.sleep(resilient.STALL_SECONDS / 2)
        gate.close()
        await trio.sleep(200_000)
        assert len(peer.sessions) == 1
        gate.open()
        await trio.sleep(resilient.STALL_SECONDS - 2 * resilient.WATCH_SECONDS)
        assert len(peer.sessions) == 1
        await trio.sleep(4 * resilient.WATCH_SECONDS)
        assert len(peer.sessions) == 2
    assert "neither acknowledges" in notes[1][1]


async def test_a_link_that_is_lost_during_a_pause_comes_back_and_sends_nothing_before_the_end_of_it(
    gated, gate, peer, autojump_clock
):
    async with running(gated):
        await gated.put(chunk(0))
        await trio.sleep(0.1)
        gate.close()
        await gated.put(chunk(1))
        await gated.ask_for(chunk(2).chunk_id)
        await trio.sleep(5)
        peer.now.cut()
        await come_back(peer, 2)
        await trio.sleep(5)
        assert peer.now.asked == [chunk(0).chunk_id], "what the peer has after all is asked as ever"
        assert (peer.received, peer.requests) == ([chunk(0).chunk_id], [])
        gate.open()
        await trio.sleep(0.1)
        assert peer.received == [chunk(0).chunk_id, chunk(0).chunk_id, chunk(1).chunk_id]
        assert peer.requests == [[chunk(2).chunk_id]]


async def test_a_chunk_that_takes_long_is_no_stall_while_its_bytes_move(link, peer, notes, autojump_clock):
    """Under a limit, or on a bad line: one chunk of 4 MiB at 64 kbit/s takes nine minutes, two of them eighteen."""
    async with running(link):
        await link.put(chunk(1))
        for _ in range(60):
            await trio.sleep(resilient.STALL_SECONDS / 10)
            peer.now.bytes_sent += resilient.ALIVE_BYTES // 8
        assert len(peer.sessions) == 1
        # Heartbeats alone are less than that.
        for _ in range(11):
            await trio.sleep(resilient.STALL_SECONDS / 10)
            peer.now.bytes_sent += resilient.ALIVE_BYTES // 100
        assert len(peer.sessions) >= 2
    assert "neither acknowledges" in notes[1][1]


async def test_a_question_that_hardly_gets_out_is_not_asked_for_ever(link, peer, notes, autojump_clock):
    """A peer that asks for a byte a second is like one that does not read."""

    async def never(_message):
        await trio.sleep_forever()

    peer.answers = never
    async with running(link) as nursery:
        nursery.start_soon(link.request, GetPoint(repository="main", job="docs", point=bytes(16)), b"", PointHead)
        await trio.sleep(resilient.STALL_SECONDS - resilient.WATCH_SECONDS)
        assert len(peer.sessions) == 1
        await trio.sleep(3 * resilient.WATCH_SECONDS)
        assert len(peer.sessions) == 2
