"""One peer's control connection, from its first request to its last."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import trio

from protocol.control import Received
from protocol.messages import (
    CopyTo,
    GetPoint,
    GetSlots,
    ListPoints,
    Pair,
    Paired,
    Park,
    PutSlots,
    Reach,
    Start,
    StatusReply,
    StatusRequest,
)
from protocol.messages import Mandate as MandateMessage
from transporter.catalog import PEER_DIALS, Peer
from transporter.config import load_config
from transporter.errors import ConfigError, IdentityRefused, JobBusy, JobFailed, RefusedByPeer, TransporterError
from transporter.events import EventBus
from transporter.link.broken import LinkBroken
from transporter.link.control_link import ControlLink
from transporter.link.identity import tenant_name
from transporter.link.pairing import PROXY_RIGHT, answer_pairing
from transporter.service.answers import answer_get_point, answer_list_points
from transporter.service.keeping import answer_keeping
from transporter.service.mandated import answer_copy_to, answer_mandate, check_mandated
from transporter.service.provider import Provider
from transporter.service.refusal import refuse
from transporter.service.slots import answer_get_slots, answer_put_slots
from transporter.service.starting import serve_session
from transporter.service.transform import answer_transform

# A peer that asks for nothing may stay (its heartbeat is cheap), but an unpaired one has only this long to pair.
PAIRING_SECONDS = 20.0
# One that has too many connections here has this long to ask for something, and to be told so.
REQUEST_SECONDS = 5.0


async def serve_peer(provider: Provider, link: ControlLink, bus: EventBus) -> None:
    """Answer one peer until its connection ends. An error is told to the peer, then raised for the log."""
    try:
        with trio.fail_after(PAIRING_SECONDS) as deadline:
            if provider.catalog.peer_by_pin(link.peer_pin) is None:
                await _pair(provider, link)
            with ExitStack() as counted:
                try:
                    counted.enter_context(provider.connected(link.peer_pin))
                except JobBusy:
                    # It can be told so only in answer to a request.
                    with trio.move_on_after(REQUEST_SECONDS):
                        await link.receive()
                    raise
                link.peer_is_known()
                deadline.deadline = float("inf")
                while True:
                    await _answer(provider, link, await link.receive(), bus)
    except TransporterError as error:
        await refuse(link, error)
        raise
    except (LinkBroken, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
        if not isinstance(error, trio.TooSlowError):
            raise
        raise IdentityRefused("an unknown node connected and did not pair", "nothing to do about it") from None
    except Exception:
        # A fault of this end: the peer must not take it for a broken line and dial for ever.
        await refuse(link, JobFailed("the peer met an internal error", "see the log of the daemon there"))
        raise


async def _pair(provider: Provider, link: ControlLink) -> None:
    received = await link.receive()
    if not isinstance(received.message, Pair):
        own = provider.config.node.name
        raise IdentityRefused(
            f"{own} does not know the node that asks", f"pair first: `invite` at {own}, `join` at the other"
        )
    await _answer_pair(provider, link, received.message)


async def _answer_pair(provider: Provider, link: ControlLink, message: Pair) -> None:
    own = tenant_name(provider.config.node.name, provider.identity.pin)
    peer = await answer_pairing(link, message, provider.catalog, provider.clock, own)
    await _tell_paired(provider, link, peer)


async def _tell_paired(provider: Provider, link: ControlLink, peer: Peer) -> None:
    name = provider.config.node.name
    repositories = [name for name in peer.rights if name != PROXY_RIGHT]
    # As the configuration is now: one that was given up would be asked in vain for good, by every drill, say.
    with suppress(ConfigError):  # somebody edits it just now
        there = load_config(provider.home.config_path).repositories
        repositories = [name for name in repositories if name in there]
    await link.send(Paired(name=name, repositories=repositories, tenant=peer.tenant))


async def _answer(provider: Provider, link: ControlLink, received: Received, bus: EventBus) -> None:
    message = received.message
    # Rights may have changed while the connection was idle, and the peer may have been removed.
    peer = provider.peer_on(link)
    try:
        check_mandated(link, message)
        if isinstance(message, Pair):
            # A known node that was invited to one more repository.
            await _answer_pair(provider, link, message)
        elif isinstance(message, ListPoints):
            await answer_list_points(provider, link, peer, message)
        elif isinstance(message, GetPoint):
            await answer_get_point(provider, link, peer, message)
        elif isinstance(message, GetSlots):
            await answer_get_slots(provider, link, peer, message)
        elif isinstance(message, PutSlots):
            await answer_put_slots(provider, link, peer, received)
        elif await answer_keeping(provider, link, peer, received) or await answer_transform(
            provider, link, peer, received
        ):
            pass
        elif isinstance(message, StatusRequest):
            await link.send(StatusReply(), b"\x80")
        elif isinstance(message, Start):
            await serve_session(provider, link, peer, message, bus)
        elif isinstance(message, MandateMessage):
            await answer_mandate(provider, link, received)
        elif isinstance(message, CopyTo):
            await answer_copy_to(provider, link, peer, received)
        elif isinstance(message, Park):
            await _park(provider, link, peer, message)
        elif isinstance(message, Reach):
            await _reach(provider, link, peer, message)
        else:
            raise RefusedByPeer(f"{type(message).__name__} does not fit in this place", "update the transporter")
    except TransporterError as error:
        if isinstance(message, Start | Pair | Park):
            raise
        await refuse(link, error)


async def _park(provider: Provider, link: ControlLink, peer: Peer, park: Park) -> None:
    """Hold the connection for whoever wants to reach the peer: jobs of this node, or through it as a proxy host."""
    own = provider.config.node.name
    if peer.link != PEER_DIALS and PROXY_RIGHT not in peer.rights:
        raise RefusedByPeer(
            f"{own} does not wait for {peer.name} to dial it", f"pair anew: `join … --reverse` at {own}"
        )
    if peer.link != PEER_DIALS and provider.relay is None:
        raise _no_proxy(own)
    await provider.parked.keep(link, park)


async def _reach(provider: Provider, link: ControlLink, peer: Peer, message: Reach) -> None:
    own = provider.config.node.name
    if provider.relay is None:
        raise _no_proxy(own)
    if PROXY_RIGHT not in peer.rights:
        raise RefusedByPeer(
            f"{peer.name} may not use the proxy host {own}", f"ask for an invitation: `invite --proxy` at {own}"
        )
    await provider.relay.reach(link, peer, provider.catalog.peer_by_pin(message.peer), message)


def _no_proxy(own: str) -> RefusedByPeer:
    return RefusedByPeer(f"{own} does not serve as a proxy host now", f"start it at {own} with `serve --proxy`")
