"""Limits between two real ends: who is asked for what, and that jobs work under them."""

from __future__ import annotations

import pytest
import trio
from reverse_world import until
from world import contents

from transporter.config import parse_config
from transporter.errors import QuotaExceeded
from transporter.events import JobFailed, LimitInForce, Progress
from transporter.jobs.restore import RestoreOrder, run_restore
from transporter.throttle.limits import Flow


def limits(node, text):
    """Have limits hold at a node from now on."""
    config = parse_config(f'[node]\nname = "x"\n{text}', node.home.config_path)
    return config.throttle, node.clock.local_time()


@pytest.fixture
def asked(monkeypatch):
    """What every flow of this process was asked for by its peer."""
    calls, real = [], Flow.asked

    def note(self, rate):
        calls.append((self.scopes[-1] if self.scopes else None, rate))
        real(self, rate)

    monkeypatch.setattr(Flow, "asked", note)
    return calls


async def test_the_provider_asks_the_source_to_pace(world, asked):
    provider = world.provider
    provider.throttle.apply(*limits(world.target, '[throttle.peers.office]\n"always" = "80Mbit"\n'))
    await world.source.backup()
    assert asked == [(("job", "docs"), 10_000_000)]
    said = world.source.seen(LimitInForce)
    assert [(event.direction, event.bytes_per_second, event.by) for event in said] == [("send", 10_000_000, "asked")]
    await until(lambda: not provider.sessions, "the session to be over at the target, too")
    assert provider.throttle._flows == [], "nobody counts any more"
    # Another peer is under no limit.
    await world.neighbour.backup()
    assert world.neighbour.seen(LimitInForce) == []


async def test_who_restores_asks_the_provider_to_pace(world, asked):
    source = world.source
    await source.backup()
    context = source.context
    context.throttle.apply(*limits(source, '[throttle.daemon]\n"always" = "80Mbit"\n'))
    output = source.home.path.parent / "paced"
    await run_restore(context, RestoreOrder("docs", "latest", str(output), [], False, "", b"", ""))
    assert contents(output) == contents(source.tree)
    assert asked == [(("peer", "office"), 10_000_000)]
    assert {(event.direction, event.by) for event in source.seen(LimitInForce)} == {
        ("send", "daemon"),
        ("receive", "daemon"),
    }


async def test_a_limit_that_changes_during_a_session_is_told_and_lifted(world, asked):
    provider = world.provider
    async with world.source.session() as session:
        flow = session._handlers.flow
        for rate, bytes_per_second in (("8Mbit", 1_000_000), ("16Mbit", 2_000_000), ("unlimited", 0)):
            provider.throttle.apply(*limits(world.target, f'[throttle.daemon]\n"always" = "{rate}"\n'))
            with trio.fail_after(30):
                while not asked or asked[-1][1] != bytes_per_second:
                    await trio.sleep(0.01)
            assert flow.sending.limited is bool(bytes_per_second)
        await session.close()


async def test_a_limit_that_changes_again_and_again_breaks_no_session(world):
    """Also at its very start and at its very end, where the protocol allows no Limit any more."""
    provider, rates = world.provider, ("80Mbit", "800Mbit", "unlimited")
    context = world.source.context

    async def change():
        while True:
            for rate in rates:
                text = f'[throttle.daemon]\n"always" = "{rate}"\n'
                provider.throttle.apply(*limits(world.target, text))
                context.throttle.apply(*limits(world.source, text))
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        for number in range(5):
            await world.source.backup()
            await run_restore(
                context,
                RestoreOrder("docs", "latest", str(world.folder / f"out-{number}"), [], False, "", b"", ""),
            )
        nursery.cancel_scope.cancel()
    assert world.source.seen(JobFailed) == []
    assert contents(world.folder / "out-4") == contents(world.source.tree)
    await until(lambda: not provider.sessions, "the session to be over at the target, too")
    assert provider.throttle._flows == context.throttle._flows == []
    await world.still_serves()


async def test_a_tenant_without_room_hears_so_before_anything_is_read(world):
    await world.source.backup()
    world.store().set_quota(world.store()._used_by(world.tenant(world.source)) + 1000)
    world.source.events.clear()
    with pytest.raises(QuotaExceeded, match="nothing more can be stored"):
        await world.source.backup()
    assert not world.source.seen(Progress)
    world.store().set_quota(None)
    await world.source.backup()
    assert (await world.source.verify()).chunks
