"""Invitations, and pairing by them: once, in time, by whoever knows the secret, over this one connection."""

from __future__ import annotations

import base64

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from world import make_node

from protocol.messages import Pair, Paired, Refused, StatusRequest
from transporter.catalog import Peer as Known
from transporter.clock import ManualClock
from transporter.errors import CannotConnect, ConfigError, IdentityRefused, UsageError
from transporter.link.dial import Peer, dial_control
from transporter.link.invitation import (
    PREFIX,
    InvitationText,
    check_not_expired,
    decode_invitation,
    encode_invitation,
    proof_of,
    secret_hash,
)
from transporter.link.pairing import invite, join

INVITATION = InvitationText(
    name="offsite", address="host:6180", pin=b"p" * 32, secret=b"s" * 32, repository="main", expires_ns=10
)


def test_an_invitation_is_one_line_and_reads_as_it_was_written():
    line = encode_invitation(INVITATION)
    assert "\n" not in line and line.startswith(PREFIX)
    assert decode_invitation(f"  {line}\n") == INVITATION


def test_its_secret_is_in_no_repr():
    assert "ssss" not in repr(INVITATION)
    assert "secret" not in repr(INVITATION)


@given(st.data())
@settings(deadline=None)
def test_a_cut_or_altered_line_is_refused_or_another_invitation_and_never_repeated(data):
    line = encode_invitation(INVITATION)
    at = data.draw(st.integers(0, len(line) - 1))
    altered = data.draw(
        st.sampled_from([line[:at], line[at + 1 :], line[:at] + "!" + line[at + 1 :], line[:at] + line])
    )
    try:
        got = decode_invitation(altered)
    except UsageError as error:
        assert line[20:60] not in str(error)
    else:
        assert len(got.pin) == len(got.secret) == 32


@given(st.text(max_size=200))
def test_any_text_is_refused(text):
    with pytest.raises(UsageError):
        decode_invitation(text)
    with pytest.raises(UsageError):
        decode_invitation(PREFIX + "%" + text)


@pytest.mark.parametrize("change", [{"pin": b"p" * 31}, {"secret": b""}])
def test_keys_of_a_wrong_length_are_refused(change):
    with pytest.raises(UsageError, match="incomplete or altered"):
        decode_invitation(encode_invitation(msgspec.structs.replace(INVITATION, **change)))


def test_an_enormous_line_is_refused_before_it_is_looked_at():
    body = base64.urlsafe_b64encode(msgspec.json.encode({"name": "x" * 100_000})).decode()
    with pytest.raises(UsageError):
        decode_invitation(PREFIX + body)


def test_an_invitation_ends():
    check_not_expired(INVITATION, 9)
    with pytest.raises(IdentityRefused, match="expired"):
        check_not_expired(INVITATION, 10)


def test_a_proof_is_bound_to_secret_connection_and_node():
    proof = proof_of(secret_hash(b"s" * 32), b"e" * 32, b"p" * 32)
    assert len(proof) == 32
    assert proof != proof_of(secret_hash(b"t" * 32), b"e" * 32, b"p" * 32)
    assert proof != proof_of(secret_hash(b"s" * 32), b"f" * 32, b"p" * 32)
    assert proof != proof_of(secret_hash(b"s" * 32), b"e" * 32, b"q" * 32)
    assert b"s" * 32 not in secret_hash(b"s" * 32)


# --- over the link --------------------------------------------------------------------------------------------


