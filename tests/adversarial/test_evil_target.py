"""A target that is not what it should be: the real service with one behaviour changed at a time.

In mode ``source`` it may delete and withhold. It must not read, alter, exchange or invent anything unnoticed, and
nothing it does may leave a wrong byte under a final name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import lz4.block
import msgspec
import pytest
import trio
from world import contents, small_tree

from pipeline.chunk import CODEC_LZ4
from protocol.messages import Chunk, HaveReply, Piece, Points, Stored
from transporter import errors
from transporter.errors import (
    CannotConnect,
    CorruptedPoint,
    DamagedData,
    JobFailed,
    LinkLost,
    MissingChunks,
    RefusedByPeer,
    TamperingDetected,
)
from transporter.events import FileSkipped, Note
from transporter.keys.chunk_id import ChunkIdKey
from transporter.link.broken import LinkBroken
from transporter.link.data_link import DataLink
from transporter.points.assemble import Place, PointFacts, assemble_plain
from transporter.repository import Repository
from transporter.repository.chunk_store import ChunkStore
from transporter.repository.point_head import decode_head, encode_head
from transporter.service import answers, recovery
from transporter.service.backup import BackupService
from transporter.service.reading import ChunkReader
from transporter.service.recovery import RecoveryService
from transporter.workloads.write_messages import Wish


def metadata_of(world, job="docs"):
    """The ids of the manifest's chunks of the newest point."""
    (*_, ref) = world.store().points(world.tenant(world.source), job)
    head = decode_head(world.store().read_head(ref.tenant, ref.job, ref.point_id))
    return {chunk_id for chunk_id, _ in head.manifest}


async def restored_without(world, missing, **how):
    """Restore; fail unless everything that is there is right, and only ``missing`` may be absent."""
    place = await world.source.restore(**how)
    original, found = contents(world.source.tree), contents(place)
    assert set(original) - set(found) <= missing
    assert all(original[name] == data for name, data in found.items())
    return found


def nothing_is_restored(world, output="out"):
    place = world.folder / f"office-{output}"
    assert not place.exists() or contents(place) == {}


# --- chunks ---------------------------------------------------------------------------------------------------


def serve_instead(monkeypatch, change, only=None):
    """Have the target serve ``change(record)`` for every chunk, or for those in ``only``."""
    original = recovery.as_stored

    def as_stored(record):
        header, stored = original(record)
        return change(header, bytes(stored)) if only is None or record.chunk_id in only else (header, stored)

    monkeypatch.setattr("transporter.service.starting.as_stored", as_stored)


def another_chunks_bytes(world):
    kept = {}

    def change(header, stored):
        kept[header.id] = (header, stored)
        other = next((pair for chunk_id, pair in kept.items() if chunk_id != header.id), (header, stored))
        return replace(header, codec=other[0].codec, plain_length=other[0].plain_length), other[1]

    return change


CHUNKS = {
    "a flipped bit": lambda header, stored: (header, stored[:-1] + bytes([stored[-1] ^ 1])),
    "cut": lambda header, stored: (header, stored[:-1]),
    "nearly nothing": lambda header, stored: (header, stored[:1]),
    "another length": lambda header, stored: (replace(header, plain_length=header.plain_length - 1), stored),
    "another codec": lambda header, stored: (replace(header, codec=1 - header.codec), stored),
    "plain, of its own making": lambda header, stored: (replace(header, codec=0, plain_length=4), b"\0evil"),
    "the key id of a stranger": lambda header, stored: (header, stored[:1] + bytes(32) + stored[33:]),
    "too long": lambda header, stored: (replace(header, plain_length=(4 << 20) + 1), stored),
}


@pytest.mark.parametrize("how", CHUNKS)
async def test_altered_content_chunks_are_found_and_their_files_left_out(world, monkeypatch, how):
    await world.source.backup()
    metadata = metadata_of(world)

    def change(header, stored):
        return (header, stored) if header.id in metadata else CHUNKS[how](header, stored)

    serve_instead(monkeypatch, change)
    with pytest.raises(DamagedData, match="damaged or missing"):
        await world.source.verify()
    with pytest.raises(DamagedData, match="nothing was restored"):
        await world.source.restore()
    nothing_is_restored(world)
    found = await restored_without(world, set(contents(world.source.tree)), wish=Wish(keep_going=True))
    assert found == {}
    assert world.source.seen(FileSkipped)


