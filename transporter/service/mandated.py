"""Copies in a conductor's name: the source that is asked to push, and the target that is shown its mandate."""

from __future__ import annotations

import trio

from pipeline.run import open_tasks
from protocol.control import Received
from protocol.messages import CommitCopy, CopyTo, Mandated, Message, Progress, Start
from transporter.catalog import Peer
from transporter.errors import CannotConnect, IdentityRefused, LinkLost, RefusedByPeer, TransporterError
from transporter.link.control_link import ControlLink
from transporter.logs import get_logger
from transporter.points.mandate import Mandate, read_mandate
from transporter.service.provider import Provider

# Tells the conductor that the copy lives, and this end that the conductor does: its connection is not read meanwhile.
PROGRESS_SECONDS = 1.0
log = get_logger()


async def answer_mandate(provider: Provider, link: ControlLink, received: Received) -> None:
    """From now on this connection acts for who signed the mandate. Raises RefusedByPeer."""
    mandate = read_mandate(received.payload, provider.clock.now_ns())
    if (mandate.source, mandate.target) != (link.peer_pin, provider.identity.pin):
        raise RefusedByPeer("the mandate is not for these two nodes", "copy again")
    provider.repository(provider.known_peer(mandate.conductor), mandate.repository)
    link.mandate = mandate
    log.info("a copy in another's name", source=link.peer_name, job=mandate.job, points=len(mandate.points))
    await link.send(Mandated())


def check_mandated(link: ControlLink, message: Message) -> None:
    """Raise RefusedByPeer for anything that a connection which acts for another is not for."""
    mandate = link.mandate
    if not isinstance(mandate, Mandate):
        return
    asked = isinstance(message, Start) and (message.purpose, message.repository, message.job, message.name)
    if asked != ("copy-in", mandate.repository, mandate.job, mandate.name):
        raise RefusedByPeer("the mandate does not allow that", "update the transporter")


def check_allowed(link: ControlLink, message: CommitCopy) -> None:
    """Raise RefusedByPeer for a point that the connection's mandate, where it has one, does not name."""
    mandate = link.mandate
    if isinstance(mandate, Mandate) and (message.resealed or not mandate.allows(message.point, message.hash)):
        raise RefusedByPeer("the mandate does not name this restore point", "update the transporter")


async def answer_copy_to(provider: Provider, link: ControlLink, peer: Peer, received: Received) -> None:
    """Push points of this tenant to another node; the answer comes when they are there. Raises what keeps them."""
    message = received.message
    assert isinstance(message, CopyTo)
    provider.repository(peer, message.repository)
    mandate = read_mandate(received.payload, provider.clock.now_ns())
    if (mandate.conductor, mandate.source, mandate.target) != (peer.pin, provider.identity.pin, message.peer):
        raise RefusedByPeer("the mandate is not for this copy", "copy again")
    own = provider.config.node.name
    target = provider.catalog.peer_by_pin(message.peer)
    if target is None or provider.push is None:
        raise RefusedByPeer(
            f"{own} does not know the node that the points are to go to, and cannot dial it",
            f"pair the two (`invite` there, `join` at {own}), or have the data pass through your node: --through",
        )
    moved, ended = 0, trio.Event()
    failure: TransporterError | None = None

    def note(size: int) -> None:
        nonlocal moved
        moved = size

    async def tell() -> None:
        while True:
            with trio.move_on_after(PROGRESS_SECONDS):
                await ended.wait()
            if ended.is_set():
                return
            await link.send(Progress(activity="copy", done=moved))

    async with open_tasks() as nursery:
        nursery.start_soon(tell)
        try:
            done = await provider.push(peer, message, mandate, bytes(received.payload), note)
        except (CannotConnect, IdentityRefused, LinkLost) as error:
            failure = RefusedByPeer(
                f"{target.name} cannot be reached from {own}: {error.what}",
                f"pair the two so that {own} can dial {target.name}, mend the line between them, or have the data pass "
                "through your node: --through",
            )
            failure.__cause__ = error
        except TransporterError as error:
            failure = error
        # Not cancelled: a word that is cut short on its way is the last one, and the answer could not follow it.
        ended.set()
    if failure is not None:
        raise failure
    await link.send(done)
