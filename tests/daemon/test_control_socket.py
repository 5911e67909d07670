"""The control socket: what goes wrong with one command stays with it."""

from __future__ import annotations

import socket

import pytest
import structlog
import trio
import trio.testing

from transporter.daemon import client, waiting_events
from transporter.daemon.requests import JobOutcome, StatusRequest, SteerRequest
from transporter.errors import CannotConnect, JobBusy
from transporter.events import (
    DamageFound,
    EventBus,
    FileNote,
    FileSkipped,
    JobFailed,
    JobFinished,
    Note,
    Progress,
    SearchHits,
)
from transporter.home import Home


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


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("evil"), ValueError("evil"), OSError(5, "evil", "/a\nfile")], ids=repr
)
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
    assert bug or failed.what == "the operating system refused: /a\\nfile: evil"
    assert [entry["log_level"] for entry in said] == ["error"] * bug
    await daemon.still_serves()


async def test_an_error_that_is_none_of_ours_is_told_as_it_is(daemon, job):
    async def work(_bus):
        raise JobBusy("another run", "wait")

    outcome, (failed,) = await daemon.ask(job(work))
    assert (outcome.exit_status, failed.code, failed.what) == (1, "job-busy", "another run")


@pytest.mark.parametrize(
    "request_", [StatusRequest(), SteerRequest(job="docs", action="pause")], ids=["status", "pause"]
)
def test_a_daemon_that_hangs_is_not_waited_for_by_what_is_answered_at_once(tmp_path, monkeypatch, request_):
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.1)
    home = Home.create(tmp_path / "home")
    with socket.socket(socket.AF_UNIX) as hangs, home.socket_address() as address:
        hangs.bind(address)
        hangs.listen()
        with client.connect_to_daemon(home) as sock, pytest.raises(CannotConnect, match="did not answer"):
            client.ask_daemon(sock, request_, EventBus())


async def test_an_answer_that_cannot_be_sent_ends_its_connection_alone(daemon, said):
    daemon.status = {"daemon": object()}
    with daemon.raw(StatusRequest()) as sock:
        sock.settimeout(60)
        assert await trio.to_thread.run_sync(sock.recv, 1) == b""
    assert [entry["event"] for entry in said] == ["a command failed"]
    daemon.status = {"daemon": True}
    await daemon.still_serves()


# --- events that come faster than they are sent on -------------------------------------------------------------

FINISHED = JobFinished(job="docs", operation="backup")


async def test_every_note_arrives_however_many_come_at_once(daemon, job):
    notes = [FileNote(job="docs", path=str(number), note="left out") for number in range(20_000)]

    async def work(bus):
        for note in notes:
            bus.publish(note)
        bus.publish(FINISHED)
        return JobOutcome(exit_status=0)

    outcome, events = await daemon.ask(job(work))
    assert outcome.exit_status == 0
    assert events == [*notes, FINISHED]


@pytest.mark.parametrize("kind", [FileNote, FileSkipped, DamageFound])
async def test_too_many_notes_are_counted_and_the_end_is_told(daemon, job, monkeypatch, kind):
    monkeypatch.setattr(waiting_events, "MANY_AT_MOST", 10)
    what = {
        FileNote: FileNote(job="docs", path="x", note="seen"),
        FileSkipped: FileSkipped(job="docs", path="x", reason="gone"),
        DamageFound: DamageFound(where="x", what="gone"),
    }[kind]
    failed = JobFailed(job="docs", code="damaged", exit_status=7, what="damaged")

    async def work(bus):
        for _ in range(1500):
            bus.publish(what)
        bus.publish(Note(text="for a person"))
        bus.publish(what)
        bus.publish(failed)
        bus.publish(what)
        return JobOutcome(exit_status=7)

    outcome, events = await daemon.ask(job(work))
    assert outcome.exit_status == 7
    said = [event.text.split(" are")[0] if isinstance(event, Note) else event for event in events]
    left = "lines on single files"
    assert said == [*[what] * 10, f"1,490 {left}", "for a person", f"1 {left}", failed, f"1 {left}"]


async def test_progress_is_thinned_and_nothing_else(daemon, job):
    progress = [Progress(job="docs", bytes_read=number) for number in range(10_000)]

    async def work(bus):
        for each in progress:
            bus.publish(each)
        bus.publish(FINISHED)
        return JobOutcome(exit_status=0)

    _, events = await daemon.ask(job(work))
    assert events == [*progress[: waiting_events.PROGRESS_AT_MOST], FINISHED]


async def test_a_job_whose_events_are_its_result_waits_for_a_slow_reader():
    waiting = waiting_events.WaitingEvents()
    for _ in range(waiting_events.RESULTS_AT_MOST):
        await waiting.room()
        waiting.put(SearchHits(hits=[]))
    going_on = trio.Event()

    async def job():
        await waiting.room()
        going_on.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(job)
        await trio.testing.wait_all_tasks_blocked()
        assert not going_on.is_set()
        await anext(waiting)
    assert going_on.is_set()
