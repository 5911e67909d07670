from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("bundle_kill.py")
EVERY = 3
"""Which steps: `make campaign-kill-keys` takes every one."""


@pytest.mark.slow
def test_kill_9_at_every_step_leaves_all_or_nothing(tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(EVERY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["command"] for row in rows] == ["config export", "config import", "config import --replace"]
    for row in rows:
        assert row["failed"] == []
        assert row["killed"] > 20 // EVERY, "there were steps to be killed at"
