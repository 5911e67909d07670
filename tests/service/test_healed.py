"""What is lost at the target, set aside by scrub and sent again: who is whole after that, and who says who is not."""

from __future__ import annotations

import pytest
from world import contents

from transporter.errors import DamagedData
from transporter.events import DamageFound, FileSkipped


def lose_the_longest_chunk(world):
    """Flip a bit in it and heal; return its id."""
    store = world.store()
    (ref,) = store.points(world.tenant(world.source))
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
    if job == "none":
        await world.source.verify(job, old.point)
    else:
        with pytest.raises(DamagedData, match=f"1 chunks of restore point {old.point[:8]}"):
            await world.source.verify(job, old.point)
        (damage,) = world.source.seen(DamageFound)
        assert lost.hex()[:16] in damage.where


@pytest.mark.parametrize("job", ["docs", "target", "none"])
async def test_an_old_point_is_restored_without_what_it_lacks_and_with_all_else(world, job):
    (world.source.tree / "huge").write_bytes(bytes(range(256)) * 40_000)
    old = await world.source.backup(job)
    lose_the_longest_chunk(world)
    await world.source.backup(job)
    world.source.events.clear()
    found = contents(await world.source.restore(job, old.point))
    whole = contents(world.source.tree)
    if job != "none":
        del whole["huge"]
    assert found == whole
    skipped = [event.path.rpartition("/")[2] for event in world.source.seen(FileSkipped)]
    assert skipped == ([] if job == "none" else ["huge"])
