"""The control socket: what goes wrong with one command stays with it."""

from __future__ import annotations

import pytest
import structlog
import trio

from transporter.daemon.requests import JobOutcome, StatusRequest
from transporter.errors import JobBusy
from transporter.events import FileNote, JobFailed


@pytest.fixture(autouse=True)
def said():
    """What was logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries


async def test_a_command_that_goes_away_in_the_middle_of_its_events_ends_its_job_alone(daemon, job, said):
    running, stopped = trio.Event(), trio.Event()

    async def work(bus):
        try:
            while True:
                bus.publish(FileNote(job="docs", path="x" * 1000, note="seen"))
                running.set()
                await trio.lowlevel.checkpoint()
        finally:
            stopped.set()

    with daemon.raw(job(work)), trio.fail_after(60):
        await running.wait()
    with trio.fail_after(60):
        await stopped.wait()
    await daemon.still_serves()
    assert said == [], "a command may go away, that is no fault"


@pytest.mark.parametrize("error", [ZeroDivisionError("evil"), ValueError("evil"), OSError(5, "evil")], ids=repr)
async def test_a_fault_in_a_job_is_told_and_ends_nothing_else(daemon, job, said, error):
    async def work(_bus):
        raise error

    outcome, events = await daemon.ask(job(work))
    assert outcome == JobOutcome(exit_status=1)
    (failed,) = events
    assert isinstance(failed, JobFailed)
    bug = not isinstance(error, OSError)
    assert failed.code == ("internal" if bug else "job-failed")
    assert failed.remedy
    assert [entry["log_level"] for entry in said] == ["error"] * bug
    await daemon.still_serves()


async def test_an_error_that_is_none_of_ours_is_told_as_it_is(daemon, job):
    async def work(_bus):
        raise JobBusy("another run", "wait")

    outcome, (failed,) = await daemon.ask(job(work))
    assert (outcome.exit_status, failed.code, failed.what) == (1, "job-busy", "another run")


async def test_an_answer_that_cannot_be_sent_ends_its_connection_alone(daemon, said):
    daemon.status = {"daemon": object()}
    with daemon.raw(StatusRequest()) as sock:
        sock.settimeout(60)
        assert await trio.to_thread.run_sync(sock.recv, 1) == b""
    assert [entry["event"] for entry in said] == ["a command failed"]
    daemon.status = {"daemon": True}
    await daemon.still_serves()
