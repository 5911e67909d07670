"""Network acceleration: jobs of one tenant share chunks where nobody seals them at the source, and nowhere else."""

from __future__ import annotations

import os
import random
import shutil

import msgspec
import pytest
import trio
from world import contents, start_of

from transporter.config import JobConfig, job_problem
from transporter.errors import RefusedByPeer
from transporter.points.domain import domain_of, shared_domain_of
from transporter.service.session import ServiceSession

LARGE = 8_000_000
# One chunk, the one with the small file in it, and some words.
LITTLE = 3_000_000
REPOSITORIES = ("main", "rest")


def define(world, node, job, repository, *, accelerated=True, like=None):
    """Give a node a job with a tree of its own: a large file as in ``like``'s tree, and a small one."""
    tree = world.folder / f"{node.config.node.name}-{job}"
    if not tree.exists():
        tree.mkdir()
        if like is None:
            (tree / "large").write_bytes(random.Random(7).randbytes(LARGE))
        else:
            shutil.copy(like / "large", tree / "large")
        (tree / "small").write_bytes(os.urandom(5000))
    settings = JobConfig(
        to=f"offsite/{repository}", encrypt="none", paths=[str(tree)], network_acceleration=accelerated
    )
    assert job_problem(settings) is None
    node.config = msgspec.structs.replace(node.config, jobs={**node.config.jobs, job: settings})
    return tree


async def restored(node, job, output, **how):
    return contents(await node.restore(job, output=output, **how))


def domains(world, repository, node, job):
    return [ref.domain for ref in world.store(repository).points(world.tenant(node), job)]


@pytest.mark.parametrize("repository", REPOSITORIES)
async def test_two_jobs_send_what_they_have_in_common_once(world, repository):
    first = define(world, world.source, "first", repository)
    second = define(world, world.source, "second", repository, like=first)
    assert (await world.source.backup("first")).bytes_sent > LARGE
    again = await world.source.backup("second")
    assert again.bytes_sent < LITTLE
    assert again.chunks_new < again.chunks
    for job, tree in (("first", first), ("second", second)):
        assert await restored(world.source, job, f"out-{job}") == contents(tree)
        await world.source.verify(job)
        assert domains(world, repository, world.source, job) == [shared_domain_of(world.tenant(world.source))]
    assert world.store(repository).scrub().clean


@pytest.mark.parametrize("repository", REPOSITORIES)
async def test_without_it_they_send_it_twice(world, repository):
    first = define(world, world.source, "first", repository, accelerated=False)
    define(world, world.source, "second", repository, accelerated=False, like=first)
    for job in ("first", "second"):
        assert (await world.source.backup(job)).bytes_sent > LARGE


@pytest.mark.parametrize("repository", REPOSITORIES)
async def test_a_job_without_it_shares_nothing_with_one_that_has_it(world, repository):
    first = define(world, world.source, "first", repository)
    define(world, world.source, "second", repository, accelerated=False, like=first)
    for job in ("first", "second"):
        assert (await world.source.backup(job)).bytes_sent > LARGE


@pytest.mark.parametrize("repository", REPOSITORIES)
async def test_two_tenants_never_share(world, repository):
    first = define(world, world.source, "first", repository)
    theirs = define(world, world.neighbour, "first", repository, like=first)
    for node in (world.source, world.neighbour):
        assert (await node.backup("first")).bytes_sent > LARGE
    assert domains(world, repository, world.source, "first") != domains(world, repository, world.neighbour, "first")
    assert await restored(world.neighbour, "first", "out") == contents(theirs)
    # Not even the names of chunks are the same: what one tenant asks for says nothing of the other.
    named = [
        {
            bytes(part[at : at + 32])
            for point in world.store(repository).points(world.tenant(node), "first")
            for part in world.store(repository).read_needs(point.tenant, "first", point.point_id)
            for at in range(0, len(part), 32)
        }
        for node in (world.source, world.neighbour)
    ]
    assert named[0] and not named[0] & named[1]


