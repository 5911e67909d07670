"""Data channels that are added later: one that cannot be had is done without, one that is meddled with ends it all."""

from __future__ import annotations

import pytest
import trio

from transporter.errors import CannotConnect, IdentityRefused, TamperingDetected
from transporter.link.channels import stripe

LONG = 0.1


class FakeSession:
    """A session with two channels and nothing to move."""

    data_bytes = 0
    backlog = False

    def __init__(self):
        self.growing = trio.CancelScope()
        self.is_growing = False
        self.grown = trio.lowlevel.ParkingLot()
        self.used = []
        self.link = type("Link", (), {"peer_name": "offsite"})()

    def use_channels(self, count):
        self.used.append(count)
        self.growing.cancel()


class FakeOpener:
    opened = 2

    def __init__(self, error):
        self._error = error

    async def grow_to(self, _count):
        await trio.lowlevel.checkpoint()
        raise self._error


async def test_a_channel_that_cannot_be_had_is_done_without():
    session = FakeSession()
    await stripe(session, FakeOpener(CannotConnect("no", "")), 32, LONG)
    assert session.used == [2]


@pytest.mark.parametrize("error", [TamperingDetected, IdentityRefused])
async def test_a_channel_that_is_meddled_with_ends_the_session(error):
    with pytest.raises(error):
        await stripe(FakeSession(), FakeOpener(error("altered", "")), 32, LONG)
