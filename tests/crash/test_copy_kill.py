"""A copy that is killed at any step leaves whole points or none, and the next one goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("copy_kill.py")
# All of them by `make campaign-kill-copy`; here some of each kind.
EVERY = os.environ.get("COPY_KILL_EVERY", "9")


def test_kill_9_leaves_whole_points_or_none():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--every", EVERY], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "0 of them bad" in done.stdout
