"""FoldPoint from a source that is not honest: the target keeps what it promised."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from protocol.transform_messages import FoldPoint, PointFolded
from transporter.errors import RefusedByPeer, TransporterError
from transporter.jobs.ask import ask
from transporter.points.fold import synthetic_head, synthetic_id
from transporter.repository.point_head import decode_head, encode_head


@pytest.fixture
async def two(world):
    """Two points, and the right to remove."""
    peer = world.target.catalog.peer_by_pin(world.source.identity.pin)
    world.target.catalog.put_peer(replace(peer, removes=("main",)))
    await world.source.backup()
    (world.source.tree / "more").write_text("x")
    await world.source.backup()
    return world


def refs(world, node=None):
    return world.store().points(world.tenant(node or world.source), "docs")


async def send(node, question, payload=b""):
    async with node.control() as link:
        return await ask(link, question, payload, PointFolded)


def honest(world):
    """A question that would be carried out, and its payload."""
    old = refs(world)[0]
    head = decode_head(world.store().read_head(old.tenant, "docs", old.point_id))
    slots = list(world.store().slots(old.point_id).values())
    new = synthetic_id(old.point_id, old.hash)
    made = msgspec.structs.replace(synthetic_head(head, new), cryptograms=head.cryptograms, mac=head.mac)
    return FoldPoint("main", "docs", old.point_id, new, slots=slots), made


async def test_an_honest_one_is_carried_out_and_may_be_repeated(two):
    question, head = honest(two)
    time = refs(two)[0].committed_ns
    first, _ = await send(two.source, question, encode_head(head))
    again, _ = await send(two.source, question, encode_head(head))
    assert first == again
    assert (refs(two)[0].point_id, refs(two)[0].committed_ns, refs(two)[0].hash) == (question.point, time, first.hash)
    assert len(refs(two)) == 2


CHANGES = {
    "manifest": [(bytes(32), 5)],
    "needs_hash": bytes(32),
    "domain": bytes(16),
    "tenant": "somebody",
    "job": "other",
    "zone": "none",
    "kind": "full",
    "created_ns": 5,
    "point_id": bytes(16),
    "encrypted": False,
    "statistics": {"files": 0},
    "parent": bytes(16),
}


@pytest.mark.parametrize("field", list(CHANGES))
async def test_a_head_that_says_something_else_is_refused(two, field):
    question, head = honest(two)
    before = refs(two)
    with pytest.raises(TransporterError):
        await send(two.source, question, encode_head(msgspec.structs.replace(head, **{field: CHANGES[field]})))
    assert refs(two) == before
    await two.still_serves()


@pytest.mark.parametrize("payload", [b"", b"nonsense", b"\x80", bytes(1000)])
async def test_a_head_that_is_none_is_refused(two, payload):
    question, _head = honest(two)
    before = refs(two)
    with pytest.raises(TransporterError):
        await send(two.source, question, payload)
    assert refs(two) == before


@pytest.mark.parametrize("slots", [[], [b""], [b"no slot at all"]])
async def test_without_a_slot_that_is_one_nothing_is_folded(two, slots):
    question, head = honest(two)
    before = refs(two)
    with pytest.raises(TransporterError):
        await send(two.source, replace(question, slots=slots), encode_head(head))
    assert refs(two) == before


async def test_a_point_that_is_not_there(two):
    question, head = honest(two)
    with pytest.raises(TransporterError, match="no restore point"):
        await send(two.source, replace(question, replaces=bytes(16)), encode_head(head))


async def test_onto_a_point_that_is_there_removes_nothing(two):
    """Else a source whose identity was stolen could have one good point take the place of another."""
    question, head = honest(two)
    other = refs(two)[1].point_id
    before = refs(two)
    with pytest.raises(TransporterError):
        await send(
            two.source, replace(question, point=other), encode_head(msgspec.structs.replace(head, point_id=other))
        )
    assert refs(two) == before


async def test_the_neighbour_can_fold_nothing_of_it(two):
    peer = two.target.catalog.peer_by_pin(two.neighbour.identity.pin)
    two.target.catalog.put_peer(replace(peer, removes=("main",)))
    question, head = honest(two)
    before = refs(two)
    with pytest.raises(TransporterError):
        await send(two.neighbour, question, encode_head(head))
    assert refs(two) == before


async def test_a_tenant_that_only_adds_cannot_fold(world):
    await world.source.backup()
    question, head = honest(world)
    before = refs(world)
    with pytest.raises(RefusedByPeer, match="not remove"):
        await send(world.source, question, encode_head(head))
    assert refs(world) == before


async def test_a_locked_point_stays(two):
    question, head = honest(two)
    store = two.store()
    old = refs(two)[0]
    store.keeping.lock(old.tenant, "docs", old.point_id, store.keeping.clock.now_ns() + 10**15)
    with pytest.raises(TransporterError, match="locked"):
        await send(two.source, question, encode_head(head))
    assert old in refs(two)
