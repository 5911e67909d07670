"""The connections of the first channels: how many are made when, how old they may be, and that none is left open."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
import trio
import trio.testing
from reverse_world import open_reverse_world

from transporter.errors import CannotConnect, JobBusy, JobFailed
from transporter.link import channels as module
from transporter.link import open_session as opening
from transporter.link.address import Address
from transporter.link.channels import FRESH_SECONDS, EarlyCarriers
from transporter.link.dial import Peer
from transporter.link.listen import bound_address, open_listeners
from transporter.service import starting

COUNT = 4
PATIENCE = 20.0


class Dials:
    """Every dial for data channels: how many at once, and what came of it. ``seconds``: what each takes."""

    def __init__(self, monkeypatch):
        self.counts, self.carriers, self.seconds = [], [], 0.0
        dial = module.dial_carriers

        async def noted(peer, identity, count=1):
            self.counts.append(count)
            await trio.sleep(self.seconds)
            made = await dial(peer, identity, count)
            self.carriers += made
            return made

        monkeypatch.setattr(module, "dial_carriers", noted)

    @property
    def open(self):
        """How many of the connections are still open at this end."""
        return sum(carrier._socket.fileno() != -1 for carrier in self.carriers)


@pytest.fixture
def dials(monkeypatch):
    return Dials(monkeypatch)


class Door:
    """Listens on loopback; ``streams``: who came. What a dialler closed, and nobody else has, ends here, too."""

    def __init__(self, listeners):
        self.listeners = listeners
        self.address = bound_address(listeners)
        self.streams, self.scope = [], trio.CancelScope()

    async def serve(self):
        with self.scope:
            async with trio.open_nursery() as handlers:
                try:
                    await trio.serve_listeners(self._take, self.listeners, handler_nursery=handlers)
                except* trio.ClosedResourceError:
                    pass  # nobody listens any more

    async def _take(self, stream):
        self.streams.append(stream)
        await trio.sleep_forever()

    async def stop_listening(self):
        for listener in self.listeners:
            await listener.aclose()

    async def all_gone(self):
        """Wait until each connection was closed at its other end."""
        with trio.fail_after(PATIENCE):
            for stream in self.streams:
                assert await stream.receive_some(1) == b""


@pytest.fixture
async def door(nursery):
    made = Door(await open_listeners(Address("127.0.0.1", 0)))
    nursery.start_soon(made.serve)
    yield made
    made.scope.cancel()


@pytest.fixture
def peer(door):
    return Peer("offsite", door.address, bytes(32))


@pytest.fixture
def me(identities):
    return identities[0]


async def close(carriers):
    for carrier in carriers:
        await carrier.aclose()


# --- how many, and when ------------------------------------------------------------------------------------------


async def test_one_connection_is_made_ahead_and_the_others_when_it_is_taken(nursery, peer, me, dials):
    early = EarlyCarriers(peer, me, COUNT)
    nursery.start_soon(early.dial)
    await early._dialled[0].wait()
    await trio.testing.wait_all_tasks_blocked()
    assert dials.counts == [1]
    first = await early.take()
    rest = await early.take_rest()
    assert dials.counts == [1, COUNT - 1]
    assert (len(first), len(rest)) == (1, COUNT - 1)
    assert dials.carriers == [*first, *rest]
    await early.close()
    assert dials.open == COUNT, "those that were taken are not its own any more"
    await close(dials.carriers)


async def test_of_one_channel_there_are_no_others(nursery, peer, me, dials):
    early = EarlyCarriers(peer, me, 1)
    nursery.start_soon(early.dial)
    await close(await early.take())
    assert await early.take_rest() == []
    assert dials.counts == [1]


@pytest.mark.parametrize(
    "way",
    [{"outbound": object()}, {"route": object()}, {"address": Address("127.0.0.1", 1, scheme="https")}],
    ids=["by an outbound proxy", "by a route", "by a front end"],
)
async def test_where_a_way_is_dear_all_are_made_at_once(nursery, peer, me, monkeypatch, way):
    counts = []

    async def dial(_peer, _identity, count=1):
        counts.append(count)
        return [object()] * count

    monkeypatch.setattr(module, "dial_carriers", dial)
    early = EarlyCarriers(replace(peer, **way), me, COUNT)
    nursery.start_soon(early.dial)
    assert len(await early.take()) == COUNT
    assert await early.take_rest() == []
    assert counts == [COUNT]


async def held_until_started(monkeypatch):
    """Have providers answer Start only once the returned event is set."""
    release, work = trio.Event(), starting._work

    async def later(*arguments):
        await release.wait()
        await work(*arguments)

    monkeypatch.setattr(starting, "_work", later)
    return release


async def test_before_the_session_is_there_a_direct_link_has_one_connection(world, dials, monkeypatch):
    release = await held_until_started(monkeypatch)

    async def use():
        async with world.source.session(streams=COUNT) as session:
            assert session.streams == COUNT
            await session.close()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            while not dials.carriers or not world.provider.sessions:
                await trio.sleep(0.005)
            await trio.testing.wait_all_tasks_blocked()
            assert dials.counts == [1]
            release.set()
    assert dials.counts == [1, COUNT - 1]
    assert dials.open == 0


@pytest.mark.parametrize("way", ["direct", "relay", "relay reversed"])
async def test_before_the_session_is_there_a_called_peer_makes_all_connections(way, dials, monkeypatch):
    release = await held_until_started(monkeypatch)
    async with open_reverse_world(way) as world:
        await world.ready()

        async def use():
            async with world.jobs.session(streams=COUNT) as session:
                await session.close()

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(use)
                while len(dials.carriers) < COUNT:
                    await trio.sleep(0.005)
                release.set()
        assert dials.counts == [COUNT]


# --- a peer that cannot be dialled -------------------------------------------------------------------------------


async def test_that_nobody_listens_is_said_when_the_connections_are_wanted(nursery, peer, door, me, dials):
    await door.stop_listening()
    early = EarlyCarriers(peer, me, COUNT)
    nursery.start_soon(early.dial)
    await early._dialled[0].wait()
    for _ in range(2):
        with pytest.raises(CannotConnect):
            await early.take()
    with trio.fail_after(PATIENCE), pytest.raises(CannotConnect):
        await early.take_rest()
    assert dials.counts == [1], "the others are not even tried"


async def test_that_nobody_listens_any_more_is_said_when_the_others_are_wanted(nursery, peer, door, me, dials):
    early = EarlyCarriers(peer, me, COUNT)
    nursery.start_soon(early.dial)
    await early._dialled[0].wait()
    await door.stop_listening()
    first = await early.take()
    with trio.fail_after(PATIENCE), pytest.raises(CannotConnect):
        await early.take_rest()
    await close(first)
    assert dials.open == 0


# --- how old they may be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize(("age", "anew"), [(FRESH_SECONDS, False), (FRESH_SECONDS + 0.1, True)])
async def test_connections_that_the_provider_may_have_closed_are_made_anew(
    nursery, peer, door, me, dials, mock_clock, part, age, anew
):
    early = EarlyCarriers(peer, me, COUNT)
    nursery.start_soon(early.dial)
    taken = [] if part == 0 else await early.take()
    await early._dialled[part].wait()
    before = list(dials.carriers)
    mock_clock.jump(age)
    taken += await (early.take_rest() if part else early.take())
    assert len(taken) == (COUNT if part else 1)
    kept = [carrier for carrier in before[part:] if carrier in taken]
    assert kept == ([] if anew else before[part:])
    if part == 0:
        taken += await early.take_rest()
    await early.close()
    assert dials.open == len(taken) == COUNT
    await close(taken)
    await door.all_gone()


async def test_their_age_counts_from_when_they_began_to_be_dialled(nursery, peer, me, dials, autojump_clock):
    """The provider counts from when it accepts a connection; an answer may be long on its way."""
    dials.seconds = FRESH_SECONDS + 1
    early = EarlyCarriers(peer, me, 1)
    nursery.start_soon(early.dial)
    (taken,) = await early.take()
    assert dials.counts == [1, 1]
    assert dials.carriers[1] is taken
    assert dials.open == 1
    await taken.aclose()


# --- nothing stays open ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("takes", [0, 1, 2], ids=["none", "the first", "all"])
async def test_what_nobody_took_is_closed_whatever_ends_the_session(peer, door, me, dials, takes):
    taken = []
    with pytest.raises(JobFailed):
        async with opening._early_carriers(peer, me, COUNT) as early:
            await early._dialled[0].wait()
            if takes:
                taken += await early.take()
                await early._dialled[1].wait()
            if takes > 1:
                taken += await early.take_rest()
            raise JobFailed("the session was refused", "")
    assert len(dials.carriers) == (COUNT if takes else 1)
    assert dials.open == len(taken) == (0, 1, COUNT)[takes]
    await close(taken)
    await door.all_gone()


@pytest.mark.parametrize("made", [0, 2])
async def test_connections_that_are_being_made_when_the_session_ends_are_closed(peer, door, me, monkeypatch, made):
    """Some stand already, and the last ones of them do not come about."""
    from transporter.link import dial

    streams, waits = [], trio.Event()
    really_open = dial.open_stream

    async def open_some(*arguments):
        if len(streams) >= 1 + made:
            waits.set()
            await trio.sleep_forever()
        streams.append(None)
        streams[streams.index(None)] = stream = await really_open(*arguments)
        return stream

    monkeypatch.setattr(dial, "open_stream", open_some)
    with suppress(JobFailed):
        async with opening._early_carriers(peer, me, COUNT) as early:
            first = await early.take()
            with trio.fail_after(PATIENCE):
                await waits.wait()
                while None in streams:
                    await trio.sleep(0.005)
            raise JobFailed("the session was refused", "")
    await close(first)
    assert len(streams) == 1 + made
    assert all(stream.socket.fileno() == -1 for stream in streams)
    await door.all_gone()


@pytest.mark.parametrize("refused", ["at its start", "at channel 0"])
async def test_a_session_that_is_refused_leaves_no_connection(world, dials, monkeypatch, refused):
    async def refuse(*_arguments):
        # Not before the others were made as well, where they are.
        with trio.fail_after(PATIENCE):
            while len(dials.carriers) < (1 if refused == "at its start" else COUNT):
                await trio.sleep(0.005)
        raise JobBusy("not now", "")

    monkeypatch.setattr(opening, "_start" if refused == "at its start" else "_wait_until_ready", refuse)
    with pytest.raises(JobBusy):
        async with world.source.session(streams=COUNT):
            pass
    assert dials.carriers
    assert dials.open == 0