@pytest.mark.parametrize("repository", REPOSITORIES)
async def test_switched_on_later_everything_is_sent_once_more_and_old_points_stay(world, repository):
    tree = define(world, world.source, "first", repository, accelerated=False)
    old = await world.source.backup("first")
    before = contents(tree)
    define(world, world.source, "first", repository)
    (tree / "small").write_bytes(b"changed")
    assert (await world.source.backup("first")).bytes_sent > LARGE
    assert (await world.source.backup("first")).bytes_sent < LITTLE
    assert await restored(world.source, "first", "new") == contents(tree)
    assert await restored(world.source, "first", "old", point=old.point) == before
    await world.source.verify("first", old.point)
    # And off again: back to its own domain, where most of it still is.
    define(world, world.source, "first", repository, accelerated=False)
    assert (await world.source.backup("first")).bytes_sent < LITTLE
    assert await restored(world.source, "first", "off") == contents(tree)
    tenant = world.tenant(world.source)
    own, shared = domain_of(tenant, "first"), shared_domain_of(tenant)
    assert domains(world, repository, world.source, "first") == [own, shared, shared, own]
    assert world.store(repository).scrub().clean


async def test_the_shared_domain_has_a_key_of_its_own(world):
    """A ring that is taken up from an older point must not carry the key of the job's own domain over."""
    define(world, world.source, "first", "rest", accelerated=False)
    await world.source.backup("first")
    define(world, world.source, "first", "rest")
    await world.source.backup("first")
    tenant = world.tenant(world.source)
    keys = world.provider.keys
    assert keys.domain_key(f"{tenant}/first").secret != keys.domain_key(f"/accelerated/{tenant}").secret


async def test_a_provider_that_lost_its_keys_of_runs_finds_them_in_the_points_of_the_other_jobs(world):
    """Zone none, sealed at rest: what another job's session sealed opens for this point, and for the one after it."""
    first = define(world, world.source, "first", "rest")
    second = define(world, world.source, "second", "rest", like=first)
    third = define(world, world.source, "third", "rest", like=first)
    for job in ("first", "second", "second", "third", "first"):
        await world.source.backup(job)
    for job, tree in (("first", first), ("second", second), ("third", third)):
        assert await restored(world.source, job, f"out-{job}") == contents(tree)
    (point, _) = world.store("rest").points(world.tenant(world.source), "second")
    assert await restored(world.source, "second", "older", point=point.point_id.hex()) == contents(second)


@pytest.mark.parametrize("repository", REPOSITORIES)
async def test_two_jobs_at_once(world, repository):
    first = define(world, world.source, "first", repository)
    second = define(world, world.source, "second", repository, like=first)
    async with trio.open_nursery() as nursery:
        for job in ("first", "second"):
            nursery.start_soon(world.source.backup, job)
    for job, tree in (("first", first), ("second", second)):
        assert await restored(world.source, job, f"out-{job}") == contents(tree)
    assert world.store(repository).scrub().clean


@pytest.mark.parametrize("zone", ["source", "target"])
@pytest.mark.parametrize("purpose", ["backup", "recovery"])
async def test_the_provider_refuses_it_where_chunks_are_sealed(world, zone, purpose):
    start = start_of(purpose=purpose, zone=zone, password="vault" if zone == "target" else "", acceleration=True)
    with pytest.raises(RefusedByPeer, match="network acceleration"):
        async with world.source.session(start):
            pass
    await world.still_serves()


async def test_an_older_provider_that_does_not_know_it_is_noticed(world, monkeypatch):
    define(world, world.source, "first", "main")
    really = ServiceSession.__post_init__

    def as_before(session):
        really(session)
        session.domain = domain_of(session.tenant, session.start.job)

    monkeypatch.setattr(ServiceSession, "__post_init__", as_before)
    with pytest.raises(RefusedByPeer, match="does not share chunks"):
        await world.source.backup("first")


@pytest.mark.parametrize("job", ["docs", "target", "none"])
async def test_a_provider_that_lays_a_job_into_the_shared_domain_is_refused(world, monkeypatch, job):
    really = ServiceSession.__post_init__

    def in_the_shared_domain(session):
        really(session)
        session.domain = shared_domain_of(session.tenant)

    monkeypatch.setattr(ServiceSession, "__post_init__", in_the_shared_domain)
    with pytest.raises(RefusedByPeer, match="not the job's own"):
        await world.source.backup(job)


@pytest.mark.parametrize("encrypt", ["source", "target"])
def test_it_is_refused_together_with_a_sealed_zone(encrypt):
    job = JobConfig(to="offsite/main", encrypt=encrypt, password="x", paths=["/x"], network_acceleration=True)
    field, what, remedy = job_problem(job)
    assert field == "network_acceleration"
    assert "names their chunks" in what and "none" in remedy
