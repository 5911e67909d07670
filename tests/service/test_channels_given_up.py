"""Data channels that are given up: one that carried nothing costs nothing, any other one ends its session."""

from __future__ import annotations

import os

import pytest
import trio
from world import contents

from protocol.data import DataChannel
from protocol.messages import Piece
from transporter.link import open_session as open_session_module
from transporter.link.broken import LinkBroken
from transporter.link.channels import ChannelOpener
from transporter.link.data_link import DataLink
from transporter.link.dial import dial_carrier
from transporter.service.session import ServiceSession

PATIENCE = 60.0


class Opener(ChannelOpener):
    """Opens one channel more than the job knows of, and closes it once the provider has taken it in."""

    sessions = 0
    provider = None
    frame = False

    async def open_first(self, early, ready):
        await super().open_first(early, ready)
        cls = type(self)
        cls.sessions += 1
        channel = DataChannel.initiate(
            channel=self.opened,
            session=self._session.started.session,
            input_key=self._key_b,
            binding=self._binding,
            salt=bytes(24),
        )
        link = DataLink(channel, await dial_carrier(self._peer, self._identity), "offsite")
        await link.open_as_initiator(None)
        theirs = cls.provider.sessions[self._session.started.session]
        while len(theirs._open) <= self.opened:
            await trio.sleep(0.005)
        if self.frame and cls.sessions == 1:
            piece = Piece(id=b"i" * 32, codec=0, plain_length=1 << 20, length=1 << 20, index=0)
            await link.send(piece, bytes(1 << 16))
        await link.aclose()
        self.opened += 1


@pytest.fixture
def opener(world, monkeypatch):
    class Mine(Opener):
        provider = world.provider

    monkeypatch.setattr(open_session_module, "ChannelOpener", Mine)
    return Mine


async def test_a_channel_that_is_closed_before_anything_came_ends_no_backup(world, opener):
    with trio.fail_after(PATIENCE):
        finished = await world.source.backup()
    assert (opener.sessions, finished.redials) == (1, 0)
    assert contents(await world.source.restore()) == contents(world.source.tree)


@pytest.mark.parametrize("zone", ["docs", "none"])
async def test_a_channel_that_is_closed_before_anything_came_ends_no_recovery(world, opener, zone):
    # So many chunks that each channel gets its turn.
    (world.source.tree / "much").write_bytes(os.urandom(24 << 20))
    with trio.fail_after(PATIENCE):
        await world.source.backup(zone)
        verified = await world.source.verify(zone)
        assert (opener.sessions, verified.redials) == (2, 0)
        assert contents(await world.source.restore(zone)) == contents(world.source.tree)
    assert opener.sessions == 3


async def test_a_channel_that_is_cut_behind_a_frame_ends_the_session(world, opener):
    """What was on its way there is lost: only a new session sends it again."""
    opener.frame = True
    with trio.fail_after(PATIENCE):
        finished = await world.source.backup()
    assert (opener.sessions, finished.redials) == (2, 1)
    assert contents(await world.source.restore()) == contents(world.source.tree)


class LateOpener(ChannelOpener):
    """Adds one channel, as `stripe` does, that no chunk is sent on."""

    async def open_first(self, early, ready):
        await super().open_first(early, ready)
        self._session.use_channels(self.opened)
        await self.grow_to(self.opened + 1)


@pytest.mark.parametrize("work", ["backup", "verify"])
async def test_a_channel_that_nobody_has_answered_at_the_end_is_dropped(world, monkeypatch, work):
    """The provider may have no more time for it: a FIN there would be waited for in vain."""
    # However busy the machine is, its loopback counts as a short line, which begins with two channels.
    monkeypatch.setattr(open_session_module, "SHORT_LINE_SECONDS", 60.0)
    monkeypatch.setattr("transporter.link.striping.SHORT_LINE_SECONDS", 60.0)
    await world.source.backup()
    attach, came = ServiceSession.attach, []

    async def never_answered(self, preface, carrier):
        if preface.channel < 2:
            return await attach(self, preface, carrier)
        came.append(await carrier.receive_into(memoryview(bytearray(100))))
        raise LinkBroken("the end of it")

    monkeypatch.setattr(ServiceSession, "attach", never_answered)
    monkeypatch.setattr(open_session_module, "ChannelOpener", LateOpener)
    (world.source.tree / "more").write_bytes(os.urandom(100_000))
    with trio.fail_after(PATIENCE):
        finished = await getattr(world.source, work)()
        while not came or world.provider.sessions:
            await trio.sleep(0.005)
    assert finished.redials == 0
    assert came == [0], "neither a FIN nor anything else"
