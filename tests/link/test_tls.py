"""TLS: both pins are checked in the handshake, nothing weaker than the agreed parameters, and an end is an end."""

from __future__ import annotations

import functools
import socket
import ssl
import threading

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from transporter.errors import CannotConnect, IdentityRefused, TamperingDetected
from transporter.link import tls
from transporter.link.tls import HYBRID_GROUP, TlsStream


def streams(identities, *, client_pins=None, server_pins=None, wire=None):
    """A client and a server; each accepts the other's pin unless told otherwise."""
    alice, bob, _ = identities
    near, far = wire or trio.testing.memory_stream_pair()
    client_pins = {bob.pin} if client_pins is None else client_pins
    server_pins = {alice.pin} if server_pins is None else server_pins
    client = TlsStream(near, alice, server=False, accept_pin=client_pins.__contains__)
    server = TlsStream(far, bob, server=True, accept_pin=server_pins.__contains__)
    return client, server


async def outcome(function, *args):
    try:
        return await function(*args)
    except Exception as error:
        return error


async def both(first, second):
    """Run both to their ends; return what came of each. The one that fails closes its side, as the program does."""
    results = [None, None]

    async def run(at, stream):
        results[at] = await outcome(stream.do_handshake)
        if results[at] is not None:
            await stream._carrier.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, 0, first)
        nursery.start_soon(run, 1, second)
    return results


async def connected(identities, **how):
    client, server = streams(identities, **how)
    assert await both(client, server) == [None, None]
    return client, server


async def test_both_ends_know_whom_they_talk_to(identities):
    alice, bob, _ = identities
    client, server = await connected(identities)
    assert (client.peer_pin, server.peer_pin) == (bob.pin, alice.pin)
    assert client.exporter() == server.exporter()
    assert len(client.exporter()) == 32
    for side in (client, server):
        assert side._tls.get_protocol_version_name() == "TLSv1.3"
        assert side._tls.get_group_name() == HYBRID_GROUP


async def test_another_connection_has_another_exporter(identities):
    first, _ = await connected(identities)
    second, _ = await connected(identities)
    assert first.exporter() != second.exporter()


async def test_bytes_pass_both_ways(identities, nursery):
    client, server = await connected(identities)
    data = bytes(range(256)) * 2000
    nursery.start_soon(client.send_all, data)
    got = b""
    while len(got) < len(data):
        got += await server.receive_some()
    assert got == data
    nursery.start_soon(server.send_all, b"back")
    assert await client.receive_some(2) + await client.receive_some() == b"back"


async def test_there_is_no_pin_before_the_handshake(identities):
    client, _ = streams(identities)
    with pytest.raises(RuntimeError):
        _ = client.peer_pin


# --- identities -----------------------------------------------------------------------------------------------


async def test_a_client_refuses_a_server_with_another_pin(identities):
    mallory = identities[2]
    client, server = streams(identities, client_pins={mallory.pin})
    here, there = await both(client, server)
    assert isinstance(here, IdentityRefused)
    assert "pinned" in here.what
    assert isinstance(there, IdentityRefused), "the alert says who refused whom"
    assert "refused this node's identity" in there.what


async def test_a_server_refuses_a_client_with_another_pin_and_the_client_learns_of_it(identities):
    client, server = streams(identities, server_pins=set())
    here, there = await both(client, server)
    assert isinstance(there, IdentityRefused)
    assert here is None, "under TLS 1.3 a client is done first"
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    assert isinstance(client.refusal, IdentityRefused)
    assert client.refused.is_set()


async def test_a_client_without_a_certificate_is_refused(identities):
    bob = identities[1]
    near, far = trio.testing.memory_stream_pair()
    server = TlsStream(far, bob, server=True, accept_pin=lambda _: True)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    raw = TlsStream(near, identities[0], server=False, accept_pin=lambda _: True)
    raw._tls = SSL.Connection(context, None)
    raw._tls.set_connect_state()
    _, there = await both(raw, server)
    assert isinstance(there, CannotConnect | IdentityRefused)


# --- parameters -----------------------------------------------------------------------------------------------