@pytest.mark.parametrize("how", CHUNKS)
async def test_an_altered_manifest_chunk_ends_the_restore(world, monkeypatch, how):
    await world.source.backup()
    serve_instead(monkeypatch, CHUNKS[how], metadata_of(world))
    for work in (world.source.verify, world.source.restore):
        with pytest.raises(DamagedData):
            await work()
    nothing_is_restored(world)


async def test_another_chunks_bytes_are_found(world, monkeypatch):
    """Bytes that the target really holds, of the same point, sealed under the same key."""
    small_tree(world.source.tree / "more", seed=3, size=3_000_000)
    await world.source.backup()
    serve_instead(monkeypatch, another_chunks_bytes(world))
    with pytest.raises(DamagedData):
        await world.source.verify()
    with pytest.raises(DamagedData):
        await world.source.restore()
    nothing_is_restored(world)


async def test_swapped_content_chunks_are_found(world, monkeypatch):
    small_tree(world.source.tree / "more", seed=3, size=6_000_000)
    await world.source.backup()
    metadata = metadata_of(world)
    store, domain = world.store(), None
    original = RecoveryService._read
    pairs = {}

    def read(self, chunk_id, without):
        nonlocal domain
        domain = self._session.domain
        record = original(self, chunk_id, without)
        if chunk_id in metadata:
            return record
        waiting = next((a for a, b in pairs.items() if b is None and a != chunk_id), None)
        if chunk_id not in pairs and waiting is None:
            pairs[chunk_id] = None
            return record
        if waiting is not None:
            pairs[waiting], pairs[chunk_id] = chunk_id, waiting
        other = store.read(domain, pairs[chunk_id] or chunk_id)
        return replace(other, chunk_id=chunk_id)

    monkeypatch.setattr(RecoveryService, "_read", read)
    with pytest.raises(DamagedData, match="damaged or missing"):
        await world.source.verify()


@pytest.mark.parametrize("job", ["none", "target"])
async def test_chunks_of_another_content_are_found_where_nobody_seals(world, monkeypatch, job):
    """The ids are keyed hashes of the content: even a target that may read cannot serve other content by mistake."""
    await world.source.backup(job)
    original = ChunkReader._load

    def load(self, request):
        item = original(self, request)
        item.memory[-1] ^= 1
        return item

    monkeypatch.setattr(ChunkReader, "_load", load)
    with pytest.raises(DamagedData):
        await world.source.verify(job)
    with pytest.raises(DamagedData):
        await world.source.restore(job)
    nothing_is_restored(world)


async def test_a_bomb_takes_no_memory(world, monkeypatch):
    """Where plain chunks are allowed: 64 MB in 256 KB, said to be 4 MiB long."""
    import tracemalloc

    await world.source.backup("none")
    bomb = lz4.block.compress(bytes(64 << 20), store_size=False)
    original = ChunkReader._load

    def load(self, request):
        item = original(self, request)
        memory = bytearray(128) + b"\0" + bomb
        return replace(item, header=Chunk(id=request.chunk_id, codec=CODEC_LZ4, plain_length=4 << 20), memory=memory)

    monkeypatch.setattr(ChunkReader, "_load", load)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedData):
            await world.source.verify("none")
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


async def test_a_chunk_nobody_asked_for_and_a_chunk_twice_change_nothing(world, monkeypatch):
    await world.source.backup()
    original = DataLink.send_chunk
    recovering = RecoveryService._send

    async def send(self, channel, sending):
        async def send_chunk(self, header, memory):
            for _ in range(2):
                await original(self, header, memory)
            await original(self, replace(header, id=b"x" * 32), memory)

        monkeypatch.setattr(DataLink, "send_chunk", send_chunk)
        await recovering(self, channel, sending)

    monkeypatch.setattr(RecoveryService, "_send", send)
    assert contents(await world.source.restore()) == contents(world.source.tree)


