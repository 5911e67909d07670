"""A recovery keeps to the limits of the configuration."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from world import contents

from transporter.events import LinkUp


@pytest.mark.parametrize(("most", "opened"), [(1, 1), (8, 2)])
async def test_no_more_data_channels_are_opened_than_the_configuration_allows(world, monkeypatch, most, opened):
    # However busy the machine is, its loopback counts as a short line, which begins with two.
    for place in ("open_session", "striping"):
        monkeypatch.setattr(f"transporter.link.{place}.SHORT_LINE_SECONDS", 60.0)
    await world.source.backup()
    config = world.source.config
    world.source.config = replace(config, limits=replace(config.limits, max_streams=most))
    world.source.events.clear()
    done = await world.source.verify()
    assert (done.streams, [event.streams for event in world.source.seen(LinkUp)]) == (opened, [opened])
    assert contents(await world.source.restore()) == contents(world.source.tree)
