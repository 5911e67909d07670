"""A copy whose target's disk is full at any step says so; nothing is half there, and the next one makes it whole."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.repository.test_faults import Harness
from transporter.errors import DiskFull
from transporter.home import Home

SCRIPT = Path(__file__).parents[1] / "crash" / "copy_kill.py"
EVERY = 11


def leaves(group):
    return [leaf for each in group.exceptions for leaf in (leaves(each) if hasattr(each, "exceptions") else [each])]


def test_a_full_disk_at_any_step_of_a_copy_is_told_and_the_next_one_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr("transporter.repository.limits.PACK_TARGET", 600)
    spec = importlib.util.spec_from_file_location("copy_kill", SCRIPT)
    kill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill)
    made = tmp_path / "made"
    made.mkdir()
    kill.make(made)
    told, step = 0, 1
    while True:
        folder = Path(shutil.copytree(made, tmp_path / f"tried-{step}"))
        with pytest.MonkeyPatch.context() as patch:
            harness = Harness(patch)
            harness.fail_at = step
            try:
                kill.copy(folder)
            except DiskFull as error:
                told += 1
                assert error.exit_status == 1
            except BaseExceptionGroup as group:
                assert all(isinstance(each, DiskFull) for each in leaves(group)), group
                told += 1
        if harness.count < step:
            break
        kill.seen(Home(folder / "home"))
        kill.check(folder)
        shutil.rmtree(folder)
        step += EVERY
    assert told > 5