async def test_missing_for_chunks_that_came_changes_nothing_wrongly(world, monkeypatch):
    await world.source.backup()
    original = ChunkReader._load

    async def serve(self):
        async for request in self.requests:
            await self.outgoing.send(await self._lane.run(original, self, request))
            await self._missing(request.chunk_id, request.without, "missing")

    monkeypatch.setattr(ChunkReader, "serve", serve)
    try:
        found = contents(await world.source.restore())
    except DamagedData:
        nothing_is_restored(world)
    else:
        tree = contents(world.source.tree)
        assert all(tree[name] == data for name, data in found.items())


# --- HAVE, acknowledgements and commits -----------------------------------------------------------------------


async def test_a_lie_that_it_has_a_chunk_under_an_unknown_key_is_not_believed(world, monkeypatch):
    """Else every file would be taken for stored."""
    await world.source.backup()

    async def have(self, received):
        count = len(received.message.ids) // 32
        await self._session.link.send(HaveReply(batch=received.message.batch, known=b"\1" * count, key_ids=[b"x" * 32]))

    monkeypatch.setattr(BackupService, "_have", have)
    large = world.source.tree / "large"
    large.write_bytes(bytes(range(256)) * 4000)
    done = await world.source.backup()
    # Not all that was cut is new: a block of the file-system index can end, by chance, where nothing changed behind it.
    assert done.bytes_new >= large.stat().st_size
    monkeypatch.undo()
    assert contents(await world.source.restore()) == contents(world.source.tree)


async def test_a_lie_that_it_has_a_chunk_under_a_key_of_ours_shows_at_commit_or_at_verify(world, monkeypatch):
    await world.source.backup()
    (first,) = world.store().points(world.tenant(world.source), "docs")
    key_id = world.store().read(first.domain, next(iter(metadata_of(world)))).key_id

    async def have(self, received):
        count = len(received.message.ids) // 32
        await self._session.link.send(HaveReply(batch=received.message.batch, known=b"\1" * count, key_ids=[key_id]))

    monkeypatch.setattr(BackupService, "_have", have)
    (world.source.tree / "new").write_bytes(b"never stored" * 1000)
    with pytest.raises(MissingChunks):
        await world.source.backup()
    assert any("every file is read again" in note.text for note in world.source.seen(Note))
    assert len(world.store().points(world.tenant(world.source))) == 1, "nothing half-visible"

    # A target that commits it all the same holds a point that it cannot serve; verify says so.
    monkeypatch.setattr(ChunkStore, "require", lambda *_: None)
    await world.source.backup()
    with pytest.raises(DamagedData):
        await world.source.verify()
    with pytest.raises(DamagedData):
        await world.source.restore()
    nothing_is_restored(world)


async def test_a_target_that_says_it_lost_chunks_cannot_go_back_to_an_old_point_unnoticed(world, monkeypatch):
    await world.source.backup()
    (world.source.tree / "new").write_text("new")
    await world.source.backup()

    async def commit(_self, _received):
        raise MissingChunks("the target is evil", "and says so")

    points = Repository.points
    with monkeypatch.context() as evil:
        evil.setattr(BackupService, "_commit", commit)
        evil.setattr(Repository, "points", lambda self, tenant, job=None: points(self, tenant, job)[:1])
        with pytest.raises(MissingChunks):
            await world.source.backup()
        notes = [note.text for note in world.source.seen(Note) if "not the one this node committed last" in note.text]
        assert len(notes) == 2, "in the second run, too, it is told that the target's newest point is an old one"
        for work in (world.source.verify, world.source.restore):
            with pytest.raises(RefusedByPeer, match="as the newest restore point"):
                await work()
    nothing_is_restored(world)
    done = await world.source.backup()
    assert done.files_unchanged == done.files, "an honest target's newest point is still known"


