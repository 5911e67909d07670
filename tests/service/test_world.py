from __future__ import annotations

import pytest
from world import contents


@pytest.mark.parametrize("job", ["docs", "target", "none", "rest"])
async def test_the_world_is_sound(world, job):
    first = await world.source.backup(job)
    assert first.kind == "full"
    (world.source.tree / "more").write_text("more")
    second = await world.source.backup(job)
    assert second.kind == "incremental"
    await world.source.verify(job)
    place = await world.source.restore(job)
    assert contents(place) == contents(world.source.tree)
    await world.still_serves()