@pytest.fixture
def newcomer(world):
    """A node that nobody knows yet."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield make_node(world.folder, "newcomer", "", world.source.clock, stack)


def invited(world, **how):
    return invite(world.target.home, "main", address=str(world.address), **how)


async def test_a_node_joins_and_both_know_the_other(world, newcomer):
    name = await join(newcomer.home, invited(world))
    assert name == "offsite"
    known = newcomer.catalog.peer("offsite")
    assert (known.pin, known.offers, known.address) == (world.target.identity.pin, ("main",), str(world.address))
    there = world.target.catalog.peer("newcomer")
    assert (there.pin, there.rights) == (newcomer.identity.pin, ("main",))
    assert there.tenant == world.tenant(newcomer)
    await world.still_serves()


async def test_a_node_counts_as_half_open_until_it_is_paired(world, newcomer):
    line = decode_invitation(invited(world))
    half_open = world.front._half_open
    async with dial_control(Peer("offsite", world.address, line.pin), newcomer.identity) as link:
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert half_open.count == 1, "it is in only because an invitation is open"
        proof = proof_of(secret_hash(line.secret), link.exporter, newcomer.identity.pin)
        await link.send(Pair(proof=proof, name="newcomer"))
        assert isinstance((await link.receive()).message, Paired)
        assert half_open.count == 0
    async with world.source.control() as link:
        await link.send(StatusRequest())
        await link.receive()
        assert half_open.count == 0, "a known node is known by its key"


async def test_an_invitation_works_once(world, newcomer):
    line = invited(world)
    await join(newcomer.home, line)
    with pytest.raises(IdentityRefused, match="used already"):
        await join(world.neighbour.home, line)
    assert world.target.catalog.peer_by_pin(world.neighbour.identity.pin).rights == ("main", "rest")


async def test_a_known_node_that_joins_again_gets_the_further_repository(world, newcomer):
    await join(newcomer.home, invited(world))
    await join(newcomer.home, invite(world.target.home, "rest", address=str(world.address)))
    assert world.target.catalog.peer("newcomer").rights == ("main", "rest")


async def test_an_expired_invitation_is_refused_at_both_ends(world, newcomer):
    line = invited(world, lifetime=1e-9)
    with pytest.raises(IdentityRefused, match="expired"):
        await join(newcomer.home, line)
    lying_clock = ManualClock(wall_ns=world.source.clock.now_ns() - 10**12)
    with pytest.raises(IdentityRefused):
        # No invitation is open at the other end: it does not even finish the handshake.
        await join(newcomer.home, line, clock=lying_clock)
    invited(world)
    with pytest.raises(IdentityRefused, match="expired"):
        await join(newcomer.home, line, clock=lying_clock)
    assert world.target.catalog.peer("newcomer") is None


async def test_an_invitation_to_somebody_elses_key_is_refused_before_the_proof_is_sent(world, newcomer):
    altered = msgspec.structs.replace(decode_invitation(invited(world)), pin=world.neighbour.identity.pin)
    with pytest.raises(IdentityRefused, match="pinned"):
        await join(newcomer.home, encode_invitation(altered))
    assert all(one.used_ns is None for one in world.target.catalog.invitations())


async def test_a_wrong_secret_is_refused(world, newcomer):
    altered = msgspec.structs.replace(decode_invitation(invited(world)), secret=bytes(32))
    with pytest.raises(IdentityRefused, match="inviting node does not know this invitation"):
        await join(newcomer.home, encode_invitation(altered))
    assert world.target.catalog.peer("newcomer") is None


async def test_a_proof_made_for_another_connection_is_worth_nothing(world, newcomer):
    invitation = decode_invitation(invited(world))
    peer = Peer("offsite", world.address, world.target.identity.pin)
    async with dial_control(peer, newcomer.identity) as first:
        proof = proof_of(secret_hash(invitation.secret), first.exporter, newcomer.identity.pin)
        async with dial_control(peer, newcomer.identity) as second:
            await second.send(Pair(proof=proof, name="newcomer"))
            answer = (await second.receive()).message
            assert isinstance(answer, Refused) and answer.code == "identity-refused"
        await first.send(Pair(proof=proof, name="newcomer"))
        assert isinstance((await first.receive()).message, Paired)


@pytest.mark.parametrize("name", ["office", "", "a/b", "../x", "x" * 65, " "])
async def test_a_name_that_is_taken_or_unfit_is_refused_and_the_invitation_stays_open(world, newcomer, name):
    invitation = decode_invitation(invited(world))
    peer = Peer("offsite", world.address, world.target.identity.pin)
    async with dial_control(peer, newcomer.identity) as link:
        proof = proof_of(secret_hash(invitation.secret), link.exporter, newcomer.identity.pin)
        await link.send(Pair(proof=proof, name=name))
        answer = (await link.receive()).message
    assert isinstance(answer, Refused) and answer.code == "identity-refused"
    assert world.target.catalog.peer_by_pin(newcomer.identity.pin) is None
    assert await join(newcomer.home, encode_invitation(invitation)) == "offsite"


@pytest.mark.parametrize("whose", ["another node's", "the provider's own"])
async def test_no_node_becomes_a_tenant_that_another_one_is(world, newcomer, whose, monkeypatch):
    """As of one that tried keys until its pin began like the other's, and took its name."""
    tenant = world.tenant(newcomer)
    if whose == "the provider's own":
        monkeypatch.setattr("transporter.service.peer.tenant_name", lambda _name, _pin: tenant)
    else:
        world.target.catalog.put_peer(Known("before", b"b" * 32, tenant=tenant, rights=("main",)))
    with pytest.raises(IdentityRefused, match="is the tenant"):
        await join(newcomer.home, invited(world))
    assert world.target.catalog.peer_by_pin(newcomer.identity.pin) is None
    assert all(one.used_ns is None for one in world.target.catalog.invitations())


