"""Two nodes that back up to each other: what a hostile one chooses in one relation gains it nothing in the other."""

from __future__ import annotations

import pytest
from world import open_world, start_of

from transporter.catalog import Peer as Paired
from transporter.errors import RefusedByPeer
from transporter.points.run_keys import begin_run


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
