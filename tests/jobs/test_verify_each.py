"""Several points verified in one request."""

from __future__ import annotations

import pytest
from world import PASSWORD

from transporter.daemon.execute import execute, not_running
from transporter.daemon.requests import VerifyRequest
from transporter.events import EventBus, JobFailed, JobFinished
from transporter.keys.password import hash_password

NEW = b"a new and better one"


@pytest.fixture
async def three(world):
    """Points, oldest first, as the command names them."""
    for number in range(3):
        (world.source.tree / "more").write_bytes(bytes([number]) * 1000)
        await world.source.backup()
    return [ref.point_id.hex() for ref in world.store().points(world.tenant(world.source), "docs")]


async def verify(world, points, **how):
    """Carry out the request as a daemon does; return its outcome and its events."""
    events, bus = [], EventBus()
    bus.subscribe(events.append)
    outcome = await execute(world.source.home, VerifyRequest(job="docs", points=points, **how), bus, not_running)
    return outcome, events


async def test_a_typed_password_is_stretched_once_for_all(world, three, monkeypatch):
    world.source.keys.remove_password("office")
    asked = []

    def stretch(password, salt, params):
        asked.append(password)
        return hash_password(password, salt, params)

    monkeypatch.setattr("transporter.jobs.opening.hash_password", stretch)
    outcome, events = await verify(world, three, password=PASSWORD)
    assert (outcome.exit_status, outcome.result) == (0, {"closed": [], "worst": 0})
    assert [event.point for event in events if isinstance(event, JobFinished)] == three
    assert asked == [PASSWORD]


async def test_what_is_closed_and_what_is_damaged_keep_no_other_from_being_looked_at(world, three):
    world.source.keys.remove_password("office")
    bad = bytes.fromhex(three[1])
    path = world.store().path / "points" / world.tenant(world.source) / "docs" / bad.hex()
    raw = bytearray(path.read_bytes())
    raw[-40] ^= 1
    path.write_bytes(raw)
    outcome, events = await verify(world, three)
    failed = [event for event in events if isinstance(event, JobFailed)]
    assert outcome.result["closed"] == [three[0], three[2]] and len(failed) == 3
    assert outcome.exit_status == outcome.result["worst"] == failed[1].exit_status != failed[0].exit_status == 6
    outcome, events = await verify(world, outcome.result["closed"], password=PASSWORD)
    assert outcome.exit_status == 0 and len([event for event in events if isinstance(event, JobFinished)]) == 2
