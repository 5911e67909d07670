from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import msgspec
import pytest
from forked_workers import Forked, forked_workers
from world import contents

from transporter.errors import JobFailed
from transporter.jobs.worker_process import open_worker


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


async def test_a_worker_of_a_world_lives_and_dies_as_any():
    """A process of its own, with no descriptors but its own, whose death is told by name."""

    def start():
        return open_worker("transporter.workloads.write_worker", 1, msgspec.msgpack.Decoder(dict))

    with forked_workers():
        async with start() as first, start() as second:
            one, two = (worker._process for worker in (first, second))
            assert isinstance(one, Forked)
            assert len({os.getpid(), one.pid, two.pid}) == 3
            os.kill(one.pid, signal.SIGKILL)
            with pytest.raises(JobFailed, match="SIGKILL"):
                await first.receive()
            assert one.returncode == -signal.SIGKILL
            assert sum("transporter-contents" in link for link in descriptors_of(two.pid)) <= 1
        assert two.returncode == 0


def descriptors_of(pid):
    """What its descriptors point to. It runs: one that it closes meanwhile is none of them."""
    links = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(path))
    return links