def plain_ssl(identity, tmp_path, side, version):
    """The standard library's TLS with an identity of ours; its OpenSSL is the system's."""
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    files = tmp_path / "certificate", tmp_path / "key"
    files[0].write_bytes(identity.certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        identity.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context.load_cert_chain(*files)
    return context


def in_thread(function, results):
    def run():
        try:
            results.append(function())
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("ours", ["server", "client"])
async def test_tls_1_2_is_refused(identities, tmp_path, ours):
    alice, bob, _ = identities
    near, far = socket.socketpair()
    side = ssl.PROTOCOL_TLS_CLIENT if ours == "server" else ssl.PROTOCOL_TLS_SERVER
    context = plain_ssl(alice, tmp_path, side, ssl.TLSVersion.TLSv1_2)
    results = []
    wrap = functools.partial(context.wrap_socket, near, server_side=ours == "client", do_handshake_on_connect=False)
    with wrap() as their:
        their.settimeout(20)
        thread = in_thread(their.do_handshake, results)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(far)) as carrier:
            stream = TlsStream(carrier, bob, server=ours == "server", accept_pin=lambda _: True)
            error = await outcome(stream.do_handshake)
        await trio.to_thread.run_sync(thread.join)
    assert isinstance(error, CannotConnect | IdentityRefused)
    assert isinstance(results[0], OSError)


@pytest.mark.parametrize("ours", ["server", "client"])
async def test_a_key_exchange_that_is_not_hybrid_is_refused(identities, tmp_path, ours):
    alice, bob, _ = identities
    near, far = socket.socketpair()
    side = ssl.PROTOCOL_TLS_CLIENT if ours == "server" else ssl.PROTOCOL_TLS_SERVER
    context = plain_ssl(alice, tmp_path, side, ssl.TLSVersion.TLSv1_3)
    context.set_ecdh_curve("prime256v1")
    results = []
    with context.wrap_socket(near, server_side=ours == "client", do_handshake_on_connect=False) as their:
        their.settimeout(20)
        thread = in_thread(their.do_handshake, results)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(far)) as carrier:
            stream = TlsStream(carrier, bob, server=ours == "server", accept_pin=lambda _: True)
            error = await outcome(stream.do_handshake)
        await trio.to_thread.run_sync(thread.join)
    assert isinstance(error, IdentityRefused)
    assert HYBRID_GROUP in error.what


# --- ends -----------------------------------------------------------------------------------------------------


async def test_an_orderly_end_is_no_truncation(identities):
    client, server = await connected(identities)
    await client.aclose()
    assert await server.receive_some() == b""


async def test_a_cut_line_is_no_orderly_end(identities):
    client, server = await connected(identities)
    await client._carrier.aclose()
    with pytest.raises(trio.BrokenResourceError, match="without a TLS close"):
        await server.receive_some()


async def test_a_line_that_is_cut_during_the_handshake(identities):
    client, server = streams(identities)
    await server._carrier.aclose()
    assert isinstance(await outcome(client.do_handshake), CannotConnect | trio.BrokenResourceError)


class Cutting(trio.abc.Stream):
    """Half of a real socket pair. The line breaks just before the first send for which ``when`` is true."""

    def __init__(self, inner):
        self.inner = inner
        self.when = lambda: False
        self.victim = inner
        self.cut = False

    async def send_all(self, data):
        if self.when():
            self.cut = True
            await self.victim.aclose()
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self):
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        return await self.inner.receive_some(max_bytes)

    async def aclose(self):
        await self.inner.aclose()


def socket_streams():
    return [trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair()]


CUTS = ["by the peer", "here"]


async def outcome_of_a_cut(ours, theirs, cutting, far, where):
    """Shake hands; return what came of ``ours``, whose carrier is ``cutting``."""
    cutting.victim = {"by the peer": far, "here": cutting.inner}[where]
    with trio.fail_after(20):
        result, _ = await both(ours, theirs)
    await cutting.aclose()
    await far.aclose()
    assert cutting.cut
    return result


