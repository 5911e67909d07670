"""Random delays at threads, sockets and syncs, in tests and in every process that they fork: ``pytest -p delays``.

A test that passes only because one side is usually quicker than the other fails here. ``DELAYS_LONGEST``: seconds.
Time that a test moves by hand (trio's mock clock) stays as it is.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio.testing

LONGEST = float(os.environ.get("DELAYS_LONGEST", "0.4"))
OF_THREADS, OF_SOCKETS, OF_SYNCS = 0.15, 0.04, 0.2
"""How many of them are delayed. A job makes some thousands of calls of sockets, and some hundred of the others."""

# Of the operating system: forked processes would all draw the same numbers.
chance = random.SystemRandom()


async def perhaps(share: float) -> None:
    """Wait, in some cases, where the clock is the real one."""
    if chance.random() < share and not isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
        await trio.sleep(chance.random() * LONGEST)


def delay_threads() -> None:
    """Before a thread begins and after it has ended."""
    run_sync = trio.to_thread.run_sync

    async def delayed(*arguments: Any, **how: Any) -> Any:
        await perhaps(OF_THREADS)
        result = await run_sync(*arguments, **how)
        # Shielded: who is cancelled here would lose a result that there is.
        with trio.CancelScope(shield=True):
            await perhaps(OF_THREADS)
        return result

    trio.to_thread.run_sync = delayed


def delay_sockets() -> None:
    """Before anything is sent, received, connected or accepted."""
    with socket.socket() as one:
        kind: Any = type(trio.socket.from_stdlib_socket(one))

    def delayed(inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **how: Any) -> Any:
            await perhaps(OF_SOCKETS)
            return await inner(*arguments, **how)

        return call

    for name in ("recv", "recv_into", "send", "sendmsg", "connect", "accept"):
        setattr(kind, name, delayed(getattr(kind, name)))


def delay_syncs() -> None:
    """As a disk that flushes."""

    def delayed(inner: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            if chance.random() < OF_SYNCS:
                time.sleep(chance.random() * LONGEST / 4)
            inner(descriptor)

        return call

    os.fsync, os.fdatasync = delayed(os.fsync), delayed(os.fdatasync)


delay_threads()
delay_sockets()
delay_syncs()
