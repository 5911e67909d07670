"""Restore points copied from repository to repository, and used there as the originals are."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from copy_world import contents, local_repository

from transporter.errors import RefusedByPeer
from transporter.events import PointCopied, SearchHits
from transporter.jobs.drill import drill, explain
from transporter.jobs.search import SearchOrder, search
from transporter.points.copied import copy_domain, copy_name
from transporter.repository.point_head import decode_head, encode_head
from transporter.repository.points import OriginalHash
from transporter.workloads.fsi_query import Query


async def test_a_sealed_point_goes_from_a_local_repository_to_a_remote_one_and_opens_there(world):
    await world.source.backup()
    done = await world.copy(world.target, "main", "second/main")
    assert done.points == 1 and done.chunks_new > 0
    tenant = world.tenant(world.target)
    job = f"{world.tenant(world.source)}/docs"
    (copied,) = world.there().points(tenant, job)
    (original,) = world.one.store().points(world.tenant(world.source), "docs")
    assert copied.origin.hash == original.hash and copied.committed_ns == original.committed_ns
    head = world.there().read_head(tenant, job, copied.point_id)
    assert head == world.one.store().read_head(original.tenant, "docs", original.point_id)
    assert world.there().slots(copied.point_id) == world.one.store().slots(original.point_id)
    assert decode_head(head).encrypted
    assert world.there().scrub().clean
    # The provider that copied has no key, and does not count what it cannot open as lost.
    assert not (await drill(world.target.context)).closed
    # The office has the keys; all it needs is to be let at the copy, as the tenant that it was copied by.
    world.let_at_the_copies_of(world.target, world.source)
    place = await world.source.restore(job, source="second/main", output="back")
    assert contents(place) == contents(world.source.tree)


@pytest.mark.parametrize("job", ["docs", "none"])
async def test_a_tenant_copies_from_remote_to_remote_and_uses_the_copy_as_the_original(world, job):
    await world.source.backup(job)
    zone = "source" if job == "docs" else "none"
    done = await world.copy(world.source, "offsite/main", "second/main", jobs=(job,))
    assert done.points == 1 and world.source.seen(PointCopied)[0].target == "second/main"
    place = await world.source.restore(job, source="second/main", output="back", zone=zone)
    assert contents(place) == contents(world.source.tree)
    await world.source.verify(job, source="second/main", zone=zone)


async def test_drill_explain_and_search_on_a_copy_as_on_the_original(world):
    await world.source.backup()
    await world.copy(world.source, "offsite/main", "second/main", jobs=("docs",))
    report = await drill(world.source.context)
    assert (report.points, report.closed) == (2, [])
    rows = await explain(world.source.context, "")
    assert {row["repository"] for row in rows} == {"offsite/main", "second/main"}
    await search(world.source.context, SearchOrder(Query("large"), at="second/main", each=True))
    hits = [hit for event in world.source.seen(SearchHits) for hit in event.hits]
    assert [hit.repository for hit in hits] == ["second/main"]


async def test_from_remote_to_a_repository_of_this_node_and_nothing_twice(world):
    await world.source.backup()
    with local_repository(world.source):
        done = await world.copy(world.source, "offsite/main", "here")
        assert done.points == 1
        again = await world.copy(world.source, "offsite/main", "here")
        assert (again.points, again.chunks_new) == (0, 0)
        (world.source.tree / "sub" / "file-new").write_text("new")
        await world.source.backup()
        third = await world.copy(world.source, "offsite/main", "here")
        assert third.points == 1 and 0 < third.chunks_new < done.chunks_new + 4
        report = await drill(world.source.context)
        assert (report.points, report.closed) == (4, [])


async def test_a_copy_of_a_copy_is_a_copy_of_the_original(world):
    await world.source.backup()
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here")
        await world.copy(world.source, "here", "second/main")
    tenant = world.tenant(world.source)
    (original,) = world.one.store().points(tenant, "docs")
    (copied,) = world.there().points(tenant, "docs")
    assert copied.origin.repository_id == world.one.store().repository_id
    assert copied.origin.hash == original.hash
    place = await world.source.restore("docs", source="second/main", output="back")
    assert contents(place) == contents(world.source.tree)


async def test_two_tenants_and_two_nodes_share_no_chunk_and_no_job(world):
    """One repository is the copy of what two tenants stored, and of what two nodes gave."""
    await world.source.backup()
    await world.one.neighbour.backup()
    await world.copy(world.target, "main", "second/main")
    await world.copy(world.source, "offsite/main", "second/main", jobs=("docs",))
    office, offsite = world.tenant(world.source), world.tenant(world.target)
    assert sorted(world.there().tenants()) == sorted([office, offsite])
    jobs = {ref.job for ref in world.there().points(offsite)}
    assert jobs == {f"{office}/docs", f"{world.tenant(world.one.neighbour)}/docs"}
    domains = [ref.domain for tenant in (office, offsite) for ref in world.there().points(tenant)]
    assert len(set(domains)) == 3
    assert world.there().scrub().clean


def test_a_name_of_chunks_is_never_that_of_another_tenant_or_node():
    name = copy_name(b"p" * 32, b"r" * 16, b"d" * 16)
    assert copy_domain("office-1", name) != copy_domain("neighbour-1", name)
    others = [
        copy_name(b"q" * 32, b"r" * 16, b"d" * 16),
        copy_name(b"p" * 32, b"s" * 16, b"d" * 16),
        copy_name(b"p" * 32, b"r" * 16, b"e" * 16),
        copy_name(b"p" * 32, b"r" * 16, b"d" * 16, b"anew"),
    ]
    assert len({name, *others}) == 5


async def test_a_backup_does_not_build_on_a_copy(world):
    await world.source.backup()
    await world.copy(world.source, "offsite/main", "second/main", jobs=("docs",))
    job = msgspec.structs.replace(world.source.config.jobs["docs"], to="second/main")
    world.source.config = msgspec.structs.replace(world.source.config, jobs={**world.source.config.jobs, "docs": job})
    done = await world.source.backup()
    assert done.kind == "full"
    first, second = world.there().points(world.tenant(world.source), "docs")
    assert first.origin is not None and second.origin is None
    assert second.committed_ns > first.committed_ns


async def test_a_point_keeps_its_place_in_the_order_and_is_never_later_than_now(world):
    for _ in range(3):
        await world.source.backup()
    tenant = world.tenant(world.source)
    originals = world.one.store().points(tenant, "docs")
    await world.copy(world.source, "offsite/main", "second/main", point=originals[1].point_id.hex(), jobs=("docs",))
    await world.copy(world.source, "offsite/main", "second/main", jobs=("docs",))
    copies = world.there().points(tenant, "docs")
    assert [ref.point_id for ref in copies] == [ref.point_id for ref in originals]
    assert [ref.committed_ns for ref in copies] == [ref.committed_ns for ref in originals]
    now = world.second.clock.now_ns()
    forged = replace(copies[0].origin, committed_ns=now + 10**18)
    head = world.one.store().read_head(tenant, "docs", originals[0].point_id)
    said = decode_head(head)
    needs = b"".join(world.one.store().read_needs(tenant, "docs", originals[0].point_id))
    proof = OriginalHash(forged, said.point_id, said.domain, said.job, head)
    proof.update(needs)
    store = world.there()
    origin = replace(forged, hash=proof.digest())
    store.commit_point("other", "docs", said.point_id, head, needs, domain=copies[0].domain, origin=origin)
    (placed,) = store.points("other", "docs")
    assert now <= placed.committed_ns <= world.second.clock.now_ns()


async def test_another_point_of_that_id_is_left_alone(world):
    await world.source.backup()
    await world.source.backup()
    tenant = world.tenant(world.source)
    original, newer = world.one.store().points(tenant, "docs")
    head = decode_head(world.one.store().read_head(tenant, "docs", original.point_id))
    store = world.there()
    other = encode_head(msgspec.structs.replace(head, created_ns=1))
    store.commit_point(tenant, "docs", original.point_id, other, b"")
    before = store.point(tenant, "docs", original.point_id)
    with pytest.raises(RefusedByPeer, match="another restore point"):
        await world.copy(world.source, "offsite/main", "second/main", jobs=("docs",))
    assert store.point(tenant, "docs", original.point_id) == before
    # It keeps none of the others from being copied.
    assert store.point(tenant, "docs", newer.point_id).origin is not None
