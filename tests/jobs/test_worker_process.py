"""Worker processes: lean, keyless, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from transporter.errors import JobFailed, UsageError
from transporter.jobs.needs import Needs
from transporter.jobs.reading import open_reading
from transporter.jobs.start_worker import PACKAGES
from transporter.jobs.tree_writing import open_tree_writing
from transporter.jobs.worker_process import open_worker
from transporter.workloads.write_messages import SLOT, Answer, Open, Wanted, Wish

HEAVY = {"trio", "cryptography", "OpenSSL", "trio_websocket", "structlog", "typer", "rich", "argon2", "sqlite3"}
# Without codecs, too: a reader and a writer see plain content only.
MODULES = ["transporter.jobs.read_worker", "transporter.workloads.write_worker", "transporter.jobs.waiting_worker"]


@pytest.mark.parametrize("module", MODULES)
def test_a_worker_imports_no_event_loop_and_nothing_that_opens_or_seals(module):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not loaded & (HEAVY | {"lz4", "zstandard", "transporter.keys.session_key", "transporter.keys.database"})


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def order(out):
    return Open(os.fsencode(out), "point", [b"r"], Wish())


async def test_a_writer_that_is_given_up_removes_what_it_made_and_ends(out):
    async with open_tree_writing() as writing:
        await writing.open(order(out))
        assert len(os.listdir(out)) == 1
        worker = writing._worker._process.pid
    assert not out.exists()
    assert gone(worker)


async def test_a_writer_that_is_killed_fails_the_job_by_name_and_leaves_nothing_half(out):
    out.mkdir()
    with pytest.raises(JobFailed, match="SIGKILL"):
        async with open_tree_writing() as writing:
            await writing.open(order(out))
            os.kill(writing._worker._process.pid, signal.SIGKILL)
            with trio.fail_after(60):
                await trio.sleep_forever()
    assert os.listdir(out) == []


async def test_a_worker_does_not_mind_the_signals_of_a_terminal(out):
    async with open_tree_writing() as writing:
        await writing.open(order(out))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(writing._worker._process.pid, number)
        assert await writing.place(b"") == []


async def test_a_writer_ends_with_its_daemon(tmp_path, out):
    """kill -9 of the daemon: the worker sees the end of the stream, and puts its things in order."""
    code = f"""
import os, trio
from transporter.jobs.tree_writing import open_tree_writing
from transporter.workloads.write_messages import Open, Wish
async def main():
    async with open_tree_writing() as writing:
        await writing.open(Open({os.fsencode(out)!r}, "p", [b"r"], Wish()))
        print(writing._worker._process.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with daemon:
        worker = int(daemon.stdout.readline())
        assert len(os.listdir(out)) == 1
        daemon.kill()
    with trio.fail_after(60):
        while not gone(worker) or out.exists():
            await trio.sleep(0.01)


async def test_a_reader_ends_with_its_daemon_and_takes_its_manifest_along(tmp_path):
    (tmp_path / "tree").mkdir()
    code = f"""
import os, trio
from pathlib import Path
from transporter.jobs.needs import Needs
from transporter.jobs.read_messages import Open
from transporter.jobs.reading import open_reading
async def main():
    async with open_reading(Needs(Path({str(tmp_path)!r})), from_stdin=False) as reading:
        tree = os.fsencode({str(tmp_path / "tree")!r})
        await reading.open(Open("tree", [tree], [], "", {str(tmp_path / "manifest")!r}, b"i", b"", bytes(32)))
        print(reading._worker._process.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with daemon:
        worker = int(daemon.stdout.readline())
        assert [path.suffix for path in tmp_path.iterdir() if path.is_file()] == [".new"]
        daemon.kill()
    with trio.fail_after(60):
        while not gone(worker):
            await trio.sleep(0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


async def test_a_reader_that_is_killed_fails_the_job(tmp_path):
    needs = Needs(tmp_path)
    async with open_reading(needs, from_stdin=False) as reading:
        os.kill(reading._worker._process.pid, signal.SIGKILL)
        with pytest.raises(JobFailed, match="SIGKILL"):
            async for _unit in reading.units():
                pass
    needs.close()


async def test_a_program_that_does_not_start_fails_the_job():
    with pytest.raises(JobFailed, match="with status 1"):
        async with open_worker("transporter.no_such_module", 1, msgspec.msgpack.Decoder(Answer)) as worker:
            await worker.receive()


async def test_a_worker_finds_this_package_where_an_import_hook_had_found_it(out, monkeypatch):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if Path(place or ".").resolve() != PACKAGES])
    async with open_tree_writing() as writing:
        await writing.open(order(out))


async def test_a_chunk_never_reaches_into_the_next_slot(out):
    async with open_tree_writing() as writing:
        with pytest.raises(ValueError, match="slot"):
            await writing.write(Wanted(0, bytes(32), 1), memoryview(bytes(SLOT + 1)))


async def test_an_error_of_the_writer_is_the_jobs_own(out):
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        async with open_tree_writing() as writing:
            await writing.open(order(out))
    assert os.listdir(out) == ["mine"]


async def test_no_descriptor_of_a_worker_stays_open(out, tmp_path):
    async def start_both():
        needs = Needs(tmp_path)
        async with open_tree_writing() as writing, open_reading(needs, from_stdin=False):
            await writing.open(order(out))
        needs.close()

    await start_both()  # the event loop itself opens a few things once
    before = sorted(os.listdir("/proc/self/fd"))
    await start_both()
    assert sorted(os.listdir("/proc/self/fd")) == before


async def test_an_order_to_a_worker_that_is_gone_waits_for_nobody(out):
    """Whoever reads its answers says what became of it."""
    async with open_worker("transporter.workloads.write_worker", 1, msgspec.msgpack.Decoder(Answer)) as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        await worker._process.wait()
        with trio.fail_after(10):
            for _ in range(2):
                await worker.send(order(out))
            with pytest.raises(JobFailed, match="SIGKILL"):
                await worker.receive()
