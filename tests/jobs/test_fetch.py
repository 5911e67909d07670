"""Chunks on their way in: what becomes of those that come under a key that the point does not hold."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import pytest
import trio

from pipeline.run import open_tasks
from protocol.messages import Chunk, Started
from transporter.errors import DamagedData, NoKey
from transporter.jobs.fetch import ChunkFetcher
from transporter.jobs.recovery import Router
from transporter.keys.chunk_id import ChunkIdKey
from transporter.link.broken import LinkBroken
from transporter.link.resilient import ResilientLink

ID_KEY = ChunkIdKey(bytes(32))
PLAIN = b"what was asked for"
WANTED = ID_KEY.id_of(PLAIN)
OURS, FOREIGN = b"o" * 32, b"f" * 32
STARTED = Started(session=bytes(16), key_a=bytes(32), domain=bytes(16))


class OpenerOfOurs:
    """Holds one key. A stored form here: a byte, the key's id, the data."""

    def open(self, _chunk_id, _codec, _plain_length, stored):
        if bytes(stored[1:33]) != OURS:
            raise NoKey("another point's key")
        return stored[33:]


class Target:
    """Has the chunk under two keys and serves the foreign form first; its first session may end when asked again."""

    def __init__(self, *, ends_when_asked_again):
        self.fetcher = ChunkFetcher(OpenerOfOurs(), ID_KEY)
        self.sessions = 0
        self.asked = []
        self._ends_when_asked_again = ends_when_asked_again

    @asynccontextmanager
    async def connect(self, handlers):
        self.sessions += 1
        session = Session(self, first=self.sessions == 1)
        async with open_tasks() as nursery:
            nursery.start_soon(session.receive, handlers)
            yield session
            nursery.cancel_scope.cancel()


class Session:
    started = STARTED
    streams = 2
    bytes_sent = bytes_received = 0

    def __init__(self, target, *, first):
        self._target = target
        self._first = first
        self._requests, self._served = trio.open_memory_channel(100)

    async def have(self, ids):
        return [None] * len(ids)

    async def receive(self, handlers):
        """As `receive_chunks` of a real session does: hand on what comes, in a task of the session."""
        async for chunk_id, without in self._served:
            key = OURS if FOREIGN in without else FOREIGN
            header = Chunk(id=chunk_id, codec=0, plain_length=len(PLAIN))
            await handlers.on_chunk(header, memoryview(b"\1" + key + PLAIN))

    async def ask_for(self, ids, without=()):
        self._target.asked.append((list(ids), list(without)))
        if self._first and without and self._target._ends_when_asked_again:
            raise LinkBroken("the line was cut")
        for each in ids:
            self._requests.send_nowait((each, without))
        await trio.lowlevel.checkpoint()

    async def close(self):
        return


@pytest.mark.parametrize("cut", [False, True])
async def test_a_chunk_under_a_foreign_key_is_asked_for_in_another_form_whatever_becomes_of_the_session(cut):
    target = Target(ends_when_asked_again=cut)
    link = ResilientLink(
        target.connect, redial_for=30.0, notify=lambda _what, _why, _delay: None, on_chunk=target.fetcher.on_chunk
    )
    target.fetcher.link = link
    async with open_tasks() as nursery:
        nursery.start_soon(link.run)
        await link.started()
        wanted = await target.fetcher.want(WANTED)
        await wanted.ready.wait()
        link.finish()
    assert (wanted.error, bytes(wanted.plain)) == (None, PLAIN)
    assert target.asked == [([WANTED], []), *[([WANTED], [FOREIGN])] * (2 if cut else 1)]
    assert target.sessions == (2 if cut else 1)


class Line:
    """A link that only notes: a chunk id for each request, with the keys that are of no use."""

    def __init__(self):
        self.asked, self.came = [], []

    async def ask_for(self, chunk_id):
        await trio.lowlevel.checkpoint()
        self.asked.append((chunk_id, ()))

    def ask_for_another(self, chunk_id, without):
        self.asked.append((chunk_id, tuple(without)))

    def arrived(self, chunk_id):
        self.came.append(chunk_id)


HEADER = Chunk(id=WANTED, codec=0, plain_length=len(PLAIN))


def stored_under(key):
    return memoryview(b"\1" + key + PLAIN)


@pytest.fixture
async def both():
    """A router whose two fetchers, of the manifest and of the content, want the same chunk; and what they wait for."""
    router, line = Router(), Line()
    router.fetchers = tuple(ChunkFetcher(OpenerOfOurs(), ID_KEY) for _ in range(2))
    for fetcher in router.fetchers:
        fetcher.link = line
    return router, line, [await fetcher.want(WANTED) for fetcher in router.fetchers]


def outcomes(wanted):
    return [(each.error, each.plain and bytes(each.plain)) for each in wanted]


async def test_a_chunk_that_manifest_and_content_want_is_asked_for_in_another_form_for_each(both):
    router, line, wanted = both
    for _ in wanted:
        await router.on_chunk(HEADER, stored_under(FOREIGN))
    assert line.asked == [(WANTED, ())] * 2 + [(WANTED, (FOREIGN,))] * 2
    for _ in wanted:
        await router.on_chunk(HEADER, stored_under(OURS))
    assert outcomes(wanted) == [(None, PLAIN)] * 2
    assert len(line.came) == len(line.asked)


async def test_a_form_that_one_had_already_goes_to_the_other_in_whatever_order_they_come(both):
    router, _, wanted = both
    for key in (FOREIGN, OURS, OURS):
        await router.on_chunk(HEADER, stored_under(key))
    assert outcomes(wanted) == [(None, PLAIN)] * 2


async def test_a_form_that_both_had_already_ends_the_wait_of_one_for_each_time_it_comes(both):
    """A target that goes on with the form that nobody can open must not be listened to for ever."""
    router, _, wanted = both
    for _ in range(3):
        await router.on_chunk(HEADER, stored_under(FOREIGN))
    assert [each.ready.is_set() for each in wanted] == [True, False]
    await router.on_chunk(HEADER, stored_under(FOREIGN))
    assert [type(each.error) for each in wanted] == [DamagedData, DamagedData]


async def test_two_that_want_a_chunk_get_it_when_it_comes_twice_at_once(both, monkeypatch):
    """On two data channels: while the one is being opened, the other is already here."""
    router, line, wanted = both
    together = threading.Barrier(2, timeout=10)
    really_open = OpenerOfOurs.open

    def open_together(*arguments):
        together.wait()
        return really_open(*arguments)

    monkeypatch.setattr(OpenerOfOurs, "open", open_together)
    async with trio.open_nursery() as nursery:
        for _ in wanted:
            nursery.start_soon(router.on_chunk, HEADER, stored_under(OURS))
    assert outcomes(wanted) == [(None, PLAIN)] * 2
    assert [fetcher.chunks for fetcher in router.fetchers] == [1, 1]
    assert len(line.came) == len(line.asked) == 2
