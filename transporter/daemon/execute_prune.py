"""Carry out a prune: by the command, in a process of its own, so that no job of the daemon shares its interpreter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio

from transporter.config import load_config
from transporter.daemon.requests import JobOutcome, PruneRequest
from transporter.errors import DamagedData, JobFailed, error_of
from transporter.events import EventBus, event_from_dict
from transporter.home import Home

PACKAGES: Final = Path(__file__).parents[2]
# A line of the command's: an event, or the report with the names of damaged packs.
LONGEST_LINE: Final = 4 << 20
# It ends between two units of its work; killed it loses nothing either, and the next one goes on.
STOP_SECONDS: Final = 60.0
_EVENTS: Final = ("prune_progress", "damage_found")


async def execute_prune(home: Home, request: PruneRequest, bus: EventBus) -> JobOutcome:
    """Prune. Raises what the command says ended it; JobFailed where it says nothing."""
    load_config(home.config_path).repository(request.repository)
    said = _Said(bus)
    status = await _run(_command(home, request), said)
    if said.error is not None:
        raise error_of(str(said.error.get("code")), str(said.error.get("what")), str(said.error.get("remedy")))
    if status == DamagedData.exit_status:
        raise DamagedData(f"repository {request.repository}: packs are damaged", "find out more by a scrub")
    if status:
        raise JobFailed(
            f"the prune of {request.repository} ended with exit status {status}",
            f"see what it says: transporter prune {request.repository}",
        )
    return JobOutcome(exit_status=0, result=said.report)


def _command(home: Home, request: PruneRequest) -> list[str]:
    grace = f"{request.grace:.12g}s"
    program = [sys.executable, "-P", "-m", "transporter", "--home", str(home.path), "--json"]
    return [*program, "prune", request.repository, "--grace", grace]


class _Said:
    """What the command has said: events go to the bus, the last words are kept."""

    def __init__(self, bus: EventBus) -> None:
        self.report: dict[str, Any] = {}
        self.error: dict[str, Any] | None = None
        self._bus = bus

    def line(self, raw: bytes) -> None:
        """Take one line."""
        try:
            fields = json.loads(raw)
        except ValueError:
            return
        name = fields.get("event") if isinstance(fields, dict) else None
        if name in _EVENTS:
            with suppress(ValueError):
                self._bus.publish(event_from_dict(fields))
        elif name == "prune_finished":
            self.report = fields
        elif name == "failed":
            self.error = fields


async def _run(command: list[str], said: _Said) -> int:
    path = [str(PACKAGES), *filter(None, sys.path)]
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )
    assert process.stdout is not None
    try:
        async with process.stdout:
            await _read(process.stdout, said)
        return await process.wait()
    finally:
        await _end(process)


async def _read(stream: trio.abc.ReceiveStream, said: _Said) -> None:
    buffer = b""
    async for part in stream:
        *lines, buffer = (buffer + part).split(b"\n")
        for line in lines:
            said.line(line)
        if len(buffer) > LONGEST_LINE:
            raise JobFailed("the prune says a line without end", "see what it says: transporter prune")


async def _end(process: trio.Process) -> None:
    """Whatever ended the waiting: the process is gone when this returns."""
    with trio.CancelScope(shield=True):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with trio.move_on_after(STOP_SECONDS):
                await process.wait()
            if process.poll() is None:
                process.kill()
        await process.wait()