@pytest.mark.parametrize("how", ["too short", "a key that is not in the list", "nothing asked", "of another batch"])
async def test_an_answer_that_does_not_fit_is_refused(world, monkeypatch, how):
    await world.source.backup()

    async def have(self, received):
        batch, count = received.message.batch, len(received.message.ids) // 32
        reply = {
            "too short": HaveReply(batch=batch, known=b"\0" * (count - 1), key_ids=[]),
            "a key that is not in the list": HaveReply(batch=batch, known=b"\7" * count, key_ids=[b"x" * 32]),
            "nothing asked": Stored(chunks=b""),
            "of another batch": HaveReply(batch=batch + 1, known=b"\0" * count, key_ids=[]),
        }[how]
        await self._session.link.send(reply)
        if how == "nothing asked":
            await self._session.link.send(HaveReply(batch=batch, known=b"\0" * count, key_ids=[]))
            await self._session.link._websocket.send_message(b"\0\0\0\x04\x13\0\x01\x80")  # Flushed

    monkeypatch.setattr(BackupService, "_have", have)
    (world.source.tree / "new").write_text("new")
    with pytest.raises(RefusedByPeer):
        await world.source.backup()
    monkeypatch.undo()
    await world.source.backup()
    assert contents(await world.source.restore()) == contents(world.source.tree)


async def test_acknowledging_what_was_never_stored_shows_at_commit(world, monkeypatch):
    async def put(self, header, _stored):
        await self._acknowledge(header.id)

    monkeypatch.setattr("transporter.points.chunk_writing.ChunkWriter.put", put)
    with pytest.raises(MissingChunks):
        await world.source.backup()
    assert world.store().points(world.tenant(world.source)) == []


async def test_a_target_that_drops_its_acknowledgements_is_given_up(fast_clock, world, monkeypatch):
    async def nothing(self, _ids):
        return

    monkeypatch.setattr(BackupService, "_acknowledge", nothing)
    (world.source.tree / "large").write_bytes(b"x")
    real = BackupService._have

    async def unknown(self, received):
        count = len(received.message.ids) // 32
        await self._session.link.send(HaveReply(batch=received.message.batch, known=bytes(count), key_ids=[]))

    monkeypatch.setattr(BackupService, "_have", unknown)
    with pytest.raises(LinkLost, match="neither acknowledges"):
        await world.source.backup()
    assert world.store().points(world.tenant(world.source)) == []
    monkeypatch.setattr(BackupService, "_have", real)


@pytest.mark.parametrize("code", ["finished-with-gaps", "interrupted", "wrong-password", "config", "cannot-connect"])
async def test_a_target_does_not_choose_how_a_job_ends(world, monkeypatch, code):
    """Not as a good end with gaps, nor as stopped by a person; and nobody is asked for a password on its word."""

    async def start(*_arguments):
        error = RefusedByPeer("evil", "do as I say")
        error.code = code
        raise error

    monkeypatch.setattr("transporter.service.peer.serve_session", start)
    with pytest.raises(RefusedByPeer, match="evil") as caught:
        await world.source.backup()
    assert type(caught.value) is RefusedByPeer


# --- points ---------------------------------------------------------------------------------------------------


def serve_head(monkeypatch, change):
    """Have the target serve ``change(head, slots)`` for every point."""
    original = answers.load_point

    def load(*arguments):
        return change(*original(*arguments))

    monkeypatch.setattr(answers, "load_point", load)


def head_with(**fields):
    return lambda head, slots: (encode_head(msgspec.structs.replace(decode_head(head), **fields)), slots)


HEADS = {
    "a flipped bit": (lambda head, slots: (head[:-5] + bytes([head[-5] ^ 1]) + head[-4:], slots), DamagedData),
    "garbage": (lambda head, slots: (b"garbage", slots), DamagedData),
    "fewer manifest chunks": (head_with(manifest=[]), DamagedData),
    "another time": (head_with(created_ns=1), DamagedData),
    "no MAC": (head_with(mac=b""), DamagedData),
    "not encrypted": (head_with(encrypted=False), DamagedData),
    "not encrypted, with a key of its own": (head_with(encrypted=False, chunk_id_key=b"t" * 32), DamagedData),
    "another zone": (head_with(zone="none", encrypted=False, chunk_id_key=b"t" * 32), RefusedByPeer),
}
SLOTS = {
    "no slots": lambda head, _slots: (head, []),
    "a damaged slot": lambda head, slots: (head, [slots[0][:-1] + b"\0"]),
    "a slot of nothing": lambda head, _slots: (head, [b""]),
}


