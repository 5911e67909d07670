"""A target that is not what it should be, looked into: no byte that is not proven is ever handed on."""

from __future__ import annotations

import os
from dataclasses import replace

import msgspec
import pytest
import trio
import trio.testing

from transporter.errors import DamagedData, RefusedByPeer, TransporterError
from transporter.events import FileContent, Listing, Note
from transporter.jobs import mount_silence
from transporter.jobs.cat_file import CatOrder, cat
from transporter.jobs.chunk_cache import ChunkCache
from transporter.jobs.diff_points import DiffOrder, diff
from transporter.jobs.find_in_point import FindOrder, find
from transporter.jobs.kept_point import KeptPoint
from transporter.jobs.list_point import ListOrder, list_entries
from transporter.jobs.mount_silence import Away, Silence
from transporter.jobs.mounted_file import MountedFile
from transporter.jobs.point_order import PointOrder
from transporter.repository import ChunkMissing, PointRef
from transporter.repository import points as point_files
from transporter.repository.layout import Layout
from transporter.repository.point_head import decode_head, encode_head
from transporter.service import answers, recovery
from transporter.service.reading import ChunkReader
from transporter.service.recovery import RecoveryService
from transporter.workloads.fsi_query import Query

DOCS = PointOrder("docs")
CHUNKS = {
    "a flipped bit": lambda header, stored: (header, stored[:-1] + bytes([stored[-1] ^ 1])),
    "cut": lambda header, stored: (header, stored[:-1]),
    "another length": lambda header, stored: (replace(header, plain_length=header.plain_length - 1), stored),
    "plain, of its own making": lambda header, stored: (replace(header, codec=0, plain_length=4), b"\0evil"),
    "the key id of a stranger": lambda header, stored: (header, stored[:1] + bytes(32) + stored[33:]),
}


def heads(world, job="docs"):
    store, tenant = world.store(), world.tenant(world.source)
    return [decode_head(store.read_head(tenant, job, ref.point_id)) for ref in store.points(tenant, job)]


def serve_instead(monkeypatch, change, only):
    """Have the target serve ``change`` of the chunks that ``only`` accepts."""
    original = recovery.as_stored

    def as_stored(record):
        header, stored = original(record)
        return change(header, bytes(stored)) if only(record.chunk_id) else (header, stored)

    monkeypatch.setattr("transporter.service.starting.as_stored", as_stored)


def of_metadata(world):
    (*_, head) = heads(world)
    return {chunk_id for chunk_id, _ in (*head.manifest, *head.fsi)}


async def contents_before(world, work):
    """What was handed on of a file before its reading ended in an error."""
    before = len(world.source.seen(FileContent))
    with pytest.raises(DamagedData):
        await work
    return b"".join(event.data for event in world.source.seen(FileContent)[before:])


@pytest.mark.parametrize("how", CHUNKS)
async def test_of_an_altered_chunk_no_byte_is_handed_on(world, monkeypatch, how):
    data = os.urandom(6_000_000)
    (world.source.tree / "large").write_bytes(data)
    await world.source.backup()
    metadata, served = of_metadata(world), []

    def second(chunk_id):
        if chunk_id not in metadata and chunk_id not in served:
            served.append(chunk_id)
        return chunk_id in served[1:]

    serve_instead(monkeypatch, CHUNKS[how], second)
    seen = await contents_before(world, cat(world.source.context, CatOrder(DOCS, b"large")))
    assert len(seen) < len(data) and data.startswith(seen)


@pytest.mark.parametrize("how", CHUNKS)
async def test_an_altered_manifest_or_index_shows_nothing(world, monkeypatch, how):
    await world.source.backup()
    metadata = of_metadata(world)
    serve_instead(monkeypatch, CHUNKS[how], lambda chunk_id: chunk_id in metadata)
    context = world.source.context
    for work in (
        lambda: list_entries(context, ListOrder(DOCS)),
        lambda: find(context, FindOrder(DOCS, [Query("*")])),
        lambda: diff(context, DiffOrder(DOCS, "latest")),
        lambda: cat(context, CatOrder(DOCS, b"large")),
    ):
        with pytest.raises(DamagedData):
            await work()
    assert not world.source.seen(Listing) and not world.source.seen(FileContent)


async def test_chunks_that_changed_places_are_found(world, monkeypatch):
    """Bytes that the target really holds, of the same file, sealed under the same key."""
    data = os.urandom(9_000_000)
    (world.source.tree / "large").write_bytes(data)
    await world.source.backup()
    metadata, last = of_metadata(world), []

    def read(self, chunk_id, without):
        record = original(self, chunk_id, without)
        if chunk_id in metadata:
            return record
        other = last[0] if last else record
        last[:] = [record]
        return replace(other, chunk_id=chunk_id)

    original = RecoveryService._read
    monkeypatch.setattr(RecoveryService, "_read", read)
    seen = await contents_before(world, cat(world.source.context, CatOrder(DOCS, b"large")))
    assert data.startswith(seen)


