"""Pairing: ``invite`` at one node, ``join`` at the other; afterwards both have the other's pin.

repository   the inviting node lets the joining one use a repository of its own
proxy        the inviting node is a proxy host, and lets the joining one use it
source       the inviting node wants to use a repository of the joining one, which then dials it (reversed)
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from typing import Literal

import trio

from protocol.messages import Pair, Paired, Refused
from transporter.catalog import PEER_DIALS, PROXY_HOST, WE_DIAL, Catalog, Invitation, Peer
from transporter.clock import Clock, SystemClock
from transporter.config import NAME, NAME_REMEDY, Config, is_address, load_config
from transporter.errors import ConfigError, IdentityRefused, RefusedByPeer, UsageError
from transporter.home import Home
from transporter.link.broken import LinkBroken
from transporter.link.control_link import ControlLink, refusal_to_error
from transporter.link.dial import dial_control
from transporter.link.identity import Identity, load_identity, tenant_name
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
from transporter.link.routes import Routes

JOIN_SECONDS = 20.0
_SYSTEM = SystemClock()
# The right, beside names of repositories, to use a node as a proxy host; no repository can be called so.
PROXY_RIGHT = "@proxy"
# What an invitation of the kind "source" opens here: nothing; it asks for something.
_SOURCE = "@source"

Kind = Literal["repository", "proxy", "source"]


@dataclass(frozen=True)
class _Way:
    """How the other node gets to this one: an address, or a proxy host and its pin."""

    address: str
    via: bytes = b""
    via_name: str = ""


def invite(
    home: Home,
    repository: str,
    *,
    kind: Kind = "repository",
    via: str = "",
    may_remove: bool = False,
    lifetime: float = DEFAULT_LIFETIME_SECONDS,
    address: str = "",
    clock: Clock = _SYSTEM,
) -> str:
    """Return an invitation to use ``repository`` of this home (see above for other kinds); ``lifetime`` in seconds.

    ``may_remove``: and to remove restore points there; without it the joining node only adds. ``via``: the proxy host
    through which the joining node reaches this one. Raises ConfigError when the repository or the proxy host is
    unknown, or when the node has no address that others could dial.
    """
    config = load_config(home.config_path)
    if kind == "repository":
        config.repository(repository)
    identity = load_identity(home.path, config.node.name, clock)
    secret = clock.random_bytes(SECRET_LENGTH)
    expires = clock.now_ns() + int(lifetime * 1e9)
    opens = {"repository": repository, "proxy": PROXY_RIGHT, "source": _SOURCE}[kind]
    with Catalog(home.catalog_db) as catalog:
        way = _way_through(catalog, via) if via else _Way(address or _own_address(config))
        if not way.address:
            raise ConfigError("this node does not listen", 'set listen = "HOST:6180" in [node] of config.toml')
        catalog.add_invitation(Invitation(secret_hash(secret), opens, expires, may_remove=may_remove))
    return encode_invitation(
        InvitationText(
            name=config.node.name,
            address=way.address,
            pin=identity.pin,
            secret=secret,
            repository=repository,
            expires_ns=expires,
            kind=kind,
            via=way.via,
            via_name=way.via_name,
        )
    )


def _own_address(config: Config) -> str:
    return config.node.address or config.node.listen


def _way_through(catalog: Catalog, name: str) -> _Way:
    relay = catalog.peer(name)
    if relay is None or relay.link != PROXY_HOST:
        raise ConfigError(f"there is no proxy host {name!r}", "join it first: `invite --proxy` there, `join` here")
    return _Way(relay.address, relay.pin, relay.name)


async def join(home: Home, text: str, *, reverse: bool = False, repository: str = "", clock: Clock = _SYSTEM) -> str:
    """Accept an invitation: prove the secret to the pinned node, keep its pin, return the name it has here from now on.

    ``reverse``: from now on that node dials this one. ``repository``: what this home offers to a source that asks.
    Raises UsageError, ConfigError, IdentityRefused, CannotConnect, RefusedByPeer.
    """
    invitation = decode_invitation(text)
    check_not_expired(invitation, clock.now_ns())
    config = load_config(home.config_path)
    _check_fits(invitation, config, reverse=reverse, repository=repository)
    identity = load_identity(home.path, config.node.name, clock)
    with Catalog(home.catalog_db) as catalog:
        relay = _relay_of(invitation, catalog)
        if repository:
            own = tenant_name(config.node.name, identity.pin)
            _check_tenant(catalog, invitation.pin, tenant_name(invitation.name, invitation.pin), own)
        offered = await _pair(invitation, relay, config, identity, reverse=reverse, repository=repository)
        catalog.put_peer(_joined(invitation, relay, offered, reverse=reverse, repository=repository, clock=clock))
    return invitation.name


def _check_fits(invitation: InvitationText, config: Config, *, reverse: bool, repository: str) -> None:
    if invitation.kind == "source":
        if not repository:
            raise UsageError(
                f"{invitation.name} asks for a repository of this home", "name one: join INVITATION --repository NAME"
            )
        config.repository(repository)
    elif repository:
        raise UsageError("this invitation asks for no repository of this home", "leave --repository out")
    if reverse and invitation.kind != "repository":
        raise UsageError("--reverse does not fit to this invitation", "leave it out")
    if reverse and not invitation.via and not _own_address(config):
        raise ConfigError(
            "this node does not listen, so the other one cannot dial it",
            'set listen = "HOST:6180" in [node] of config.toml, or pair through a proxy host',
        )


def _relay_of(invitation: InvitationText, catalog: Catalog) -> Peer | None:
    if not invitation.via:
        return None
    relay = catalog.peer_by_pin(invitation.via)
    if relay is None or relay.link != PROXY_HOST:
        raise ConfigError(
            f"{invitation.name} is reached through the proxy host {invitation.via_name!r}, which is not known here",
            "join it first: `invite --proxy` there, `join` here",
        )
    return relay


async def _pair(
    invitation: InvitationText,
    relay: Peer | None,
    config: Config,
    identity: Identity,
    *,
    reverse: bool,
    repository: str,
) -> tuple[str, ...]:
    """Prove the invitation's secret; return the repositories that are open to this node now."""
    routes = Routes(lambda _name: relay, identity, config.link, float(config.limits.connect_timeout))
    via = relay.name if relay is not None else ""
    peer = routes.to(Peer(invitation.name, invitation.pin, invitation.address, via=via))
    try:
        async with dial_control(peer, identity) as link:
            pair = Pair(
                proof=proof_of(secret_hash(invitation.secret), link.exporter, identity.pin),
                name=config.node.name,
                reverse=reverse,
                address=_own_address(config) if reverse and relay is None else "",
                via=invitation.via if reverse else b"",
                offer=repository,
            )
            await link.send(pair)
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
    return tuple(received.message.repositories)


