"""Plain points that the target of a copy seals, at a peer, under a password of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from copy_world import contents, local_repository, open_copy_world
from msgspec import structs
from world import small_tree

from protocol.messages import CommitCopy
from transporter.errors import DamagedData, RefusedByPeer, TransporterError, UnknownPassword, UsageError
from transporter.jobs import copy_there
from transporter.jobs.copy_here import SourceHere
from transporter.jobs.copy_there import SourceThere
from transporter.jobs.drill import drill
from transporter.link.broken import LinkBroken
from transporter.repository import PLAIN_KEY
from transporter.repository.point_head import decode_head
from transporter.service import copying_sealed, starting
from transporter.service.copying_sealed import CopySealService

WAY = ("offsite/main", "second/main")


def points(world, job="none"):
    return world.there().points(world.tenant(world.source), job)


async def copy(world, *way, jobs=("none",), password="vault", **how):
    return await world.copy(world.source, *(way or WAY), jobs=jobs, seal="target", password=password, **how)


def check_sealed(world, job="none"):
    store = world.there()
    for ref in points(world, job):
        head = decode_head(store.read_head(ref.tenant, job, ref.point_id))
        assert head.encrypted and head.zone == "target" and not head.chunk_id_key and ref.origin.resealed
        assert store.slots(ref.point_id)
        for chunk_id in store.read_needs(ref.tenant, job, ref.point_id):
            (keys,) = store.have(ref.domain, [chunk_id])
            assert keys and PLAIN_KEY not in keys
    assert store.scrub().clean


async def restored(world, output="back", **how):
    place = await world.source.restore("none", source="second/main", zone="target", output=output, **how)
    return contents(place)


async def test_what_was_plain_is_sealed_at_the_target_and_restored_from_it(world):
    await world.source.backup("none")
    done = await copy(world)
    assert done.points == 1 and done.chunks_new > 0
    check_sealed(world)
    (original,) = world.one.store().points(world.tenant(world.source), "none")
    (ref,) = points(world)
    assert (ref.origin.hash, ref.committed_ns) == (original.hash, original.committed_ns)
    assert await restored(world) == contents(world.source.tree)
    await world.source.verify("none", source="second/main", zone="target")
    # The plain text is nowhere on its disk.
    text = (world.source.tree / "sub" / "file-1").read_bytes()[:200]
    disk = [path.read_bytes() for path in world.there().path.rglob("*") if path.is_file()]
    assert disk and not any(text in each for each in disk)
    again = await copy(world)
    assert (again.points, again.chunks_new) == (0, 0)


async def test_from_a_repository_of_this_node_and_metadata_under_keys_of_its_own(world):
    await world.source.backup("none")
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here", jobs=("none",))
        await copy(world, "here", "second/main")
    check_sealed(world)
    assert await restored(world) == contents(world.source.tree)
    store, (ref,) = world.there(), points(world)
    head = decode_head(store.read_head(ref.tenant, "none", ref.point_id))
    fsi = {chunk_id for chunk_id, _ in head.fsi}
    manifest = {chunk_id for chunk_id, _ in head.manifest}
    kinds = {"fsi": set(), "manifest": set(), "data": set()}
    for chunk_id in store.read_needs(ref.tenant, "none", ref.point_id):
        kind = "fsi" if chunk_id in fsi else "manifest" if chunk_id in manifest else "data"
        kinds[kind].update(store.have(ref.domain, [chunk_id])[0])
    assert all(len(keys) == 1 for keys in kinds.values()) and len(set.union(*kinds.values())) == 3


async def test_the_next_copy_uses_what_was_sealed_before(world):
    small_tree(world.source.tree / "more", size=6_000_000)
    await world.source.backup("none")
    first = await copy(world)
    (world.source.tree / "sub" / "file-0").write_text("changed")
    await world.source.backup("none")
    second = await copy(world)
    assert second.points == 1 and second.chunks_new < first.chunks_new
    check_sealed(world)
    for ref in points(world):
        await world.source.verify("none", point=ref.point_id.hex(), source="second/main", zone="target")
    assert await restored(world) == contents(world.source.tree)


async def test_several_points_in_one_session_and_sealed_ones_go_as_they_are(world):
    for number in range(3):
        (world.source.tree / "new").write_text(str(number))
        await world.source.backup("none")
    await world.source.backup("docs")
    done = await copy(world, jobs=("none", "docs"))
    assert done.points == 4
    check_sealed(world)
    assert [ref.origin.resealed for ref in points(world, "docs")] == [False]
    for number, ref in enumerate(points(world)):
        back = await restored(world, output=f"back-{number}", point=ref.point_id.hex())
        assert back["new"] if "new" in back else any(name.endswith("new") for name in back)
    await world.source.verify("docs", source="second/main")


async def test_what_an_interrupted_session_stored_is_used(world, monkeypatch):
    small_tree(world.source.tree / "more", size=3_000_000)
    await world.source.backup("none")
    really, calls = CopySealService._commit, 0

    async def broken(self, received):
        nonlocal calls
        calls += 1
        if calls == 1:
            raise LinkBroken("cut by the test")
        return await really(self, received)

    monkeypatch.setattr(CopySealService, "_commit", broken)
    done = await copy(world)
    assert done.points == 1 and done.redials == 1
    # Of the second attempt nothing had to be sent again.
    stored = sum(1 for _ in world.there().read_needs(world.tenant(world.source), "none", points(world)[0].point_id))
    assert done.chunks_new == stored
    check_sealed(world)
    assert await restored(world) == contents(world.source.tree)


async def test_the_target_opens_it_by_its_password_and_looks_into_it_where_it_lies(world):
    await world.source.backup("none")
    await copy(world)
    report = await drill(world.second.context)
    assert (report.points, report.closed) == (1, [])
    place = await world.second.restore("none", source="main", output="back")
    assert contents(place) == contents(world.source.tree)


async def test_the_keys_of_a_session_are_forgotten_once_its_points_are_there(world):
    await world.source.backup("none")
    await copy(world)
    (ref,) = points(world)
    label = f"/copied/{ref.tenant}/none/{ref.domain.hex()}"
    assert not world.second.keys.runs(label)


async def test_a_repository_that_is_encrypted_at_rest_needs_no_password_named():
    async with open_copy_world(encrypted=True) as world:
        opened = world.second_provider.repositories["main"]
        settings = structs.replace(opened.config, encrypt_at_rest="vault")
        world.second_provider.repositories["main"] = replace(opened, config=settings)
        await world.source.backup("none")
        with pytest.raises(TransporterError, match="encrypted at rest"):
            await world.copy(world.source, *WAY, jobs=("none",))
        await copy(world, password="")
        check_sealed(world)
        assert await restored(world) == contents(world.source.tree)


async def test_a_password_that_the_target_does_not_have_or_none_at_all(world):
    await world.source.backup("none")
    with pytest.raises(UnknownPassword):
        await copy(world, password="office-only")
    with pytest.raises(RefusedByPeer, match="no password to seal under"):
        await copy(world, password="")
    assert world.there().tenants() == []


async def test_a_target_that_cannot_seal_gets_nothing(world, monkeypatch):
    """An older one does not know the purpose: it refuses, and does not store what is plain."""
    await world.source.backup("none")
    monkeypatch.delitem(starting._SERVED, "copy-seal")
    with pytest.raises(Exception):  # noqa: B017 - however it says no
        await copy(world)
    assert world.there().tenants() == []


async def test_a_target_of_this_node_seals_on_the_way(world):
    await world.source.backup("none")
    with local_repository(world.source), pytest.raises(UsageError, match="seals on the way"):
        await copy(world, "offsite/main", "here")


@pytest.mark.parametrize("end", [SourceThere, SourceHere])
async def test_a_plain_chunk_that_is_not_what_its_id_names_is_not_sent_to_be_sealed(world, end, monkeypatch):
    await world.source.backup("none")
    really = end.fetch

    async def fetch(self, domain, forms, take, lost):
        async def altered(chunk):
            stored = bytearray(chunk.record.stored)
            stored[-1] ^= 1
            record = replace(chunk.record, codec=0, plain_length=len(stored) - 1, stored=bytes(stored))
            await take(type(chunk)(record))

        await really(self, domain, forms, altered, lost)

    monkeypatch.setattr(end, "fetch", fetch)
    way = WAY
    with local_repository(world.source):
        if end is SourceHere:
            monkeypatch.setattr(end, "fetch", really)
            await world.copy(world.source, "offsite/main", "here", jobs=("none",))
            monkeypatch.setattr(end, "fetch", fetch)
            way = ("here", "second/main")
        with pytest.raises(DamagedData, match="is not the one that its id names"):
            await copy(world, *way)
    assert points(world) == []


async def test_what_does_not_come_back_as_it_was_sent_is_not_committed(world, monkeypatch):
    """The target reads back what it sealed, and opens it: a digest is of what lies on its disk."""
    await world.source.backup("none")
    really = CopySealService._to_record

    def to_record(self, header, stored):
        return really(self, replace(header, codec=0, plain_length=3), memoryview(b"\0abc"))

    monkeypatch.setattr(CopySealService, "_to_record", to_record)
    with pytest.raises(DamagedData, match="says that it stored"):
        await copy(world)
    assert points(world) == []


@pytest.mark.parametrize("field", ["hash", "tenant", "committed_ns", "repository_id", "point"])
async def test_a_point_is_sealed_as_what_it_was_or_not_at_all(world, field, monkeypatch):
    await world.source.backup("none")

    def lying(*values):
        message = CommitCopy(*values)
        was = getattr(message, field)
        other = was + 1 if isinstance(was, int) else was + "x" if isinstance(was, str) else bytes(len(was))
        return replace(message, **{field: other})

    monkeypatch.setattr(copy_there, "CommitCopy", lying)
    with pytest.raises((DamagedData, RefusedByPeer)):
        await copy(world)
    assert points(world) == []


async def test_a_sealed_point_is_not_taken_for_a_plain_one(world, monkeypatch):
    """A conductor that sends what is sealed already gets a refusal, not a point that says it was sealed here."""
    await world.source.backup("none")
    (ref,) = world.one.store().points(world.tenant(world.source), "none")
    raw = decode_head(world.one.store().read_head(ref.tenant, "none", ref.point_id))
    assert not raw.encrypted
    really = copying_sealed.decode_head
    monkeypatch.setattr(copying_sealed, "decode_head", lambda data: structs.replace(really(data), encrypted=True))
    with pytest.raises(RefusedByPeer, match="only a restore point that is not sealed"):
        await copy(world)
    assert points(world) == []
