"""What a provider lets in at once: one session of a job, and data channels only of sessions that still go on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from world import start_of

from transporter.catalog import Peer
from transporter.config import parse_config
from transporter.errors import JobBusy, RefusedByPeer
from transporter.link.control_link import SILENCE_SECONDS
from transporter.service import provider as provider_module
from transporter.service import session as session_module
from transporter.service.provider import Provider
from transporter.service.session import ServiceSession

OFFICE = Peer("office", b"p" * 32, tenant="office-1")


@pytest.fixture
def provider():
    config = parse_config('[node]\nname = "offsite"\n', Path("config.toml"))
    return Provider(None, config, SimpleNamespace(pin=b"t" * 32), None, None, None)


class Sessions:
    """Sessions of one tenant, in one repository."""

    def __init__(self, provider):
        self.provider = provider
        self.repository = object()
        self.made = 0

    def new(self, peer=OFFICE, **fields):
        self.made += 1
        link = SimpleNamespace(peer_pin=peer.pin, exporter=b"e" * 32, peer_name=peer.name, mandate=None)
        start, number = start_of(**fields), self.made.to_bytes(16, "big")
        return ServiceSession(self.provider, link, peer, start, self.repository, number, b"a" * 32)

    async def serve(self, session, until):
        """As `serve_session` does: claim, work until told to stop or replaced, release."""
        await self.provider.claim(session)
        try:
            with session.scope:
                await until.wait()
        finally:
            self.provider.release(session)
            session.ended.set()


@pytest.fixture
def sessions(provider):
    return Sessions(provider)


def live(provider):
    return list(provider.sessions.values())


@pytest.mark.parametrize("resume", [b"\x11" * 16, b"\x22" * 16], ids=["the same run", "another run"])
async def test_of_two_that_wait_for_a_session_of_their_job_one_gets_in_at_a_time(
    provider, sessions, autojump_clock, resume
):
    first, most = trio.Event(), 0
    never = trio.Event()

    async def serve(session, until):
        nonlocal most
        try:
            await sessions.serve(session, until)
        except JobBusy:
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, sessions.new(), first)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            nursery.start_soon(serve, sessions.new(resume=resume), never)
        await trio.testing.wait_all_tasks_blocked()
        first.set()
        for _ in range(10):
            await trio.testing.wait_all_tasks_blocked()
            most = max(most, len(live(provider)))
        assert most == 1
        await trio.sleep(2 * provider_module.HAND_OVER_SECONDS)
        assert len(live(provider)) == 1
        nursery.cancel_scope.cancel()
    assert live(provider) == []


async def test_who_waits_for_one_after_the_other_is_told_in_time(provider, sessions, autojump_clock):
    """Each new holder of the place must not start the wait anew."""
    began = trio.current_time()

    async def hold():
        before = None
        while True:
            holder = sessions.new(resume=b"\x22" * 16)
            provider.sessions[holder.session_id] = holder
            if before is not None:
                provider.release(before)
                before.ended.set()
            before = holder
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(JobBusy):
            await provider.claim(sessions.new())
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began <= provider_module.HAND_OVER_SECONDS + 1


async def test_a_tenant_has_so_many_sessions_at_once_and_another_tenant_its_own(provider, sessions, monkeypatch):
    monkeypatch.setattr(provider_module, "SESSIONS_AT_MOST", 3)
    mine = [sessions.new(job="a"), sessions.new(job="b"), sessions.new(job="a", purpose="recovery")]
    for session in mine:
        await provider.claim(session)
    for refused in (sessions.new(job="c"), sessions.new(job="a", purpose="recovery")):
        with pytest.raises(JobBusy, match="3 jobs of office are under way at offsite"):
            await provider.claim(refused)
    neighbour = sessions.new(Peer("neighbour", b"n" * 32, tenant="neighbour-1"), job="a")
    await provider.claim(neighbour)
    provider.release(mine[1])
    await provider.claim(sessions.new(job="c"))
    assert len(live(provider)) == 4


async def test_a_run_that_comes_back_replaces_its_session_however_many_there_are(provider, sessions, monkeypatch):
    monkeypatch.setattr(provider_module, "SESSIONS_AT_MOST", 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions.serve, sessions.new(), trio.Event())
        await trio.testing.wait_all_tasks_blocked()
        again = sessions.new()
        await provider.claim(again)
        assert live(provider) == [again]


def test_who_waits_for_another_session_is_told_before_the_link_counts_as_silent():
    assert provider_module.HAND_OVER_SECONDS < SILENCE_SECONDS


async def test_a_data_channel_that_opens_when_its_session_has_ended_is_refused(sessions, monkeypatch):
    session = sessions.new()
    session.channels, _ = trio.open_memory_channel(1)

    class SlowLink:
        def __init__(self, *_):
            self.closed = trio.Event()

        async def open_as_acceptor(self):
            session.close_channels()
            return b"b" * 32

    async def send(_message):
        return

    session.link.send = send
    monkeypatch.setattr(session_module, "DataLink", SlowLink)
    monkeypatch.setattr(session_module.DataChannel, "accept", lambda *_args, **_kwargs: None)
    with pytest.raises(RefusedByPeer, match="too late"):
        await session.attach(SimpleNamespace(channel=0), None)
    assert session._open == []
