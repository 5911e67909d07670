"""kill -9 at steps of the commands about keys; `make campaign-kill-keys` takes every one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_steps.py")
# A prime, so that the loops of a command are hit at other places each time; and where to begin.
EVERY, FIRST = {"change": 13, "rotate": 19, "import": 7, "answer": 7, "apply": 7, "approved": 5}, 2
AT_LEAST = {"change": 5, "rotate": 3, "import": 2, "answer": 2, "apply": 3, "approved": 4}


@pytest.mark.parametrize("command", EVERY)
def test_nothing_is_lost_and_it_can_be_run_again(command, tmp_path, rsa_keys):
    arguments = [sys.executable, str(SCRIPT), command, str(tmp_path / "work"), str(EVERY[command]), str(FIRST)]
    environment = {**os.environ, "RSA_KEYS": str(rsa_keys)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["failed"] == [] and report["killed"] >= AT_LEAST[command]
