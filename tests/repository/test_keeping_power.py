"""The power goes at every step of what becomes of points, also when the one who put it in order had just ended.

What a kill leaves unsynced is on the disk only once somebody syncs it: whoever finishes a removal, too.
"""

from __future__ import annotations

import shutil

import pytest

from tests.repository import test_keeping_faults as keeping
from tests.repository.model_disk import Disk
from tests.repository.test_faults import Killed
from transporter.errors import TransporterError
from transporter.repository import Repository

made = keeping.made


class Scene:
    """A copy of the repository, on a disk that may lose power."""

    def __init__(self, made, patch, name):
        self.folder = made.parent / f"scene-{name}"
        self.folder.mkdir()
        self.disk = Disk(patch, self.folder)
        self.world = keeping.World(shutil.copytree(made, self.folder / "repository"))
        self.world.made = {*keeping.IDS, *keeping.MANY}

    def steps_of(self, deed):
        self.disk.arm(10**9)
        deed(self.world)
        count = 10**9 - self.disk.left
        self.disk.arm(None)
        return count

    def kill(self, deed, step):
        self.disk.arm(step)
        with pytest.raises(Killed):
            deed(self.world)
        self.disk.arm(None)

    def next_keeper(self):
        with Repository.open(self.world.place, self.world.clock) as repository:
            repository.keeping.purge(self.world.gone.extend)

    def lose_power(self):
        self.disk.lose_power(self.world.place, 0)


def scenes(made, deed):
    """Yield a scene for each step of a deed, killed there. Of many points, every few steps: they are all alike."""
    with pytest.MonkeyPatch.context() as patch:
        scene = Scene(made, patch, "count")
        count = scene.steps_of(deed)
        shutil.rmtree(scene.folder)
    assert count
    for step in range(0, count, 1 + count // 25):
        with pytest.MonkeyPatch.context() as patch:
            scene = Scene(made, patch, step)
            scene.kill(deed, step)
            yield scene
        shutil.rmtree(scene.folder)


@pytest.mark.parametrize("name", keeping.DEEDS)
def test_a_power_cut_at_any_step_leaves_points_whole_or_gone_and_the_deed_can_be_done_again(made, name):
    deed = keeping.DEEDS[name]
    for scene in scenes(made, deed):
        scene.lose_power()
        scene.world.check()
        try:
            deed(scene.world)
        except TransporterError:
            assert name == "undelete"  # it was there already
        scene.world.check()


@pytest.mark.parametrize("name", keeping.DEEDS)
def test_what_the_next_keeper_finished_stays_finished_when_the_power_goes(made, name):
    for scene in scenes(made, keeping.DEEDS[name]):
        scene.next_keeper()
        scene.lose_power()
        scene.world.check()
