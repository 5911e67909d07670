"""Requests that run in the command's own process."""

from __future__ import annotations

import os
import signal

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from transporter.daemon.execute import execute_here
from transporter.daemon.requests import BackupRequest, DrillRequest, RewrapRequest
from transporter.events import EventBus, JobFailed
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
