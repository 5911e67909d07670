"""Which carrier a session's data channels take: ``data = "auto"`` tries direct ones first, and remembers the outcome.

A direct channel 0 that failed half-way has used up its number and Key A at the provider: what is tried next is a new
session with new keys. Tampering never leads here: it ends the job.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import trio

from protocol.messages import Start
from transporter.clock import Clock
from transporter.link.address import Address
from transporter.link.control_link import ControlLink
from transporter.link.dial import Peer
from transporter.link.identity import Identity
from transporter.link.open_session import open_session
from transporter.link.session import DirectDataFailed, Session, SessionHandlers

# A daemon runs for months, and lines are mended: direct channels carry several times as much.
REMEMBERED_SECONDS = 3600.0
# Where direct channels have worked before, the line is more likely to have broken at a bad moment than to be filtered.
FAILURES_AFTER_SUCCESS = 3

Say = Callable[[str], None]


@dataclass
class _Record:
    """What is known of direct channels to one peer."""

    worked: bool = False
    failures: int = 0
    blocked_until: float = 0.0


class DirectPaths:
    """How direct data channels to each peer have fared. One for each process."""

    def __init__(self) -> None:
        self._records: dict[tuple[bytes, Address], _Record] = {}

    def _of(self, peer: Peer) -> _Record:
        return self._records.setdefault((peer.pin, peer.address), _Record())

    def blocked(self, peer: Peer) -> bool:
        """Tell whether there is no point in trying now."""
        return trio.current_time() < self._of(peer).blocked_until

    def worked(self, peer: Peer) -> None:
        """Note that one opened."""
        self._records[peer.pin, peer.address] = _Record(worked=True)

    def failed(self, peer: Peer) -> bool:
        """Note that one did not open; return whether to try another way."""
        record = self._of(peer)
        record.failures += 1
        return record.failures >= (FAILURES_AFTER_SUCCESS if record.worked else 1)

    def block(self, peer: Peer) -> None:
        """Note that the other way works: it is taken for an hour without trying this one."""
        self._records[peer.pin, peer.address] = _Record(blocked_until=trio.current_time() + REMEMBERED_SECONDS)


OF_THIS_PROCESS = DirectPaths()


@asynccontextmanager
async def open_data_session(
    peer: Peer,
    identity: Identity,
    start: Start,
    streams: int,
    handlers: SessionHandlers,
    clock: Clock,
    say: Say,
    most: int = 0,
    before: Callable[[ControlLink], Awaitable[None]] | None = None,
) -> AsyncIterator[Session]:
    """Open a session as `open_session` does, over WebSockets where ``peer.data`` allows it and nothing else works.

    ``say`` is told when that happens, once for each time that it is found out.
    """
    paths = OF_THIS_PROCESS
    by_websocket = replace(peer, data="websocket")
    chosen = by_websocket if peer.data == "auto" and paths.blocked(peer) else peer
    async with AsyncExitStack() as stack:
        try:
            session = await stack.enter_async_context(
                open_session(chosen, identity, start, streams, handlers, clock, most, before)
            )
        except DirectDataFailed as error:
            if chosen.data != "auto" or not paths.failed(peer):
                raise
            # Said and remembered only once it works: else it is the line, and not the kind of channel.
            session = await stack.enter_async_context(
                open_session(by_websocket, identity, start, streams, handlers, clock, most, before)
            )
            paths.block(peer)
            say(f"direct data channels to {peer.name} do not get through: data goes by WebSocket now ({error})")
        else:
            if chosen.data != "websocket":
                paths.worked(peer)
        yield session