@pytest.mark.parametrize("how", HEADS)
async def test_an_altered_point_is_refused(world, monkeypatch, how):
    await world.source.backup()
    change, error = HEADS[how]
    serve_head(monkeypatch, change)
    for work in (world.source.verify, world.source.restore):
        with pytest.raises(error):
            await work()
    nothing_is_restored(world)


@pytest.mark.parametrize("how", SLOTS)
async def test_a_point_robbed_of_its_slots_opens_at_most_by_the_key_that_its_node_kept(world, monkeypatch, how):
    await world.source.backup()
    (ref,) = world.store().points(world.tenant(world.source), "docs")
    serve_head(monkeypatch, SLOTS[how])
    # To verify is to prove that it would open without this node, too.
    with pytest.raises(CorruptedPoint):
        await world.source.verify()
    assert contents(await world.source.restore(output="kept")) == contents(world.source.tree)
    assert any("would be lost" in note.text for note in world.source.seen(Note))
    world.source.keys.drop_storage_key(ref.point_id)
    with pytest.raises(CorruptedPoint):
        await world.source.restore()
    nothing_is_restored(world)


async def test_a_plain_point_of_the_targets_making_is_refused_in_mode_source(world, monkeypatch):
    """It claims that the sealed job's newest point is plain, and serves files of its own making."""
    await world.source.backup()
    original = answers.point_rows

    def rows(*arguments):
        return [{**row, "zone": "none", "encrypted": False} for row in original(*arguments)]

    monkeypatch.setattr(answers, "point_rows", rows)
    with pytest.raises(RefusedByPeer, match="trust zone 'none', not 'source'"):
        await world.source.restore()
    monkeypatch.undo()

    def forge(head, _slots):
        real = decode_head(head)
        place = Place(real.tenant, real.job, bytes(16), real.point_id, real.domain, "source")
        facts = PointFacts(
            kind="full", created_ns=1, workload="tree", manifest=real.manifest, needs_hash=bytes(32), statistics={}
        )
        return assemble_plain(place, facts, ChunkIdKey(b"t" * 32)), []

    serve_head(monkeypatch, forge)
    with pytest.raises(DamagedData, match="not sealed, but its zone says it is"):
        await world.source.restore()
    nothing_is_restored(world)


async def test_the_next_run_does_not_build_upon_an_altered_parent(world, monkeypatch):
    """A forged parent must not lend its keys: the run begins anew, sealed under keys of its own."""
    await world.source.backup()
    serve_head(monkeypatch, HEADS["not encrypted, with a key of its own"][0])
    done = await world.source.backup()
    assert any("cannot be built upon" in note.text for note in world.source.seen(Note))
    assert done.files_unchanged == 0
    monkeypatch.undo()
    assert contents(await world.source.restore()) == contents(world.source.tree)
    (*_, ref) = world.store().points(world.tenant(world.source), "docs")
    assert decode_head(world.store().read_head(ref.tenant, ref.job, ref.point_id)).encrypted


async def test_an_old_point_served_as_the_latest_is_refused_and_may_be_named(world, monkeypatch):
    old = await world.source.backup()
    (world.source.tree / "new").write_text("new")
    await world.source.backup()
    original = answers.point_rows
    monkeypatch.setattr(answers, "point_rows", lambda *arguments: original(*arguments)[:1])
    for work in (world.source.verify, world.source.restore):
        with pytest.raises(RefusedByPeer, match="as the newest restore point"):
            await work()
    nothing_is_restored(world)
    place = await world.source.restore(point=old.point[:8])
    assert "new" not in contents(place)