async def test_a_chunk_that_is_gone_is_named(world, monkeypatch):
    await world.source.backup()
    metadata = of_metadata(world)
    original = ChunkReader._load

    def load(self, request):
        if request.chunk_id not in metadata:
            raise ChunkMissing("gone")
        return original(self, request)

    monkeypatch.setattr(ChunkReader, "_load", load)
    with pytest.raises(DamagedData, match="missing at the target"):
        await cat(world.source.context, CatOrder(DOCS, b"large"))


async def test_another_point_is_not_taken_for_the_one_that_was_asked_for(world, monkeypatch):
    for run in range(2):
        (world.source.tree / "run").write_text(str(run))
        await world.source.backup()
    first, second = (head.point_id for head in heads(world))
    original = answers.load_point
    monkeypatch.setattr(
        answers,
        "load_point",
        lambda store, tenant, job, point: original(store, tenant, job, {first: second}.get(point, first)),
    )
    for point in (first, second):
        with pytest.raises(DamagedData, match="not the restore point that was asked for"):
            await list_entries(world.source.context, ListOrder(replace(DOCS, point=point.hex())))


async def test_an_older_point_shown_as_the_newest_is_refused(world, monkeypatch):
    for run in range(2):
        (world.source.tree / "run").write_text(str(run))
        await world.source.backup()
    rows = answers.point_rows
    monkeypatch.setattr(answers, "point_rows", lambda store, refs: rows(store, refs[:1]))
    for order in (DOCS, replace(DOCS, point=heads(world)[0].point_id.hex(), as_latest=True)):
        with pytest.raises(RefusedByPeer, match="committed"):
            await cat(world.source.context, CatOrder(order, b"run"))


# --- what a mount keeps open ------------------------------------------------------------------------------------------


class Kept:
    """A point that is kept at hand, as a mount does it."""

    def __init__(self, world, nursery, job="docs"):
        self.point = KeptPoint(world.source.context, PointOrder(job), ChunkCache(), Silence())
        nursery.start_soon(self.point.run)

    async def file(self, path):
        tree = await self.point.tree()
        number = tree.find(path)
        return MountedFile(self.point, tree, number), tree.entry(number).size


async def test_a_damaged_chunk_is_an_error_each_time_and_others_are_read(world, monkeypatch):
    (world.source.tree / "large").write_bytes(os.urandom(5_000_000))
    await world.source.backup()
    broken = []
    serve_instead(monkeypatch, CHUNKS["a flipped bit"], lambda chunk_id: chunk_id in broken)
    data = (world.source.tree / "large").read_bytes()
    async with trio.open_nursery() as nursery:
        kept = Kept(world, nursery)
        file, size = await kept.file(b"large")
        tree = await kept.point.tree()
        broken.append(next(tree.entry(tree.find(b"large")).chunk_ids()))
        for _ in range(2):
            with pytest.raises(DamagedData):
                await file.read(0, 10)
        assert bytes(await file.read(size - 10, 10)) == data[-10:]
        nursery.cancel_scope.cancel()


async def test_another_point_under_the_same_id_is_refused_when_the_session_is_opened_again(world):
    """Where nobody seals, a target could make one. What was read of the true one is still in use."""
    await world.source.backup("none")
    async with trio.open_nursery() as nursery:
        kept = Kept(world, nursery, "none")
        file, _size = await kept.file(b"large")
        kept.point.let_go()
        while kept.point._recovery is not None:
            await trio.sleep(0.01)
        store, tenant = world.store(), world.tenant(world.source)
        (ref,) = store.points(tenant, "none")
        head = decode_head(store.read_head(tenant, "none", ref.point_id))
        other = msgspec.structs.replace(head, created_ns=head.created_ns + 1)
        fresh = PointRef(tenant, "none", ref.point_id, ref.domain, ref.committed_ns, 0, b"")
        needs = list(store.read_needs(tenant, "none", ref.point_id))
        parts = point_files.point_parts(store.repository_id, fresh, encode_head(other), needs)
        Layout(store.path).point(tenant, "none", ref.point_id).write_bytes(b"".join(parts))
        with pytest.raises(TransporterError, match="another restore point under the same id"):
            await file.read(0, 10)
        assert any("cannot be read now" in event.text for event in world.source.seen(Note))
        nursery.cancel_scope.cancel()


async def test_a_target_that_is_silent_is_an_error_after_a_bounded_time(world, monkeypatch):
    await world.source.backup()
    metadata = of_metadata(world)
    monkeypatch.setattr(mount_silence, "ANSWER_SECONDS", 0.2)

    async def serve(self):
        async for request in self.requests:
            if request.chunk_id in metadata:
                await self.outgoing.send(await self._lane.run(self._load, request))

    monkeypatch.setattr(ChunkReader, "serve", serve)
    async with trio.open_nursery() as nursery:
        kept = Kept(world, nursery)
        with trio.fail_after(20):
            while True:
                try:
                    file, _size = await kept.file(b"large")
                    break
                except Away:
                    continue
            with pytest.raises(Away):
                await file.read(0, 10)
        nursery.cancel_scope.cancel()
