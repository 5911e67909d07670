"""What is lost at the target, set aside by scrub and sent again: who is whole after that, and who says who is not."""

from __future__ import annotations

import shutil

import pytest
import trio
from msgspec import structs
from world import contents

from transporter.clock import SystemClock
from transporter.errors import DamagedData
from transporter.events import DamageFound, EventBus, FileSkipped, RangeLost
from transporter.jobs.scrub import Scrub, ScrubOrder
from transporter.repository import Repository
from transporter.workloads.write_messages import Wish


def lose_the_longest_chunk(world, job=None):
    """Flip a bit in it and heal; return its id."""
    store = world.store()
    (ref,) = store.points(world.tenant(world.source), job)
    ids = list(store.read_needs(ref.tenant, ref.job, ref.point_id))
    longest = max(ids, key=lambda chunk_id: store.read(ref.domain, chunk_id).plain_length)
    (place,) = store._index.locate(ref.domain, [longest])
    path = store.path / "packs" / place.pack.hex()[:2] / place.pack.hex()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(place.entry.offset + 200)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    assert store.heal(store.scrub().damaged_packs).lost == 1
    return longest


@pytest.mark.parametrize("job", ["docs", "target", "none"])
async def test_scrub_names_the_points_until_a_run_has_sent_the_chunk_and_verify_from_then_on(world, job):
    old = await world.source.backup(job)
    lost = lose_the_longest_chunk(world)
    (finding,) = world.store().scrub().damage
    assert old.point in finding.where and "1 chunks that it needs are not in the index" in finding.what
    new = await world.source.backup(job)
    assert world.store().scrub().clean, "which keys a point has is sealed: without them nobody can tell"
    await world.source.verify(job, new.point)
    assert contents(await world.source.restore(job, new.point, "new")) == contents(world.source.tree)

    world.source.events.clear()
    if job != "target":
        # Of zone source: the run sealed it once more, bit for bit as it was.
        await world.source.verify(job, old.point)
    else:
        with pytest.raises(DamagedData, match=f"1 chunks of restore point {old.point[:8]}"):
            await world.source.verify(job, old.point)
        damage, *in_files = world.source.seen(DamageFound)
        assert lost.hex()[:16] in damage.where
        # Small files share a chunk with others: all of them are named.
        names = {path.name for path in world.source.tree.rglob("*") if path.is_file()}
        assert {event.where.rpartition("/")[2] for event in in_files} == names
        assert {event.point for event in in_files} == {old.point}
        assert all("1 of its chunks" in event.what for event in in_files)


async def test_a_copy_makes_older_points_whole_whatever_they_are_sealed_under(world, tmp_path):
    """The source has sent the chunk again since, under another key: only the copy has what the older points need."""
    for job in ("docs", "target", "none"):
        old = await world.source.backup(job)
        copy = shutil.copytree(world.store().path, tmp_path / job)
        lose_the_longest_chunk(world, job)
        await world.source.backup(job)
        assert len(list(world.store().lost_chunks())) == (job == "target")
        with Repository.open(copy, SystemClock(), writable=False) as other:
            outcome = await Scrub(ScrubOrder("main", heal=True), world.store(), SystemClock(), EventBus(), other).run()
        assert (outcome.left, outcome.supplied.chunks) == (0, job == "target")
        await world.source.verify(job, old.point)
        assert list(world.store().lost_chunks()) == []


@pytest.mark.parametrize("job", ["docs", "target", "none"])
async def test_an_old_point_is_restored_without_what_it_lacks_and_with_all_else(world, job):
    (world.source.tree / "huge").write_bytes(bytes(range(256)) * 40_000)
    old = await world.source.backup(job)
    lose_the_longest_chunk(world)
    await world.source.backup(job)
    world.source.events.clear()
    # In zone source the next run has sealed what was lost once more, bit for bit.
    if job == "target":
        with pytest.raises(DamagedData, match="nothing was restored"):
            await world.source.restore(job, old.point)
        assert not (world.folder / "office-out").exists()
    found = contents(await world.source.restore(job, old.point, wish=Wish(keep_going=True)))
    whole = contents(world.source.tree)
    if job == "target":
        del whole["huge"]
    assert found == whole
    skipped = [event.path.rpartition("/")[2] for event in world.source.seen(FileSkipped)]
    assert skipped == (["huge"] if job == "target" else [])
    if job != "target":
        return
    # What is left of it, under another name: holes where the lost ranges are, and everything else.
    lost = [(event.offset, event.length) for event in world.source.seen(RangeLost)]
    out = await world.source.restore(job, old.point, "partial", wish=Wish(keep_going=True, partial=True))
    left = bytearray((world.source.tree / "huge").read_bytes())
    for offset, length in lost:
        left[offset : offset + length] = bytes(length)
    assert not (out / "huge").exists()
    assert (out / "huge.transporter-partial").read_bytes() == left
    assert 0 < sum(length for _, length in lost) < len(left)


@pytest.mark.parametrize("job", ["docs", "none"])
async def test_whatever_chunk_is_damaged_verify_ends_and_says_so(world, job):
    """Content, manifest or index: each in turn."""
    done = await world.source.backup(job)
    store = world.store()
    (ref,) = store.points(world.tenant(world.source))
    ids = list(store.read_needs(ref.tenant, ref.job, ref.point_id))
    assert len(ids) >= 3
    for chunk_id in ids:
        (place,) = store._index.locate(ref.domain, [chunk_id])
        path = store.path / "packs" / place.pack.hex()[:2] / place.pack.hex()
        path.chmod(0o600)
        raw = path.read_bytes()
        at = place.entry.offset + 150
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with trio.fail_after(60):
            with pytest.raises(DamagedData):
                await world.source.verify(job, done.point)
        path.write_bytes(raw)
    await world.source.verify(job, done.point)


@pytest.mark.parametrize("lie", ["counter", "tag", "codec", "key"])
async def test_a_target_that_lies_about_what_it_lost_gets_nothing_under_an_old_key(world, lie, monkeypatch):
    old = await world.source.backup("docs")
    lose_the_longest_chunk(world)
    told = world.store().lost_chunks

    def lies(domain=None):
        for tenant, chunk in told(domain):
            head = bytearray(chunk.head)
            if lie == "counter":
                head[40] ^= 1
            elif lie == "key":
                head[1:33] = bytes(32)
            changes = {"tag": {"tail": bytes(16)}, "codec": {"codec": (chunk.codec + 1) % 3}}.get(lie, {})
            yield tenant, chunk._replace(head=bytes(head), **changes)

    monkeypatch.setattr(world.store(), "lost_chunks", lies)
    new = await world.source.backup("docs")
    monkeypatch.undo()
    ((_tenant, lost),) = world.store().lost_chunks()
    assert world.store().have(lost.domain, [lost.chunk_id])[0] not in ((), (lost.key_id,))
    await world.source.verify("docs", new.point)
    with pytest.raises(DamagedData):
        await world.source.verify("docs", old.point)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
async def test_what_was_packed_by_any_codec_is_made_again(world, compression):
    (world.source.tree / "text").write_bytes(b"".join(b"%d lines of text\n" % (n * n) for n in range(60_000)))
    job = structs.replace(world.source.config.jobs["docs"], compression=compression)
    world.source.config = structs.replace(world.source.config, jobs={**world.source.config.jobs, "docs": job})
    old = await world.source.backup("docs")
    lose_the_longest_chunk(world)
    await world.source.backup("docs")
    await world.source.verify("docs", old.point)
    assert list(world.store().lost_chunks()) == []
