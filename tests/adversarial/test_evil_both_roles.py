"""Two nodes that back up to each other: what a hostile one chooses in one relation gains it nothing in the other."""

from __future__ import annotations

import msgspec
import pytest
from blake3 import blake3
from world import contents, open_world, start_of

from protocol.keeping_messages import PinPoint, PointPinned
from protocol.messages import Commit, Committed, PutSlot, PutSlots, SlotsPut
from transporter.catalog import Peer as Paired
from transporter.clock import SystemClock
from transporter.errors import RefusedByPeer
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.password import KdfParameters, UserKey, hash_password
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.points.assemble import Place, PointFacts, assemble_sealed
from transporter.points.run_keys import RunKeys, begin_run


@pytest.fixture
async def world():
    async with open_world() as made:
        yield made
        await made.still_serves()


@pytest.mark.parametrize("zone", ["source", "target", "none"])
async def test_no_job_of_a_tenant_is_called_what_a_job_of_the_provider_is(world, zone):
    """Here a peer is called as its tenant is: whoever is joined chooses its name, and knows its own pin."""
    keys, evil = world.target.keys, world.source
    tenant = world.tenant(evil)
    world.target.catalog.remove_peer("office")
    world.target.catalog.put_peer(Paired(tenant, evil.identity.pin, tenant=tenant, rights=("main",)))
    # A run of the provider's own job "docs", to the repository "main" of that peer.
    own = f"{tenant}/main/docs"
    begin_run(keys, keys.user_key("vault"), own, b"r" * 16, None, world.target.clock)
    start = start_of(job="main/docs", zone=zone, password="vault" if zone == "target" else "")
    with pytest.raises(RefusedByPeer, match="not a usable name for a job"):
        async with evil.session(start):
            pass
    assert [run.run_id for run in keys.runs(own)] == [b"r" * 16]


async def take(node, point):
    """Commit a point under an id that somebody else's has; return one of its slots."""
    clock = SystemClock()
    user_key = UserKey("evil", hash_password(b"evil", b"e" * 16, KdfParameters(8, 1, 1)))
    keys = RunKeys(ChunkIdKey(b"c" * 32), SessionKey.generate(clock), MetaKey.generate(clock))
    facts = PointFacts(
        kind="full", created_ns=1, workload="tree", manifest=[], needs_hash=blake3(b"").digest(), statistics={}
    )
    async with node.session(start_of(resume=point)) as session:
        started = session.started
        place = Place(started.tenant, "docs", started.repository_id, point, started.domain, "source", started.parent)
        head, slots, _ = assemble_sealed(place, facts, keys, user_key, clock)
        for slot_id, slot in slots:
            await session.tell(PutSlot(point=point, slot=slot_id), slot)
        await session.request(Commit(point=point), head, Committed)
    return slots[0][1]


async def ask(node, message, payload=b""):
    async with node.control() as link:
        await link.send(message, payload)
        return (await link.receive()).message


async def test_whoever_takes_the_id_of_a_point_reaches_neither_its_slots_nor_its_pin(world):
    """A target knows the ids of what it stores. It may be a tenant where copies of that lie."""
    await world.source.backup()
    tenant, store, evil = world.tenant(world.source), world.store(), world.neighbour
    (ref,) = store.points(tenant, "docs")
    mine = store.slots_of(tenant, "docs", ref.point_id)
    slot = await take(evil, ref.point_id)
    rows = [[ref.point_id, b"e" * 16, slot, list(mine)]]
    assert isinstance(await ask(evil, PutSlots("main", "docs"), msgspec.msgpack.encode(rows)), SlotsPut)
    assert isinstance(await ask(evil, PinPoint("main", "docs", ref.point_id, "not yours")), PointPinned)
    assert store.slots_of(tenant, "docs", ref.point_id) == mine
    assert contents(await world.source.restore()) == contents(world.source.tree)
    (gone,) = store.keeping.remove(tenant, "docs", [ref.point_id], tenant)
    assert not gone.refused
