"""Pairing: ``invite`` at one node, ``join`` at the other; afterwards both have the other's pin."""

from __future__ import annotations

import hmac

import trio

from protocol.messages import Pair, Paired, Refused
from transporter.catalog import Catalog, Invitation, Peer
from transporter.clock import Clock, SystemClock
from transporter.config import NAME, NAME_REMEDY, load_config
from transporter.errors import ConfigError, IdentityRefused, RefusedByPeer
from transporter.home import Home
from transporter.link.address import parse_address
from transporter.link.broken import LinkBroken
from transporter.link.control_link import ControlLink, refusal_to_error
from transporter.link.dial import Peer as DialPeer
from transporter.link.dial import dial_control
from transporter.link.identity import load_identity
from transporter.link.invitation import (
    DEFAULT_LIFETIME_SECONDS,
    SECRET_LENGTH,
    InvitationText,
    check_not_expired,
    decode_invitation,
    encode_invitation,
    proof_of,
    secret_hash,
)
from transporter.link.outbound import choose_proxy

JOIN_SECONDS = 20.0
_SYSTEM = SystemClock()


def invite(
    home: Home,
    repository: str,
    *,
    lifetime: float = DEFAULT_LIFETIME_SECONDS,
    address: str = "",
    clock: Clock = _SYSTEM,
) -> str:
    """Return an invitation to use ``repository`` of this home; ``lifetime`` in seconds.

    Raises ConfigError when the repository is unknown or the node has no address that others could dial.
    """
    config = load_config(home.config_path)
    config.repository(repository)
    where = address or config.node.address or config.node.listen
    if not where:
        raise ConfigError("this node does not listen", 'set listen = "HOST:6180" in [node] of config.toml')
    identity = load_identity(home.path, config.node.name, clock)
    secret = clock.random_bytes(SECRET_LENGTH)
    expires = clock.now_ns() + int(lifetime * 1e9)
    with Catalog(home.catalog_db) as catalog:
        catalog.add_invitation(Invitation(secret_hash(secret), repository, expires))
    return encode_invitation(
        InvitationText(
            name=config.node.name,
            address=where,
            pin=identity.pin,
            secret=secret,
            repository=repository,
            expires_ns=expires,
        )
    )


async def join(home: Home, text: str, *, clock: Clock = _SYSTEM) -> str:
    """Accept an invitation: prove the secret to the pinned node, keep its pin, return the name it has here from now on.

    Raises UsageError, IdentityRefused, CannotConnect, RefusedByPeer.
    """
    invitation = decode_invitation(text)
    check_not_expired(invitation, clock.now_ns())
    config = load_config(home.config_path)
    identity = load_identity(home.path, config.node.name, clock)
    address = parse_address(invitation.address)
    peer = DialPeer(invitation.name, address, invitation.pin, outbound=choose_proxy(config.link, address))
    try:
        async with dial_control(peer, identity) as link:
            proof = proof_of(secret_hash(invitation.secret), link.exporter, identity.pin)
            await link.send(Pair(proof=proof, name=config.node.name))
            with trio.move_on_after(JOIN_SECONDS) as deadline:
                received = await link.receive()
            if deadline.cancelled_caught:
                raise RefusedByPeer("the peer did not answer the invitation", "try again, or ask for a new one")
    except LinkBroken as error:
        raise RefusedByPeer(f"the peer ended the pairing: {error}", "ask for a new invitation") from error
    if isinstance(received.message, Refused):
        raise refusal_to_error(received.message.code, received.message.what, received.message.remedy)
    if not isinstance(received.message, Paired):
        raise RefusedByPeer("the peer did not finish the pairing", "update the transporter there")
    with Catalog(home.catalog_db) as catalog:
        catalog.put_peer(
            Peer(
                invitation.name,
                invitation.pin,
                invitation.address,
                offers=tuple(received.message.repositories),
                added_ns=clock.now_ns(),
            )
        )
    return invitation.name


async def answer_pairing(link: ControlLink, pair: Pair, catalog: Catalog, clock: Clock) -> Peer:
    """The inviting side: check the proof, use the invitation up, remember the peer. Raises IdentityRefused.

    The proof is made once for each invitation that is known, so that no secret ever crosses the link.
    """
    for invitation in catalog.invitations():
        expected = proof_of(invitation.secret_hash, link.exporter, link.peer_pin)
        if hmac.compare_digest(expected, pair.proof):
            _check_name(catalog, link.peer_pin, pair.name)
            used = catalog.use_invitation(invitation.secret_hash, clock.now_ns())
            return _remember(catalog, link.peer_pin, pair.name, used.repository, clock)
    raise IdentityRefused("this invitation is not known here", "ask for a new one: transporter invite")


def _check_name(catalog: Catalog, pin: bytes, name: str) -> None:
    """Refuse a name that is none or that another node has, before the invitation is used up by it."""
    if not NAME.match(name):
        # It becomes part of the tenant's name, and so of labels in which "/" separates tenant from job.
        raise IdentityRefused(f"{name!r} is not a usable name for a node", NAME_REMEDY)
    known = catalog.peer(name)
    if known is not None and known.pin != pin and catalog.peer_by_pin(pin) is None:
        raise IdentityRefused(
            f"a node called {name!r} is paired here already",
            "give the new one another name, or `peer remove` the old one",
        )


def _remember(catalog: Catalog, pin: bytes, name: str, repository: str, clock: Clock) -> Peer:
    known = catalog.peer_by_pin(pin)
    # The tenant is the identity: its pin. A name can be chosen by anybody, and could be another tenant's.
    tenant = known.tenant if known is not None and known.tenant else f"{name}-{pin.hex()[:8]}"
    name = known.name if known is not None else name
    catalog.put_peer(Peer(name, pin, tenant=tenant, rights=(repository,), added_ns=clock.now_ns()))
    stored = catalog.peer_by_pin(pin)
    if stored is None:
        raise IdentityRefused("the peer could not be remembered", "try again")
    return stored
