"""Copies that are sealed anew on their way: what was plain, or all of it under another password."""

from __future__ import annotations

import os

import pytest
from copy_world import contents, local_repository
from world import small_tree

from transporter.errors import DamagedData, NoKey, UnknownPassword
from transporter.jobs.copy_seal import PointSealing
from transporter.repository import PLAIN_KEY
from transporter.repository.point_head import decode_head

WAY = ("offsite/main", "second/main")
LATER = b"another password"


@pytest.fixture
def later(world):
    """A second password of the office."""
    world.source.keys.add_password("later", LATER)
    return "later"


def points(world, job):
    return world.there().points(world.tenant(world.source), job)


async def test_what_was_plain_is_sealed_by_the_copying_source_and_opens_by_its_password(world, later):
    await world.source.backup("none")
    done = await world.copy(world.source, *WAY, jobs=("none",), seal="plain", password=later)
    assert done.points == 1
    (ref,) = points(world, "none")
    store = world.there()
    head = decode_head(store.read_head(ref.tenant, "none", ref.point_id))
    assert head.encrypted and head.zone == "source" and not head.chunk_id_key and ref.origin.resealed
    for chunk_id in store.read_needs(ref.tenant, "none", ref.point_id):
        (keys,) = store.have(ref.domain, [chunk_id])
        assert keys and PLAIN_KEY not in keys
    place = await world.source.restore("none", source="second/main", zone="source", output="back")
    assert contents(place) == contents(world.source.tree)
    await world.source.verify("none", source="second/main", zone="source")


async def test_sealed_points_go_under_another_password_on_request(world, later):
    await world.source.backup()
    (world.source.tree / "large").write_bytes(os.urandom(200_000))
    await world.source.backup()
    done = await world.copy(world.source, *WAY, jobs=("docs",), seal="all", password=later)
    assert done.points == 2
    # What the originals were sealed with opens none of the copies.
    world.source.keys.remove_password("office", in_use=True)
    for ref in points(world, "docs"):
        await world.source.verify("docs", point=ref.point_id.hex(), source="second/main")


@pytest.mark.parametrize("seal", ["plain", "all"])
async def test_a_password_that_this_home_does_not_have_is_refused_also_where_nothing_is_left_to_copy(world, seal):
    await world.source.backup()
    await world.copy(world.source, *WAY, jobs=("docs",))
    with pytest.raises(UnknownPassword, match="'nope'"):
        await world.copy(world.source, *WAY, jobs=("docs",), seal=seal, password="nope")


async def test_the_next_copy_uses_what_was_sealed_before(world, later):
    small_tree(world.source.tree / "more", size=6_000_000)
    await world.source.backup()
    first = await world.copy(world.source, *WAY, jobs=("docs",), seal="all", password=later)
    (world.source.tree / "sub" / "file-0").write_text("changed")
    await world.source.backup()
    second = await world.copy(world.source, *WAY, jobs=("docs",), seal="all", password=later)
    assert second.points == 1 and second.chunks_new < first.chunks_new
    place = await world.source.restore("docs", source="second/main", output="back")
    assert contents(place) == contents(world.source.tree)


async def test_a_resealed_copy_is_copied_on_as_any_other(world, later):
    await world.source.backup("none")
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here", jobs=("none",), seal="plain", password=later)
        await world.copy(world.source, "here", "second/main", jobs=("none",))
        again = await world.copy(world.source, "here", "second/main", jobs=("none",))
        assert again.points == 0
    (ref,) = points(world, "none")
    assert not ref.origin.resealed
    place = await world.source.restore("none", source="second/main", zone="source", output="back")
    assert contents(place) == contents(world.source.tree)


async def test_what_cannot_be_opened_here_is_not_sealed_anew(world):
    await world.source.backup()
    world.target.keys.add_password("own", b"of the provider")
    with pytest.raises(NoKey):
        await world.copy(world.target, "main", "second/main", seal="all", password="own")
    assert world.there().tenants() == []


async def test_a_plain_chunk_that_is_not_what_its_id_names_is_never_vouched_for(world, later, monkeypatch):
    await world.source.backup("none")
    really = PointSealing.seal

    def altered(self, chunk):
        stored = bytes(chunk.record.stored)
        chunk.record = type(chunk.record)(
            chunk.record.chunk_id, PLAIN_KEY, 0, len(stored) - 1, memoryview(stored[:-1] + bytes([stored[-1] ^ 1]))
        )
        return really(self, chunk)

    monkeypatch.setattr(PointSealing, "seal", altered)
    with pytest.raises(DamagedData, match="is not the one that its id names"):
        await world.copy(world.source, *WAY, jobs=("none",), seal="plain", password=later)
    assert points(world, "none") == []


async def test_no_key_seals_two_chunks_under_one_counter(world, later):
    await world.source.backup("none")
    await world.source.backup("docs")
    await world.copy(world.source, *WAY, seal="all", password=later, jobs=("none", "docs"))
    store, seen = world.there(), set()
    for job in ("none", "docs"):
        for ref in points(world, job):
            for chunk_id in store.read_needs(ref.tenant, job, ref.point_id):
                stored = bytes(store.read(ref.domain, chunk_id).stored)
                seal = (chunk_id, stored[1:41])
                assert seal[1] not in {other for at, other in seen if at != chunk_id}
                seen.add(seal)
