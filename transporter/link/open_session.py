"""Opening a session: dial, start, open the first data channels, and see the session through to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import trio

from pipeline.run import open_tasks
from protocol.messages import Limit, Ready, Refused, Start, Started
from transporter.clock import Clock
from transporter.errors import CannotConnect, RefusedByPeer
from transporter.link.broken import LinkBroken
from transporter.link.channels import ChannelOpener, EarlyCarriers, stripe
from transporter.link.control_link import ControlLink, refusal_to_error
from transporter.link.dial import Peer, dial_control
from transporter.link.identity import Identity
from transporter.link.pacing import keep_pace
from transporter.link.session import ANSWER_SECONDS, DirectDataFailed, Session, SessionHandlers
from transporter.link.striping import SHORT_LINE_SECONDS, first_streams
from transporter.throttle.limits import Flow

OPENING_SECONDS = 30.0


async def _wait_until_ready(link: ControlLink, flow: Flow) -> None:
    """Wait for Ready: the provider has Key B, and takes further channels under it."""
    while isinstance((received := await link.receive()).message, Limit):
        flow.asked(received.message.bytes_per_second)
    if isinstance(received.message, Refused):
        raise refusal_to_error(received.message.code, received.message.what, received.message.remedy)
    if not isinstance(received.message, Ready):
        raise RefusedByPeer("the peer did not get ready", "update the transporter there")


async def _start(link: ControlLink, start: Start) -> tuple[Started, bytes]:
    """Ask for the session. Raises what the peer refuses, and LinkBroken."""
    with trio.move_on_after(ANSWER_SECONDS) as deadline:
        await link.send(start)
        received = await link.receive()
    if deadline.cancelled_caught:
        raise LinkBroken("the peer did not start the session in time")
    if isinstance(received.message, Refused):
        raise refusal_to_error(received.message.code, received.message.what, received.message.remedy)
    if not isinstance(received.message, Started):
        raise RefusedByPeer("the peer did not start the session", "update the transporter there")
    return received.message, bytes(received.payload)


@asynccontextmanager
async def _early_carriers(peer: Peer, identity: Identity, count: int) -> AsyncIterator[EarlyCarriers]:
    early = EarlyCarriers(peer, identity, count)
    try:
        async with open_tasks() as nursery:
            nursery.start_soon(early.dial)
            yield early
            nursery.cancel_scope.cancel()
    finally:
        # Only now nobody dials any more.
        await early.close()


@asynccontextmanager
async def open_session(
    peer: Peer,
    identity: Identity,
    start: Start,
    streams: int,
    handlers: SessionHandlers,
    clock: Clock,
    most: int = 0,
    before: Callable[[ControlLink], Awaitable[None]] | None = None,
) -> AsyncIterator[Session]:
    """Dial ``peer``, start a session and open ``streams`` data channels; up to ``most`` while it gets faster by that.

    ``before``: what is to be said on the control connection before the session is asked for.

    Raises what dialling raises, what the peer refuses, LinkBroken when the session breaks, TamperingDetected.
    """
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(dial_control(peer, identity))
        if before is not None:
            await before(link)
        seconds = link.kernel_round_trip() if peer.end_to_end else link.guess
        count = streams
        if most > streams and seconds and seconds >= SHORT_LINE_SECONDS:
            count = max(streams, min(most, first_streams(seconds)))
        long_line = bool(seconds and seconds >= SHORT_LINE_SECONDS)
        early = await stack.enter_async_context(_early_carriers(peer, identity, count))
        started, head = await _start(link, replace(start, pieces=long_line))
        session = Session(link, started, handlers)
        handlers.on_started(started, head)
        session.in_pieces = long_line
        try:
            async with open_tasks() as nursery:
                opener = ChannelOpener(session, nursery, peer, identity, started.key_a, clock)
                nursery.start_soon(keep_pace, handlers.flow, link)
                with trio.move_on_after(OPENING_SECONDS) as deadline:
                    await opener.open_first(early, lambda: _wait_until_ready(link, handlers.flow))
                if deadline.cancelled_caught:
                    raise LinkBroken("the data channels did not open in time")
                nursery.start_soon(session.read_control)
                if most > streams:
                    nursery.start_soon(stripe, session, opener, most, seconds if peer.end_to_end else None)
                yield session
                nursery.cancel_scope.cancel()
        except (LinkBroken, CannotConnect) as error:
            reason = await session.last_word()
            if reason is not None:
                raise reason from error
            if session.link_stands and not session.data_came and peer.data != "websocket":
                raise DirectDataFailed(str(error)) from error
            raise
        finally:
            session.end()
            await session.close_channels()
