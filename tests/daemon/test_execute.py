"""Requests that run in the command's own process."""

from __future__ import annotations

import errno
import os
import signal
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from transporter.clock import SystemClock
from transporter.daemon.execute import _recorded, execute, execute_here
from transporter.daemon.requests import BackupRequest, DrillRequest, RewrapRequest
from transporter.events import EventBus, JobFailed, JobFinished
from transporter.home import Home


@pytest.mark.parametrize(
    ("request_", "remedy"),
    [
        (BackupRequest(job="docs"), "run it again: what was sent already is used"),
        (DrillRequest(), "run it again"),
        (RewrapRequest(password_name="office"), "go on with it: transporter password change office --resume"),
    ],
    ids=["backup", "drill", "password change"],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_says_how_to_go_on(monkeypatch, tmp_path, request_, remedy, number):
    async def stopped(*_arguments, **_options):
        await wait_all_tasks_blocked()
        os.kill(os.getpid(), number)
        await trio.sleep_forever()

    monkeypatch.setattr("transporter.daemon.execute.execute", stopped)
    bus, said = EventBus(), []
    bus.subscribe(said.append)
    with trio.fail_after(60):
        outcome = await execute_here(Home(tmp_path), request_, bus)
    assert outcome.exit_status == 130
    (failed,) = [event for event in said if isinstance(event, JobFailed)]
    assert (failed.what, failed.remedy) == ("interrupted", remedy)


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (OSError(errno.ENOSPC, "full", "/srv/out/x"), "no room left for /srv/out/x"),
        # What a call that writes to an open file gives.
        (OSError(errno.EDQUOT, "full"), "most likely that of its home {home}"),
    ],
)
async def test_a_full_disk_is_named_where_it_is_known(monkeypatch, tmp_path, error, place):
    async def full(*_arguments):
        raise error

    monkeypatch.setattr("transporter.daemon.execute._execute", full)
    bus, said = EventBus(), []
    bus.subscribe(said.append)
    outcome = await execute(Home(tmp_path), BackupRequest(job="docs"), bus, dict)
    (failed,) = said
    assert outcome.exit_status == 1 and failed.code == "disk-full"
    assert place.format(home=tmp_path) in failed.what


@pytest.mark.parametrize(("operation", "marked"), [("backup", True), ("restore", False)])
async def test_gaps_are_told_once_and_of_a_backup_that_its_point_is_marked(monkeypatch, operation, marked):
    finished = JobFinished(job="docs", operation=operation, point="00" * 16, files=3, files_skipped=2)

    async def work():
        return finished

    monkeypatch.setattr("transporter.daemon.execute._work", lambda *_: (operation, work))
    bus, said = EventBus(), []
    bus.subscribe(said.append)
    catalog = SimpleNamespace(run_started=lambda *_: 1, run_finished=lambda *_, **_facts: None)
    context = SimpleNamespace(bus=bus, catalog=catalog, clock=SystemClock(), home=None)
    outcome = await _recorded(context, BackupRequest(job="docs"))
    assert outcome.exit_status == 8
    note, told = said
    assert told == finished and note.text.startswith("2 files could not be ")
    assert ("the restore point is marked" in note.text) is marked
