"""A connection that ends at any byte, either way, is an end: told in one line of the provider's log, and forgotten."""

from __future__ import annotations

import contextlib
import os

import pytest
import trio
from evil_middle import Last, LastAndReset, Middle
from structlog.testing import capture_logs

from protocol.messages import ListPoints
from transporter.errors import TransporterError
from transporter.link.broken import LinkBroken

# Prime, so that cuts meet every place within a record sooner or later. STEP=1 in the environment tries all places.
STEP = int(os.environ.get("STEP", "31"))
UNEXPECTED = "connection failed"


@pytest.fixture
async def middle(world):
    made = Middle(world.address)
    await world.nursery.start(made.run)
    world.source.dials(made.address)
    return made


async def list_points(world):
    async with world.source.control() as link:
        await link.send(ListPoints(repository="main"))
        await link.receive()


async def open_a_session(world):
    async with world.source.session():
        pass


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize(
    ("talk", "kind"), [(list_points, "control"), (open_a_session, "control"), (open_a_session, "data")]
)
async def test_a_connection_that_ends_anywhere_is_no_fault_of_the_provider(world, middle, talk, kind, up):
    """Closed at odd places, reset at even ones: then what is answered has nowhere to go."""
    at = 0
    with capture_logs() as said:
        while True:
            reached = False

            def cut(way, data, at=at):
                nonlocal reached
                if way.kind != kind or way.up != up or way.seen + len(data) <= at:
                    return [data]
                reached = True
                return [(Last if at % 2 else LastAndReset)(data[: max(0, at - way.seen)])]

            middle.meddle = cut
            with contextlib.suppress(LinkBroken, TransporterError), trio.fail_after(60):
                await talk(world)
            if not reached:
                break
            at += STEP
        middle.meddle = lambda _way, data: [data]
        await world.still_serves()
        while world.provider.sessions:
            await trio.sleep(0.01)
    assert at > STEP, "it was cut somewhere"
    assert not [one for one in said if one["event"] == UNEXPECTED]