async def test_an_old_point_under_the_id_of_the_newest_is_found(world, monkeypatch):
    await world.source.backup()
    (world.source.tree / "new").write_text("new")
    await world.source.backup()
    first = world.store().points(world.tenant(world.source), "docs")[0]
    original = answers.load_point

    def load(store, tenant, job, _point):
        return original(store, tenant, job, first.point_id)

    monkeypatch.setattr(answers, "load_point", load)
    with pytest.raises(DamagedData, match="not the restore point that was asked for"):
        await world.source.restore()
    nothing_is_restored(world)


@pytest.mark.parametrize("job", ["target", "none"])
async def test_another_point_is_noticed_in_every_zone(world, monkeypatch, job):
    await world.source.backup(job)
    await world.source.backup(job)
    first = world.store().points(world.tenant(world.source), job)[0]
    original = answers.load_point
    monkeypatch.setattr(answers, "load_point", lambda store, t, j, _p: original(store, t, j, first.point_id))
    with pytest.raises(DamagedData, match="not the restore point that was asked for"):
        await world.source.restore(job)


@pytest.mark.parametrize("job", ["docs", "none"])
@pytest.mark.parametrize("how", ["by its name", "under the name asked for", "in a head of the name asked for"])
async def test_a_point_of_another_job_is_refused(world, monkeypatch, job, how):
    """The same node's, sealed for the same person: nothing but the job tells it apart."""
    await world.source.backup(job)
    asked = {"source": "offsite/main", "zone": "source" if job == "docs" else "none"}
    rows, read_head = answers.point_rows, Repository.read_head

    def named(*arguments):
        return [row if how == "by its name" else {**row, "job": "letters"} for row in rows(*arguments)]

    def head_of(self, tenant, _job, point):
        head = read_head(self, tenant, job, point)
        return head if how != "in a head of the name asked for" else head_with(job="letters")(head, [])[0]

    points = Repository.points
    monkeypatch.setattr(Repository, "points", lambda self, tenant, _job=None: points(self, tenant, job))
    monkeypatch.setattr(answers, "point_rows", named)
    if how != "by its name":
        point = Repository.point
        monkeypatch.setattr(Repository, "read_head", head_of)
        monkeypatch.setattr(Repository, "point", lambda self, tenant, _job, known: point(self, tenant, job, known))
    for work in (world.source.verify, world.source.restore):
        with pytest.raises(RefusedByPeer if how == "by its name" else DamagedData):
            await work("letters", **asked)
    nothing_is_restored(world)


async def test_an_old_parent_makes_the_run_read_everything_and_nothing_worse(world, monkeypatch):
    await world.source.backup()
    await world.source.backup()
    original = type(world.store()).points

    def points(self, tenant, job=None):
        return original(self, tenant, job)[:1]

    monkeypatch.setattr(type(world.store()), "points", points)
    (world.source.tree / "new").write_text("new")
    done = await world.source.backup()
    assert done.files_unchanged == 0
    assert any("not the one this node committed last" in note.text for note in world.source.seen(Note))
    monkeypatch.undo()
    assert contents(await world.source.restore()) == contents(world.source.tree)


ROWS = {
    "garbage": b"\xc1garbage",
    "no list": b"\x80",
    "ill-typed": msgspec.msgpack.encode([{"point": 5}]),
    "a bomb of arrays": b"\x91" * 100_000 + b"\x90",
    "a claim of four thousand million rows": b"\xdd\xff\xff\xff\xff",
    "an impossible time": msgspec.msgpack.encode(
        [{"point": b"p", "job": "docs", "kind": "full", "created_ns": 2**63, "zone": "source", "encrypted": True}]
    ),
}


@pytest.mark.parametrize("what", ROWS)
async def test_a_list_of_points_that_is_none_is_refused(world, monkeypatch, what):
    async def answer(_provider, link, _peer, _message):
        await link.send(Points(more=False), ROWS[what])

    monkeypatch.setattr("transporter.service.peer.answer_list_points", answer)
    with pytest.raises(errors.TransporterError) as caught:
        await world.source.restore()
    assert caught.value.exit_status in (2, 5, 7)


