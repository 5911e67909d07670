"""Mount in the process of the command: a file system must not fall with the daemon, nor take it down.

So a peer that dials this node, whose connections are the daemon's, cannot be reached; through a proxy host it can.
"""

from __future__ import annotations

import signal

import trio

from transporter.catalog import Catalog
from transporter.clock import SystemClock
from transporter.config import load_config
from transporter.events import EventBus
from transporter.home import Home
from transporter.jobs.context import JobContext
from transporter.jobs.mount import MountOrder, run_mount
from transporter.keys.database import KeyDatabase
from transporter.link.carrier import use_congestion_control
from transporter.link.identity import load_identity
from transporter.throttle.limits import Throttle
from transporter.throttle.watch import watch_limits


async def execute_mount(home: Home, order: MountOrder, bus: EventBus) -> None:
    """Mount until SIGINT, SIGTERM, or until somebody unmounts. Raises what goes wrong."""
    clock = SystemClock()
    config = load_config(home.config_path)
    use_congestion_control(config.link.congestion)
    throttle = Throttle()
    throttle.apply(config.throttle, clock.local_time())
    with Catalog(home.catalog_db) as catalog, KeyDatabase(home.keys_db, clock=clock) as keys:
        identity = load_identity(home.path, config.node.name, clock)
        context = JobContext(home, config, identity, catalog, keys, clock, bus, throttle=throttle)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_signal, nursery.cancel_scope)
            nursery.start_soon(watch_limits, throttle, home.config_path, clock, lambda error: context.say(str(error)))
            await run_mount(context, order)
            nursery.cancel_scope.cancel()


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _number in signals:
            scope.cancel()
            return