def _joined(
    invitation: InvitationText,
    relay: Peer | None,
    offered: tuple[str, ...],
    *,
    reverse: bool,
    repository: str,
    clock: Clock,
) -> Peer:
    """Return the inviting node as this one knows it from now on."""
    link = PEER_DIALS if reverse else {"repository": "", "proxy": PROXY_HOST, "source": WE_DIAL}[invitation.kind]
    return Peer(
        invitation.name,
        invitation.pin,
        "" if relay is not None else invitation.address,
        tenant=tenant_name(invitation.name, invitation.pin) if repository else "",
        offers=offered,
        rights=(repository,) if repository else (),
        added_ns=clock.now_ns(),
        link=link,
        via=relay.name if relay is not None else "",
    )


async def answer_pairing(link: ControlLink, pair: Pair, catalog: Catalog, clock: Clock, own: str) -> Peer:
    """The inviting side: check the proof, use the invitation up, remember the peer. Raises IdentityRefused.

    The proof is made once for each invitation that is known, so that no secret ever crosses the link. ``own``: the
    tenant that this node is in its own repositories.
    """
    for invitation in catalog.invitations():
        expected = proof_of(invitation.secret_hash, link.exporter, link.peer_pin)
        if hmac.compare_digest(expected, pair.proof):
            _check_name(catalog, link.peer_pin, pair.name)
            entry = _invited(pair, link.peer_pin, invitation.repository, catalog, clock)
            _check_tenant(catalog, link.peer_pin, entry.tenant, own)
            catalog.use_invitation(invitation.secret_hash, clock.now_ns())
            if invitation.may_remove and entry.rights:
                entry = replace(entry, removes=entry.rights)
            return _remember(catalog, entry)
    raise IdentityRefused("the inviting node does not know this invitation", "ask for a new one: transporter invite")


