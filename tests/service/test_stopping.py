"""A run that is being stopped, and the next one of that job, which whoever stopped it may ask for at once."""

from __future__ import annotations

import socket

import pytest
import trio

from transporter.daemon import execute
from transporter.daemon.client import ask_daemon, connect_to_daemon
from transporter.daemon.control_socket import serve_control_socket
from transporter.daemon.requests import BackupRequest, JobOutcome, SteerRequest, request_to_bytes
from transporter.daemon.running import RunningJobs
from transporter.events import EventBus
from transporter.jobs.context import job_lock


@pytest.fixture
async def home(world, nursery, monkeypatch):
    """A daemon of the target, whose jobs hold the job's lock until ``let_go`` (the first one), or end at once."""
    running = RunningJobs(world.provider)
    home = world.target.home
    home.begun, home.let_go, home.runs = trio.Event(), trio.Event(), 0

    async def work(home, request, *_rest):
        with job_lock(home, request.job):
            home.runs += 1
            if home.runs == 1:
                home.begun.set()
                try:
                    await trio.sleep_forever()
                finally:
                    # As a session that is closed, and a worker that is waited for.
                    with trio.CancelScope(shield=True):
                        await home.let_go.wait()
        return JobOutcome(exit_status=0)

    really = execute._execute

    async def run(home, request, *rest):
        return await (work if isinstance(request, BackupRequest) else really)(home, request, *rest)

    monkeypatch.setattr(execute, "_execute", run)
    nursery.start_soon(serve_control_socket, home, running.status, running.job, None, running.stopped)
    while not home.control_socket.exists():
        await trio.lowlevel.checkpoint()
    home.running = running
    return home


def ask(home, request):
    with connect_to_daemon(home) as sock:
        assert sock is not None
        return ask_daemon(sock, request, EventBus())


def ask_and_be_killed(home, request):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with home.socket_address() as address:
        sock.connect(address)
    data = request_to_bytes(request)
    sock.sendall(len(data).to_bytes(4, "big") + data)
    return sock


async def test_the_next_run_waits_for_one_whose_command_was_killed(home):
    with trio.fail_after(60):
        with ask_and_be_killed(home, BackupRequest(job="docs")):
            await home.begun.wait()
        await the_next_run_ends_well(home)


async def test_the_next_run_waits_for_one_that_is_being_cancelled(home, nursery):
    with trio.fail_after(60), ask_and_be_killed(home, BackupRequest(job="docs")):
        await home.begun.wait()
        await trio.to_thread.run_sync(ask, home, SteerRequest(job="docs", action="cancel"))
        await the_next_run_ends_well(home)


async def the_next_run_ends_well(home):
    async def next_run():
        outcome.append(await trio.to_thread.run_sync(ask, home, BackupRequest(job="docs")))

    outcome: list[JobOutcome] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(next_run)
        # It is there, and waits; a job that is about something else does not.
        other = await trio.to_thread.run_sync(ask, home, BackupRequest(job="other"))
        assert other.exit_status == 0 and outcome == []
        home.let_go.set()
    assert outcome == [JobOutcome(exit_status=0)]


async def test_a_run_that_nobody_stops_is_told_of_at_once(home):
    with trio.fail_after(60), ask_and_be_killed(home, BackupRequest(job="docs")):
        await home.begun.wait()
        outcome = await trio.to_thread.run_sync(ask, home, BackupRequest(job="docs"))
        assert outcome.exit_status == 1
        home.let_go.set()


async def test_who_asks_again_for_its_end_does_not_wait_for_it(home):
    cancel = SteerRequest(job="docs", action="cancel")
    with trio.fail_after(60), ask_and_be_killed(home, BackupRequest(job="docs")):
        await home.begun.wait()
        for _ in range(2):
            assert (await trio.to_thread.run_sync(ask, home, cancel)).exit_status == 0
        home.let_go.set()
