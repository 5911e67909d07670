"""A transform that is killed, or finds the disk full, at any step leaves one whole chain; another ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("transform_kill.py")
# All of them by `make campaign-kill-transform`; here some of each kind.
EVERY = os.environ.get("TRANSFORM_KILL_EVERY", "13")


def run(*arguments: str) -> str:
    command = [sys.executable, str(SCRIPT), "--every", EVERY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("job", ["docs", "target"])
def test_kill_9_at_every_step_of_a_transform_leaves_one_chain_whole_and_another_ends_it(job):
    assert ", 0 of them bad" in run("--job", job, "--first", {"docs": "3", "target": "9"}[job])


def test_a_full_disk_at_every_step_of_a_transform_is_told_and_another_ends_it():
    assert ", 0 of them bad" in run("--full-disk", "--first", "2")
