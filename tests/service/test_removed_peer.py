"""``peer remove`` while the peer is connected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.messages import ListPoints, Points, Refused, StatusReply, StatusRequest
from transporter.errors import IdentityRefused, RefusedByPeer
from transporter.jobs import backup
from transporter.jobs.recovery import Recovery
from transporter.link.broken import LinkBroken


def remove(world):
    assert world.target.catalog.remove_peer("office")


def take_rights(world):
    """As `peer remove` and a new invitation to another repository would."""
    remove(world)
    pin = world.source.identity.pin
    known = world.target.catalog.peer("neighbour")
    world.target.catalog.put_peer(replace(known, name="office", pin=pin, tenant="office", rights=("rest",)))


LOSSES = {"removed": (remove, IdentityRefused), "without its right": (take_rights, RefusedByPeer)}


@pytest.mark.parametrize(
    "question", [StatusRequest(), ListPoints(repository="main", job="docs")], ids=["status", "points"]
)
async def test_an_idle_connection_of_a_removed_peer_is_ended(world, question):
    async with world.source.control() as link:
        await link.send(question)
        assert isinstance((await link.receive()).message, StatusReply | Points)
        remove(world)
        await link.send(question)
        refused = (await link.receive()).message
        assert isinstance(refused, Refused)
        assert refused.code == "identity-refused"
        with pytest.raises(LinkBroken):
            await link.receive()
    await world.still_serves()


@pytest.mark.parametrize("how", LOSSES)
async def test_a_peer_that_is_removed_during_its_backup_commits_nothing(world, monkeypatch, how):
    tenant = world.tenant(world.source)
    commit_point = backup.commit_point
    take, error = LOSSES[how]

    async def commit(*arguments):
        take(world)
        await commit_point(*arguments)

    monkeypatch.setattr(backup, "commit_point", commit)
    with pytest.raises(error):
        await world.source.backup()
    assert world.store().points(tenant) == []
    monkeypatch.undo()
    await world.still_serves()


async def test_a_peer_that_is_removed_during_a_restore_gets_no_more(world, monkeypatch):
    await world.source.backup()
    read_manifest = Recovery.read_manifest

    async def read(*arguments):
        remove(world)
        await read_manifest(*arguments)

    monkeypatch.setattr(Recovery, "read_manifest", read)
    with pytest.raises(IdentityRefused):
        await world.source.verify()
    monkeypatch.undo()
    await world.still_serves()