def _check_name(catalog: Catalog, pin: bytes, name: str) -> None:
    """Refuse a name that is none or that another node has, before the invitation is used up by it."""
    if not NAME.match(name):
        # It becomes part of the tenant's name, and so of labels in which "/" separates tenant from job.
        raise IdentityRefused(f"{name!r} is not a usable name for a node", NAME_REMEDY)
    known = catalog.peer(name)
    if known is not None and known.pin != pin and catalog.peer_by_pin(pin) is None:
        raise IdentityRefused(
            f"the inviting node is paired with another node called {name!r} already",
            "give the new one another name, or `peer remove` the old one there",
        )


def _check_tenant(catalog: Catalog, pin: bytes, tenant: str, own: str) -> None:
    """Refuse a node that would become a tenant which another node is here, or which this one is itself.

    A tenant's name has four bytes of the pin in it: whoever tries some billions of keys finds one that has the same.
    """
    others = {peer.tenant for peer in catalog.peers() if peer.pin != pin and peer.tenant}
    if tenant and tenant in {*others, own}:
        raise IdentityRefused(
            f"another node is the tenant {tenant!r} of the inviting node already",
            "give the new one another name; nobody meets this by chance: find out who asks",
        )


def _invited(pair: Pair, pin: bytes, opens: str, catalog: Catalog, clock: Clock) -> Peer:
    """Return the joining node as this one is to know it. Raises RefusedByPeer for wishes that cannot be met."""
    known = catalog.peer_by_pin(pin)
    name = known.name if known is not None else pair.name
    if opens == _SOURCE:
        if not NAME.match(pair.offer):
            raise RefusedByPeer(
                "the invitation asks for a repository, and none was offered", "join … --repository NAME"
            )
        return Peer(name, pin, offers=(pair.offer,), added_ns=clock.now_ns(), link=PEER_DIALS)
    tenant = known.tenant if known is not None and known.tenant else tenant_name(pair.name, pin)
    entry = Peer(name, pin, tenant=tenant, rights=(opens,), added_ns=clock.now_ns())
    if not pair.reverse or opens == PROXY_RIGHT:
        return entry
    relay = catalog.peer_by_pin(pair.via) if pair.via else None
    if pair.via and (relay is None or relay.link != PROXY_HOST):
        raise RefusedByPeer(
            "the inviting node does not know the proxy host through which it is to dial the other", "join it there"
        )
    if relay is None and not is_address(pair.address):
        raise RefusedByPeer(f"{pair.address!r} is no address that could be dialled", "set `listen` or `address`")
    via = relay.name if relay is not None else ""
    return Peer(name, pin, pair.address, tenant, (), (opens,), clock.now_ns(), WE_DIAL, via)


def _remember(catalog: Catalog, entry: Peer) -> Peer:
    catalog.put_peer(entry)
    stored = catalog.peer_by_pin(entry.pin)
    if stored is None:
        raise IdentityRefused("the peer could not be remembered", "try again")
    return stored