async def test_a_list_of_points_without_end_is_not_read_for_ever(world, monkeypatch):
    row = {"point": b"p" * 16, "job": "docs", "kind": "full", "created_ns": 1, "zone": "source", "encrypted": True}
    page = msgspec.msgpack.encode([row] * 500)
    monkeypatch.setattr("transporter.jobs.points.ROWS_AT_MOST", 5_000)

    async def answer(_provider, link, _peer, _message):
        while True:
            await link.send(Points(more=True), page)

    monkeypatch.setattr("transporter.service.peer.answer_list_points", answer)
    with trio.fail_after(60), pytest.raises(RefusedByPeer, match="too many"):
        await world.source.restore()


async def test_a_list_of_points_that_goes_on_with_nothing_is_refused(world, monkeypatch):
    async def answer(_provider, link, _peer, _message):
        while True:
            await link.send(Points(more=True), msgspec.msgpack.encode([]))

    monkeypatch.setattr("transporter.service.peer.answer_list_points", answer)
    with trio.fail_after(10), pytest.raises(RefusedByPeer, match="without end"):
        await world.source.restore()


async def test_no_message_of_the_target_chooses_the_mode(world, monkeypatch):
    """Every Started it could send: the source seals under its own keys whatever it says."""
    from transporter.service import starting

    original = starting._work

    async def work(session, started, serve):
        lies = {"chunk_id_key": b"t" * 32, "domain": b"t" * 16, "tenant": "somebody", "repository_id": b"t" * 16}
        await original(session, replace(started, **lies), serve)

    monkeypatch.setattr(starting, "_work", work)
    marker = b"TOP SECRET MARKER" * 100
    (world.source.tree / "secret").write_bytes(marker)
    try:
        await world.source.backup()
    except errors.TransporterError:
        pass
    stored = b"".join(path.read_bytes() for path in world.store().path.rglob("*") if path.is_file())
    assert stored
    assert marker[:17] not in stored
    assert ChunkIdKey(b"t" * 32).id_of(marker) not in stored, "no id under a key that the target knows"


# --- frames, silence, cuts ------------------------------------------------------------------------------------


async def test_a_huge_frame_on_a_data_channel_is_tampering(world, monkeypatch):
    await world.source.backup()

    async def send(self, channel, sending):
        await channel._carrier.send_all(b"\x7f\xff\xff\xff" + bytes(100))
        await trio.sleep_forever()

    monkeypatch.setattr(RecoveryService, "_send", send)
    with pytest.raises(TamperingDetected, match="tampered with"):
        await world.source.restore()
    nothing_is_restored(world)


async def test_a_huge_message_on_the_control_connection_is_refused(world, monkeypatch):
    async def answer(_provider, link, _peer, _message):
        await link._websocket.send_message(bytes(20 << 20))

    monkeypatch.setattr("transporter.service.peer.answer_list_points", answer)
    with pytest.raises((RefusedByPeer, CannotConnect)):
        await world.source.restore()


@pytest.mark.parametrize("garbage", [b"\0" * 200, b"\xff" * 5000], ids=["zeros", "ones"])
async def test_garbage_on_a_data_channel_is_tampering(world, monkeypatch, garbage):
    await world.source.backup()

    async def send(self, channel, sending):
        await channel._carrier.send_all(garbage)
        await trio.sleep_forever()

    monkeypatch.setattr(RecoveryService, "_send", send)
    with pytest.raises(TamperingDetected):
        await world.source.verify()


@pytest.mark.parametrize("job", ["docs", "target", "none", "rest"])
async def test_a_target_that_closes_after_a_few_frames_is_redialled(world, monkeypatch, job):
    """Each session seals with keys of its own where the target seals: the point must hold all of them."""
    original = DataLink.receive
    counts = Counter()

    async def receive(self):
        event = await original(self)
        if self._channel.role == "acceptor" and isinstance(event.message, Chunk):
            counts["frames"] += 1
            if counts["frames"] in (4, 9, 15):
                raise LinkBroken("evil")
        return event

    monkeypatch.setattr(DataLink, "receive", receive)
    # However busy the machine is, its loopback counts as a short line, on which chunks come whole.
    monkeypatch.setattr("transporter.link.open_session.SHORT_LINE_SECONDS", 60.0)
    for number in range(5):
        small_tree(world.source.tree / f"more-{number}", seed=number, size=3_000_000)
    done = await world.source.backup(job)
    assert done.redials >= 2
    monkeypatch.undo()
    await world.source.verify(job)
    assert contents(await world.source.restore(job)) == contents(world.source.tree)