async def test_nor_does_one_that_asks_for_a_repository(world, newcomer):
    world.target.catalog.put_peer(Known("before", b"b" * 32, tenant=world.tenant(newcomer), rights=("main",)))
    line = invite(newcomer.home, "", kind="source", address="127.0.0.1:1")
    with pytest.raises(IdentityRefused, match="is the tenant"):
        await join(world.target.home, line, repository="main")


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "\x1b[2J"},
        {"address": "h:1\n"},
        {"repository": "\x9b1m"},
        {"via_name": "\u202e"},
    ],
)
def test_an_invitation_whose_words_are_no_names_is_refused(change):
    """A peer is called what its invitation says, and what it says is shown."""
    with pytest.raises(UsageError, match="names no node"):
        decode_invitation(encode_invitation(msgspec.structs.replace(INVITATION, **change)))


async def test_an_unknown_node_is_refused_where_no_invitation_is_open(world, newcomer):
    peer = Peer("offsite", world.address, world.target.identity.pin)
    with pytest.raises(IdentityRefused):
        async with dial_control(peer, newcomer.identity):
            pytest.fail("the handshake must not end well")


async def test_an_unknown_node_can_do_nothing_but_pair(world, newcomer):
    invited(world)
    from protocol.messages import ListPoints

    peer = Peer("offsite", world.address, world.target.identity.pin)
    async with dial_control(peer, newcomer.identity) as link:
        await link.send(ListPoints(repository="main"))
        answer = (await link.receive()).message
    assert isinstance(answer, Refused) and answer.code == "identity-refused"


async def test_nobody_there(newcomer):
    from transporter.link.address import Address

    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        peer = Peer("offsite", Address(*sock.getsockname()[:2]), b"p" * 32)
        with pytest.raises(CannotConnect, match="cannot connect"):
            async with dial_control(peer, newcomer.identity):
                pytest.fail("nobody listens there")


def test_inviting_needs_a_repository_and_an_address(world_home):
    with pytest.raises(ConfigError, match="no repository"):
        invite(world_home, "other")
    with pytest.raises(ConfigError, match="does not listen"):
        invite(world_home, "main")


@pytest.fixture
def world_home(tmp_path):
    from contextlib import ExitStack

    from transporter.clock import SystemClock

    with ExitStack() as stack:
        yield make_node(tmp_path, "offsite", "[repositories.main]\n", SystemClock(), stack).home
