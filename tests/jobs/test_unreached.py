"""A peer that cannot be reached is waited for once by a command, whichever of its repositories it wants."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from transporter.daemon.execute_keeping import list_points_of
from transporter.daemon.requests import PointsRequest
from transporter.errors import CannotConnect
from transporter.events import Note
from transporter.jobs.drill import drill
from transporter.jobs.keyset_apply import apply_keysets
from transporter.jobs.points import Where, list_points
from transporter.jobs.rewrap import rewrap
from transporter.jobs.search import SearchOrder, search
from transporter.keys.keyset import generate_keyset
from transporter.link import control_link, dial
from transporter.link.address import Address
from transporter.link.control_link import SilentPeer
from transporter.workloads.fsi_query import Query

BOTH = {"offsite/main", "offsite/rest"}


@pytest.fixture
def dialled(monkeypatch):
    """The addresses of the connections that were tried."""
    addresses = []
    open_stream = dial.open_stream

    async def noted(address, *rest):
        addresses.append(address)
        return await open_stream(address, *rest)

    monkeypatch.setattr(dial, "open_stream", noted)
    return addresses


async def of_drill(world):
    return (await drill(world.source.context)).unreached


async def of_search(world):
    report = await search(world.source.context, SearchOrder(Query("*")))
    return {place: what for place, (_code, what, _remedy) in report.unreached.items()}


async def of_keyset_apply(world):
    world.source.keys.add_keyset(generate_keyset("2026").public, None, event="keyset.import")
    with pytest.raises(CannotConnect) as caught:
        await apply_keysets(world.source.context)
    return named(caught.value)


async def of_password_change(world):
    world.source.keys.change_password("office", b"another")
    with pytest.raises(CannotConnect) as caught:
        await rewrap(world.source.context)
    assert world.source.keys.unfinished_changes() != []
    return named(caught.value)


def named(error):
    """Return what an error says of places: ``… was reached (PLACE: why; PLACE: why)…``."""
    listed = error.what.partition("reached (")[2].rpartition(")")[0]
    return dict(part.split(": ", 1) for part in listed.split("; "))


async def of_points(world):
    with pytest.raises(CannotConnect):
        await list_points_of(world.source.context, PointsRequest())
    notes = [note.text for note in world.source.seen(Note)]
    return {place: note.split(" (check")[0] for place, note in (text.split(": ", 1) for text in notes)}


@pytest.mark.parametrize("command", [of_drill, of_search, of_points, of_keyset_apply, of_password_change])
async def test_one_attempt_settles_all_repositories_of_a_peer(world, dialled, command):
    await world.source.backup()
    world.source.dials(Address("127.0.0.1", 9))
    dialled.clear()
    unreached = await command(world)
    assert set(unreached) == BOTH
    assert len(set(unreached.values())) == 1, "each is told with the reason"
    assert len(dialled) == 1


async def test_the_next_command_dials_anew(world, dialled):
    await world.source.backup()
    world.source.dials(Address("127.0.0.1", 9))
    dialled.clear()
    for _ in range(2):
        assert set(await of_drill(world)) == BOTH
    assert len(dialled) == 2


async def test_a_peer_that_takes_connections_and_is_silent_is_tried_as_one_is(world, dialled, monkeypatch):
    """Twice: the second time with short segments."""
    monkeypatch.setattr(control_link, "HANDSHAKE_SECONDS", 0.1)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        world.source.dials(Address(*listener.socket.getsockname()))
        assert set(await of_drill(world)) == BOTH
    assert len(dialled) == 2


async def test_a_repository_that_is_refused_says_nothing_of_the_others(world):
    await world.source.backup()
    known = world.source.catalog.peer("offsite")
    world.source.catalog.put_peer(replace(known, offers=("gone", "main", "rest")))
    report = await drill(world.source.context)
    assert (set(report.unreached), report.points) == ({"offsite/gone"}, 1)


async def test_a_peer_that_is_reached_after_all_is_dialled_again(world):
    context = world.source.context.each_peer_once()
    peer = context.peer("offsite")
    peer.dialled(SilentPeer("it is silent", "try again"))
    with pytest.raises(SilentPeer, match="it is silent"):
        await list_points(context, Where("offsite", "main", ""))
    async with dial.dial_control(peer, context.identity):  # a session that was redialling
        pass
    assert await list_points(context, Where("offsite", "main", "")) == []