async def test_a_target_that_always_closes_is_given_up(fast_clock, world, monkeypatch):
    original = DataLink.receive

    async def receive(self):
        event = await original(self)
        if self._channel.role == "acceptor" and isinstance(event.message, Chunk | Piece):
            raise LinkBroken("evil")
        return event

    monkeypatch.setattr(DataLink, "receive", receive)
    with pytest.raises(LinkLost):
        await world.source.backup()
    assert world.store().points(world.tenant(world.source)) == []


async def never(*_arguments):
    await trio.sleep_forever()


SILENCE = {
    "a Hello": ("transporter.link.control_link._hello", CannotConnect),
    "a session": ("transporter.service.peer.serve_session", CannotConnect),
    "which chunks it has": ("transporter.service.backup.BackupService._have", LinkLost),
    "a commit": ("transporter.service.backup.BackupService._commit", LinkLost),
    "the parent": ("transporter.service.session.answer_get_point", LinkLost),
    "a data channel": ("transporter.service.session.ServiceSession.attach", CannotConnect),
}


@pytest.mark.parametrize("what", SILENCE)
async def test_a_target_that_never_answers_is_given_up(fast_clock, world, monkeypatch, what):
    """Its heartbeat beats; it only never does its part."""
    if what != "a Hello":
        await world.source.backup()
    (world.source.tree / "new").write_text("new")
    where, error = SILENCE[what]
    monkeypatch.setattr(where, never)
    # Else the session's beginning brings the parent along, and nobody asks for it.
    monkeypatch.setattr("transporter.service.starting._head_along", lambda *_: (b"", []))
    began = trio.current_time()
    with pytest.raises(error):
        await world.source.backup()
    assert trio.current_time() - began < 3600
    monkeypatch.undo()


@pytest.mark.parametrize("what", ["a list of points", "a point", "a chunk"])
async def test_a_target_that_never_serves_is_given_up(fast_clock, world, monkeypatch, what):
    await world.source.backup()
    where = {
        "a list of points": "transporter.service.peer.answer_list_points",
        "a point": "transporter.service.session.answer_get_point",
        "a chunk": "transporter.service.reading.ChunkReader.serve",
    }[what]
    monkeypatch.setattr(where, never)
    with pytest.raises(CannotConnect if what == "a list of points" else LinkLost):
        await world.source.restore()
    nothing_is_restored(world)


async def test_an_internal_error_of_the_target_is_told_and_not_retried(world, monkeypatch):
    async def fault(self, _received):
        raise ZeroDivisionError

    await world.source.backup()
    monkeypatch.setattr(BackupService, "_have", fault)
    (world.source.tree / "new").write_text("new")
    with pytest.raises(JobFailed, match="internal error"):
        await world.source.backup()
    monkeypatch.undo()
    await world.source.backup()


async def test_a_target_that_alters_what_it_seals_for_the_wire_is_named_by_a_security_event(world, monkeypatch):
    """Its frames fail their tag: the source says whose they are, and does not try again."""
    await world.source.backup()
    original = DataLink._send_all
    sent = Counter()

    async def send_all(self, data):
        if self._channel.role == "acceptor" and len(data) > 1000:
            sent["frames"] += 1
            data = bytes(data[:-1]) + bytes([data[-1] ^ 1])
        await original(self, data)

    monkeypatch.setattr(DataLink, "_send_all", send_all)
    with pytest.raises(TamperingDetected, match="offsite"):
        await world.source.restore()
    assert 1 <= sent["frames"] <= 8
    nothing_is_restored(world)
