"""A worker that waits for the next job: becomes what is needed, makes no job fail, and goes in the end."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager, closing

import pytest
import trio

from transporter.jobs import spare_worker
from transporter.jobs.needs import Needs
from transporter.jobs.read_messages import Open
from transporter.jobs.reading import open_reading
from transporter.jobs.spare_worker import SpareWorker
from transporter.jobs.tree_writing import open_tree_writing
from transporter.workloads.write_messages import Open as OpenWriter
from transporter.workloads.write_messages import Wish


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(spare_worker, "PAUSE_SECONDS", 0.0)


async def until_it_waits(spare):
    spare.want()
    with trio.fail_after(30):
        while spare._spare is None:
            await trio.sleep(0.01)
    return spare._spare.process.pid


@asynccontextmanager
async def kept(idle=lambda: True):
    spare = SpareWorker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spare.keep, idle)
        yield spare
        nursery.cancel_scope.cancel()


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


async def read_all(tmp_path, spare):
    """Read a small tree; return the files found, and the process that read them."""
    tree = tmp_path / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "file").write_bytes(b"content")
    order = Open("tree", [os.fsencode(tree)], [], "", str(tmp_path / "manifest"), b"i" * 16, b"", b"k" * 32)
    with closing(Needs(tmp_path)) as needs:
        async with open_reading(needs, from_stdin=False, spare=spare) as reading:
            await reading.open(order)
            ids = set()
            async for _length, chunks in reading.units():
                for chunk in chunks:
                    ids.add(chunk.chunk_id)
                    chunk.let_go()
            # Of content, of the manifest and of the index; by chance the index of even these two entries is two blocks.
            assert needs.count == len(ids) >= 3, "the list of chunks came through its own descriptor"
            pid = reading._worker._process.pid
    return reading.files, pid


async def test_one_that_waits_becomes_the_reader(tmp_path):
    async with kept() as spare:
        pid = await until_it_waits(spare)
        assert await read_all(tmp_path, spare) == (1, pid)
        assert gone(pid)
        files, other = await read_all(tmp_path, spare)
        assert (files, other != pid) == (1, True), "each serves one job"


async def test_one_that_waits_becomes_the_writer(tmp_path):
    async with kept() as spare:
        pid = await until_it_waits(spare)
        async with open_tree_writing(spare) as writing:
            await writing.open(OpenWriter(os.fsencode(tmp_path / "out"), "point", [b"r"], Wish()))
            assert writing._worker._process.pid == pid
        assert gone(pid)


async def test_one_that_died_while_it_waited_is_no_reason_to_fail(tmp_path):
    async with kept() as spare:
        pid = await until_it_waits(spare)
        os.kill(pid, signal.SIGKILL)
        await spare._spare.process.wait()
        files, other = await read_all(tmp_path, spare)
        assert (files, other != pid) == (1, True)


async def test_one_that_nobody_needed_ends_with_the_daemon():
    async with kept() as spare:
        pid = await until_it_waits(spare)
        assert not gone(pid)
    assert gone(pid)


async def test_none_is_started_beside_a_job():
    busy = [True]
    async with kept(lambda: not busy[0]) as spare:
        spare.want()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert spare._spare is None
        busy[0] = False
        await until_it_waits(spare)


async def test_one_that_was_started_while_a_job_began_is_ended(monkeypatch):
    started, idle = [], [True]
    start = spare_worker.start_worker

    async def a_job_begins(*arguments):
        started.append(await start(*arguments))
        idle[0] = False
        return started[-1]

    monkeypatch.setattr(spare_worker, "start_worker", a_job_begins)
    async with kept(lambda: idle[0]) as spare:
        spare.want()
        with trio.fail_after(30):
            while not started or started[0].process.returncode is None:
                await trio.sleep(0.01)
        assert spare._spare is None


async def test_without_a_keeper_there_is_none(tmp_path):
    spare = SpareWorker()
    spare.want()
    assert (await read_all(tmp_path, spare))[0] == 1


async def test_it_does_not_mind_the_signals_of_a_terminal(tmp_path):
    async with kept() as spare:
        pid = await until_it_waits(spare)
        # Not before it ignores them: whoever presses Ctrl-C in its first moment ends it, and a job starts its own.
        with trio.fail_after(30):
            while not int(status(pid, "SigIgn"), 16) & 1 << (signal.SIGTERM - 1):
                await trio.sleep(0.01)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        assert await read_all(tmp_path, spare) == (1, pid)


def status(pid, field):
    with open(f"/proc/{pid}/status") as file:
        return next(line.split()[1] for line in file if line.startswith(field))


async def test_a_run_that_is_cancelled_while_it_takes_one_leaves_no_process(tmp_path):
    async with kept() as spare:
        pid = await until_it_waits(spare)
        with trio.CancelScope() as scope:
            scope.cancel()
            await read_all(tmp_path, spare)
        assert spare._spare is None or spare._spare.process.pid == pid
        if spare._spare is None:
            assert gone(pid)