@pytest.mark.parametrize("where", CUTS)
async def test_a_line_that_breaks_under_the_last_words_of_the_handshake_is_no_connection(identities, where):
    """A client is done, and only its Finished has yet to leave."""
    near, far = socket_streams()
    cutting = Cutting(near)
    client, server = streams(identities, wire=(cutting, far))
    cutting.when = lambda: client._tls.get_finished() is not None
    result = await outcome_of_a_cut(client, server, cutting, far, where)
    assert isinstance(result, CannotConnect), repr(result)
    assert "broke in the TLS handshake" in result.what


@pytest.mark.parametrize("where", CUTS)
@pytest.mark.parametrize("ours", ["client", "server"])
async def test_who_refuses_a_peer_says_so_even_if_the_alert_cannot_be_sent(identities, ours, where):
    near, far = socket_streams()
    cutting = Cutting(near)
    wire = (cutting, far) if ours == "client" else (far, cutting)
    client, server = streams(identities, wire=wire, **{f"{ours}_pins": {b"another"}})
    us, them = (client, server) if ours == "client" else (server, client)
    # The pin that was offered is looked at, and what is sent next is the alert.
    cutting.when = lambda: us._offered is not None
    result = await outcome_of_a_cut(us, them, cutting, far, where)
    assert isinstance(result, IdentityRefused), repr(result)
    assert "pinned" in result.what


@pytest.mark.parametrize("where", CUTS)
async def test_tampering_in_the_handshake_is_named_even_if_the_alert_cannot_be_sent(identities, where):
    near, far = socket_streams()
    cutting, meddler = Cutting(near), Meddler(far)
    client, server = streams(identities, wire=(meddler, cutting))
    altered = []

    def alter_the_last(data):
        if client._tls.get_finished() is None:
            return [data]
        altered.append(data)
        return MEDDLING["flipped"](data)

    meddler.meddle = alter_the_last
    cutting.when = lambda: bool(altered)
    result = await outcome_of_a_cut(server, client, cutting, far, where)
    assert isinstance(result, TamperingDetected), repr(result)


async def test_what_is_no_tls_is_refused(identities):
    near, far = trio.testing.memory_stream_pair()
    server = TlsStream(far, identities[1], server=True, accept_pin=lambda _: True)
    await near.send_all(b"\x16GET / HTTP/1.1\r\n\r\n")
    error = await outcome(server.do_handshake)
    assert isinstance(error, CannotConnect | TamperingDetected)


class Meddler(trio.abc.Stream):
    """A carrier that lets a function at the bytes that are sent."""

    def __init__(self, inner):
        self.inner = inner
        self.meddle = lambda data: [data]

    async def send_all(self, data):
        for part in self.meddle(bytes(data)):
            await self.inner.send_all(part)

    async def wait_send_all_might_not_block(self):
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        return await self.inner.receive_some(max_bytes)

    async def aclose(self):
        await self.inner.aclose()


MEDDLING = {
    "flipped": lambda data: [data[:-1] + bytes([data[-1] ^ 1])],
    "repeated": lambda data: [data, data],
    "put in between": lambda data: [b"\x17\x03\x03\x00\x20" + bytes(32), data],
    "garbage": lambda data: [b"GET / HTTP/1.1\r\n\r\n"],
    "cut out of the middle": lambda data: [data[:5], data[9:], bytes(4)],
}


@pytest.mark.parametrize("how", MEDDLING)
async def test_records_that_were_altered_are_tampering_not_a_broken_line(identities, how):
    near, far = trio.testing.memory_stream_pair()
    meddler = Meddler(near)
    client, server = await connected(identities, wire=(meddler, far))
    meddler.meddle = MEDDLING[how]
    await client.send_all(b"a message" * 100)
    with pytest.raises(trio.BrokenResourceError):
        for _ in range(3):
            await server.receive_some()
    assert isinstance(server.refusal, TamperingDetected)
    assert server.refused.is_set()


def test_tickets_are_off(identities):
    """A ticket would let a later connection skip the pin check."""
    context = tls.make_context(identities[0], server=True, accept_pin=lambda _: True, seen=lambda _: None)
    assert context.set_options(0) & SSL.OP_NO_TICKET
    assert context.get_session_cache_mode() == SSL.SESS_CACHE_OFF
