"""What an open made of a killed writer's journals stays when the power goes: whoever publishes syncs it all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.repository.model_disk import Disk
from tests.repository.test_faults import Killed, Run
from transporter.clock import ManualClock
from transporter.repository import Repository

pytestmark = pytest.mark.usefixtures("small_packs")


# Each step by SALVAGE_EVERY=1; here some of each kind.
EVERY = int(os.environ.get("SALVAGE_EVERY", "7"))


def test_what_was_salvaged_after_a_kill_at_any_step_is_there_after_a_power_cut(place: Path) -> None:
    step = 0
    while True:
        with pytest.MonkeyPatch.context() as patch:
            folder = place.parent / f"disk-{step}"
            folder.mkdir()
            disk = Disk(patch, folder)
            Repository.create(folder / "repository", clock=ManualClock()).close()
            run = Run(folder / "repository")
            disk.arm(step)
            try:
                run.go()
                return
            except Killed:
                pass
            finally:
                disk.arm(None)
            with Repository.open(run.place, ManualClock()) as repository:
                known = [(n, k) for n in range(120) if (k := repository.have(b"D" * 16, [n.to_bytes(32, "big")])[0])]
            disk.lose_power(run.place, 0)
            run.check()
            with Repository.open(run.place, ManualClock()) as repository:
                for number, keys in known:
                    repository.read(b"D" * 16, number.to_bytes(32, "big"), keys)
        shutil.rmtree(folder)
        step += EVERY
