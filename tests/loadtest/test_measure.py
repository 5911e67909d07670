from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from loadtest.measure import (
    BenchError,
    DaemonMeter,
    Usage,
    background,
    disk_usage,
    memory_of,
    process_tree,
    read_log,
    run,
    wrapped,
)

BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
GROW = "b = bytearray(64 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1"


def test_a_command_is_measured_with_its_children():
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"
    done = run([sys.executable, "-c", code])
    assert done.usage.cpu >= 0.3
    assert done.seconds >= 0.3


def test_the_peak_is_the_commands_and_not_the_benchs():
    ballast = bytearray(os.urandom(1 << 20) * 64)
    assert run(["true"]).usage.peak < 32 << 20
    assert run([sys.executable, "-c", GROW]).usage.peak > 64 << 20
    del ballast


def test_output_is_returned_and_a_failure_is_told():
    assert run(["echo", "hello"]).output == "hello\n"
    with pytest.raises(BenchError, match=r"status 3: out of luck"):
        run(["sh", "-c", "echo out of luck >&2; exit 3"])
    assert run(["sh", "-c", "exit 3"], good=(3,)).output == ""


def test_a_forced_command_runs_what_the_client_asked_for(tmp_path):
    log = tmp_path / "log"
    environment = {**os.environ, "SSH_ORIGINAL_COMMAND": "cat; exit 5"}
    answer = subprocess.run(wrapped(log, []), input=b"abc", capture_output=True, env=environment, check=False)
    assert (answer.stdout, answer.returncode) == (b"abc", 5)
    assert len(read_log(log)) == 1


def test_both_processes_of_an_end_count():
    assert Usage(1.0, 10) + Usage(0.5, 5) == Usage(1.5, 15)


def test_disk_usage_counts_regular_files_at_any_depth(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"x" * 10)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 5)
    assert disk_usage(tmp_path) == 15


def test_a_daemon_and_its_workers_are_measured_and_ended(tmp_path):
    # The worker grows and ends inside the measurement; its CPU and its peak count all the same. It stays until it has
    # been looked at, which on a busy machine may be long after it had otherwise ended.
    code = f"""
import subprocess, sys
print("ready", flush=True)
sys.stdin.readline()
worker = {BURN!r} + "\\n" + {GROW!r} + "\\nimport sys; print('grown', flush=True); sys.stdin.readline()"
subprocess.run([sys.executable, "-c", worker])
print("done", flush=True)
sys.stdin.readline()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as daemon:
        assert daemon.stdin
        assert daemon.stdout
        assert daemon.stdout.readline() == "ready\n"
        with DaemonMeter(daemon.pid) as meter:
            daemon.stdin.write("\n")
            assert daemon.stdout.readline() == "grown\n"
            (worker,) = process_tree(daemon.pid)[1:]
            while meter._seen.get(worker, 0) < memory_of(worker).now:
                time.sleep(0.01)
            daemon.stdin.write("\n")
            assert daemon.stdout.readline() == "done\n"
        alone = memory_of(daemon.pid).peak
        daemon.stdin.write("\n")
    assert meter.usage.cpu >= 0.25
    assert meter.usage.peak > alone + (64 << 20)


def test_memory_that_a_daemon_shares_with_a_worker_counts_once():
    fill = "import mmap, sys; memory = mmap.mmap(int(sys.argv[1]), 64 << 20); memory[::4096] = bytes(16 << 10)"
    code = f"""
import os, subprocess, sys
descriptor = os.memfd_create("shared")
os.ftruncate(descriptor, 64 << 20)
sys.argv[1:] = [str(descriptor)]
{fill}
worker = {fill!r} + "; print(flush=True); sys.stdin.read()"
print("ready", flush=True)
sys.stdin.readline()
child = subprocess.Popen([sys.executable, "-c", worker, str(descriptor)], pass_fds=(descriptor,))
child.wait()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as daemon:
        assert daemon.stdin
        assert daemon.stdout
        assert daemon.stdout.readline() == "ready\n"
        with DaemonMeter(daemon.pid) as meter:
            daemon.stdin.write("\n")
            assert daemon.stdout.readline() == "\n"
        daemon.stdin.close()
    # Both touched all of it.
    assert 64 << 20 < meter.usage.peak < (64 + 48) << 20


def test_a_background_process_is_gone_after_an_error_too(tmp_path):
    with pytest.raises(ZeroDivisionError), background(["sleep", "60"], tmp_path / "log") as process:
        assert process_tree(process.pid) == [process.pid]
        raise ZeroDivisionError
    assert process.returncode is not None
