"""The campaign that slows tests down does slow them down, and tells how they ended; whole: `make campaign-slow`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("campaign_slow.py")

# Each goes on until it has been held up for a tenth of a second.
TESTS = """
import subprocess, sys, time
import trio

CHILD = '''
import time
last = time.monotonic()
while (now := time.monotonic()) - last < 0.1:
    last = now
'''

def test_freeze():
    subprocess.run([sys.executable, "-c", CHILD], check=True)

def test_delay():
    async def call():
        before = trio.current_time()
        await trio.to_thread.run_sync(int)
        return trio.current_time() - before

    while trio.run(call) < 0.1:
        pass
"""


@pytest.mark.parametrize("how", ["freeze", "delay"])
def test_what_runs_is_slowed_down(tmp_path, how):
    (tmp_path / "test_held_up.py").write_text(TESTS)
    done = run(f"--{how}", "1", "--", tmp_path, "-k", how)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done
    assert ("times a process was stopped" in done.stdout) == (how == "freeze")


def test_a_test_that_fails_fails_the_campaign(tmp_path):
    (tmp_path / "test_bad.py").write_text("def test_bad():\n    assert False\n")
    done = run("--freeze", "0.01", "--", tmp_path)
    assert (done.returncode, "1 failed" in done.stdout) == (1, True), done


def run(*words):
    command = [sys.executable, str(SCRIPT), *map(str, words), "-p", "no:cacheprovider"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=110)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it runs, which might go on for ever
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)
