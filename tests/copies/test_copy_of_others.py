"""Whoever holds blind copies, and is a tenant where they come from, has nothing opened there that is not its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from copy_world import contents
from world import quiet_handlers, start_of

from transporter.catalog import Peer as Paired
from transporter.errors import RefusedByPeer
from transporter.jobs.copy import run_copy
from transporter.jobs.copy_plan import CopyOrder, End
from transporter.link.open_session import open_session


def pair_both_ways(world):
    """The second provider becomes a tenant of the first one; return its name there."""
    pin = world.second.identity.pin
    tenant = f"second-{pin.hex()[:8]}"
    world.target.catalog.put_peer(Paired("second", pin, tenant=tenant, rights=("main",)))
    first = Paired("offsite", world.target.identity.pin, str(world.one.address), offers=("main",))
    world.second.catalog.put_peer(first)
    return tenant


async def bring_all(world):
    """The second provider copies everything that it holds to the first one."""
    context = replace(world.second.context, stores={"main": world.there()})
    await run_copy(context, CopyOrder("copy", End.of("main"), End.of("offsite/main")))


async def recover(world, ref, zone):
    """Begin a recovery as the second provider; return what chunks are named by, which is lent with what is opened."""
    start = start_of(purpose="recovery", job=ref.job, zone=zone, point=ref.point_id, resume=b"")
    node, clock = world.second, world.second.clock
    with trio.fail_after(30):
        async with open_session(
            node.context.peer("offsite"), node.identity, start, 1, quiet_handlers(), clock
        ) as session:
            return session.started.chunk_id_key


async def test_what_a_provider_sealed_for_a_tenant_it_opens_for_no_other(world):
    await world.source.backup("target")
    await world.copy(world.target, "main", "second/main")
    tenant = pair_both_ways(world)
    await bring_all(world)
    (ref,) = world.one.store().points(tenant)
    assert ref.origin.tenant == world.tenant(world.source)
    with pytest.raises(RefusedByPeer, match="sealed for another tenant"):
        await recover(world, ref, "target")


async def test_a_tenant_has_copies_of_its_own_opened_that_came_back(world):
    await world.source.backup("target")
    await world.copy(world.source, "offsite/main", "second/main", jobs=("target",))
    store = world.one.store()
    (made,) = store.points(world.tenant(world.source), "target")
    store.keeping.remove(world.tenant(world.source), "target", [made.point_id], "")
    await world.copy(world.source, "second/main", "offsite/main", jobs=("target",))
    assert store.points(world.tenant(world.source), "target")[0].origin is not None
    assert contents(await world.source.restore("target", output="back")) == contents(world.source.tree)
