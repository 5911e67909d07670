"""The control connection: TLS, a WebSocket in it, Hellos, a heartbeat, and deadlines for every wait."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.testing
import wsproto.events
from trio_websocket import wrap_client_stream, wrap_server_stream

from pipeline.run import open_tasks
from protocol.messages import Hello, ListPoints, Ping, Points, Refused
from transporter import errors
from transporter.errors import CannotConnect, IdentityRefused, RefusedByPeer, TamperingDetected
from transporter.link import control_link
from transporter.link.address import Address
from transporter.link.broken import LinkBroken
from transporter.link.control_link import control_client, control_server, refusal_to_error, requested_path
from transporter.link.dial import Peer, dial_control
from transporter.link.listen import HalfOpen
from transporter.link.tls import TlsStream


class Wire:
    """Two ends of a line in memory; what is sent can be held back or altered."""

    def __init__(self):
        self.near, self.far = trio.testing.memory_stream_pair()
        self.held = False
        for end in (self.near, self.far):
            self._tap(end)

    def _tap(self, end):
        send = end.send_stream.send_all

        async def send_all(data):
            if not self.held:
                await send(data)

        end.send_stream.send_all = send_all

    def gather(self):
        """From now on have what the far end sends arrive at once, when it closes."""
        gathered, out = bytearray(), self.far.send_stream
        send, close = out.send_all, out.aclose

        async def keep(data):
            gathered.extend(data)

        async def send_and_close():
            await send(bytes(gathered))
            await close()

        out.send_all, out.aclose = keep, send_and_close


@pytest.fixture
def wire():
    return Wire()


def client_of(wire, identities, *, accept=None):
    alice, bob, _ = identities
    tls = TlsStream(wire.near, alice, server=False, accept_pin=accept or (lambda pin: pin == bob.pin))
    return control_client(tls, "host", "alice")


def server_of(wire, identities, *, accept=lambda _: True):
    tls = TlsStream(wire.far, identities[1], server=True, accept_pin=accept)
    return control_server(tls, "bob", contextlib.nullcontext())


@contextlib.asynccontextmanager
async def pair(wire, identities):
    """Both ends, connected; the server runs in a task of its own. Its error, if any, is in ``errors``."""
    ready, done = trio.Event(), trio.Event()
    made = []

    async def serve():
        try:
            async with server_of(wire, identities) as link:
                made.append(link)
                ready.set()
                await done.wait()
        except LinkBroken:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with client_of(wire, identities) as link:
            await ready.wait()
            yield link, made[0]
            done.set()


async def test_both_ends_say_hello_and_know_the_same_connection(wire, identities):
    alice, bob, _ = identities
    async with pair(wire, identities) as (client, server):
        assert (client.peer_name, server.peer_name) == ("bob", "alice")
        assert (client.peer_pin, server.peer_pin) == (bob.pin, alice.pin)
        assert client.exporter == server.exporter


async def test_messages_pass_and_bytes_are_counted(wire, identities):
    async with pair(wire, identities) as (client, server):
        await client.send(ListPoints(repository="main"))
        assert (await server.receive()).message == ListPoints(repository="main")
        await server.send(Points(more=False), b"\x90")
        received = await client.receive()
        assert bytes(received.payload) == b"\x90"
        assert client.bytes_sent == server.bytes_received > 0
        assert server.bytes_sent == client.bytes_received > 0


@pytest.mark.parametrize("all_said", [False, True], ids=["a goodbye of the WebSocket", "of TLS alone"])
async def test_a_peer_that_ends_in_order_has_closed_the_connection_and_not_broken_it(wire, identities, all_said):
    async def come_and_go():
        async with client_of(wire, identities) as client:
            client.all_said = all_said

    with pytest.raises(LinkBroken, match=r"^the peer closed the connection$"):
        async with open_tasks() as nursery:
            nursery.start_soon(come_and_go)
            async with server_of(wire, identities) as server:
                await server.receive()


async def test_a_line_that_is_cut_has_broken(wire, identities):
    async def dial():
        async with client_of(wire, identities):
            await trio.sleep_forever()

    with pytest.raises(LinkBroken, match=r"^the control connection broke"):
        async with open_tasks() as nursery:
            nursery.start_soon(dial)
            async with server_of(wire, identities) as server:
                await wire.near.send_stream.aclose()
                await server.receive()


async def test_a_heartbeat_keeps_an_idle_connection(wire, identities, autojump_clock):
    async with pair(wire, identities) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(client.receive)
        nursery.start_soon(server.receive)
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()


async def test_few_messages_wait_to_be_taken(wire, identities):
    """Each may have 16 MiB: a peer that sends and sends must not fill the memory of one that is busy."""
    async with pair(wire, identities) as (client, server):
        server.peer_is_known()
        for _ in range(40):
            await client._websocket.send_message(bytes(100_000))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server._websocket._recv_channel.statistics().current_buffer_used <= 2


async def test_a_peer_that_is_not_known_may_send_little(wire, identities):
    """However it is cut into messages, finished or not: what it sends is gathered before anybody can judge it."""
    async with pair(wire, identities) as (client, server):
        half = wsproto.events.BytesMessage(data=bytes(control_link.UNKNOWN_BYTES), message_finished=False)
        await client._websocket._send(half)
        with pytest.raises(RefusedByPeer, match="before it was known"):
            await server.receive()
    async with pair(Wire(), identities) as (client, server):
        server.peer_is_known()
        await client._websocket.send_message(bytes(10 * control_link.UNKNOWN_BYTES))
        with pytest.raises(RefusedByPeer, match="not exactly one frame"):
            await server.receive()


async def test_a_peer_counts_as_half_open_until_it_is_known(wire, identities):
    half_open = HalfOpen(1)
    tls = TlsStream(wire.far, identities[1], server=True, accept_pin=lambda _: True)

    async def dial():
        async with client_of(wire, identities):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        async with control_server(tls, "bob", half_open) as server:
            assert half_open.full, "it has said Hello, but who it is has not been looked up"
            server.peer_is_known()
            assert half_open.count == 0
        assert half_open.count == 0, "nobody is counted out twice"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("queue", [1, 64])
async def test_an_end_that_takes_no_messages_for_long_does_not_end_a_healthy_link(
    wire, identities, autojump_clock, monkeypatch, queue
):
    """As a provider that commits a large point. Its peer beats all the while, more often than the queue has places."""
    monkeypatch.setattr(control_link, "_QUEUE", queue)
    async with pair(wire, identities) as (client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive)
            await trio.sleep(600)
            nursery.cancel_scope.cancel()
        await client.send(ListPoints(repository="main"))
        assert (await server.receive()).message == ListPoints(repository="main")


async def test_a_peer_that_died_while_nobody_listened_is_noticed_once_somebody_does(
    wire, identities, autojump_clock, monkeypatch
):
    monkeypatch.setattr(control_link, "_QUEUE", 1)

    async def dial():
        with contextlib.suppress(LinkBroken):
            async with client_of(wire, identities) as client:
                await client.receive()

    async def nothing(_data):
        return

    with pytest.raises(LinkBroken, match="nothing was heard"):
        async with open_tasks() as nursery:
            nursery.start_soon(dial)
            async with server_of(wire, identities) as server:
                await trio.sleep(100)
                wire.near.send_stream.send_all = nothing
                began = trio.current_time()
                await server.receive()
    seconds = control_link.SILENCE_SECONDS + control_link.HEARTBEAT_SECONDS + 3 * control_link.CLOSE_SECONDS
    assert trio.current_time() - began <= seconds


@pytest.mark.parametrize("end", ["client", "server"])
async def test_a_silent_peer_is_noticed_within_thirty_seconds_and_a_heartbeat(wire, identities, autojump_clock, end):
    """Neither end's messages arrive any more, as on a line that died without a word."""
    began = None
    ready = trio.Event()

    async def serve():
        async with server_of(wire, identities) as link:
            ready.set()
            await link.receive()

    with pytest.RaisesGroup(LinkBroken, LinkBroken, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)

            async def dial():
                nonlocal began
                async with client_of(wire, identities) as link:
                    await ready.wait()
                    wire.held = True
                    began = trio.current_time()
                    await link.receive()

            nursery.start_soon(shielded, dial)
    assert trio.current_time() - began <= control_link.SILENCE_SECONDS + 3 * control_link.CLOSE_SECONDS + 1


async def shielded(function):
    """Let both ends come to their own conclusion."""
    with trio.CancelScope(shield=True):
        await function()


async def test_a_peer_that_does_not_finish_its_handshake(wire, identities, autojump_clock):
    began = trio.current_time()
    with pytest.raises(CannotConnect, match="did not answer within 10 s"):
        async with client_of(wire, identities):
            pytest.fail("nobody is there")
    assert trio.current_time() - began <= control_link.HANDSHAKE_SECONDS + 3 * control_link.CLOSE_SECONDS
    other = Wire()
    with pytest.raises(CannotConnect, match="did not finish its handshake"):
        async with server_of(other, identities):
            pytest.fail("nobody is there")


async def test_a_peer_that_says_no_hello(wire, identities, autojump_clock):
    """It shakes hands, opens the WebSocket, and then says nothing."""
    tls = TlsStream(wire.near, identities[0], server=False, accept_pin=lambda _: True)

    async def dial(nursery):
        await tls.do_handshake()
        await wrap_client_stream(nursery, tls, "host", control_link.PATH, subprotocols=[control_link.SUBPROTOCOL])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial, nursery)
        with pytest.raises(CannotConnect, match="did not finish"):
            async with server_of(wire, identities):
                pytest.fail("no Hello was said")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("path", "protocol"), [("/", "transporter.v1"), (control_link.PATH, "transporter.v9")])
async def test_another_path_or_protocol_is_refused(wire, identities, path, protocol):
    tls = TlsStream(wire.near, identities[0], server=False, accept_pin=lambda _: True)

    async def dial():
        await tls.do_handshake()
        with contextlib.suppress(BaseExceptionGroup):
            async with trio.open_nursery() as nursery:
                await wrap_client_stream(nursery, tls, "host", path, subprotocols=[protocol])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        with pytest.raises(RefusedByPeer, match="asked for"):
            async with server_of(wire, identities):
                pytest.fail("it must be refused")
        nursery.cancel_scope.cancel()


async def test_a_peer_that_rejects_the_websocket_cannot_be_connected_to(wire, identities):
    tls = TlsStream(wire.far, identities[1], server=True, accept_pin=lambda _: True)

    async def serve():
        await tls.do_handshake()
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, tls)
            await request.reject(404)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(CannotConnect, match="does not talk the transporter protocol"):
            async with client_of(wire, identities):
                pytest.fail("it was rejected")
        nursery.cancel_scope.cancel()


# What comes instead of the WebSocket's answer, and fails in its reader in as many ways.
ANSWERS = {
    "no HTTP": b"\x00\x01 no HTTP at all\r\n\r\n",
    "a header that is no ASCII": b"HTTP/1.1 101 Switching Protocols\r\nConnection: \xff\r\n\r\n",
    "a wrong accept token": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: AAAA\r\n\r\n"
    ),
    "a rejection that breaks off": (
        b"HTTP/1.1 301 Moved Permanently\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n"
    ),
    "a web page": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_peer_that_answers_the_request_with_anything_else_cannot_be_connected_to(identities, nursery, answer):
    """Inside TLS, and with the right pins: it is the program behind it that is another one."""
    alice, bob, _ = identities
    asked = []

    async def serve(stream):
        tls = TlsStream(stream, bob, server=True, accept_pin=lambda pin: pin == alice.pin)
        async with tls:
            await tls.do_handshake()
            asked.append(await tls.receive_some())
            await tls.send_all(ANSWERS[answer])
            # It says no more, and does not close either.
            with contextlib.suppress(trio.BrokenResourceError):
                while await tls.receive_some():
                    pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    address = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
    with pytest.raises(CannotConnect, match="does not talk the transporter protocol"), trio.fail_after(5):
        async with dial_control(Peer("bob", address, bob.pin), alice):
            pytest.fail("it is no transporter")
    assert b"GET " + control_link.PATH.encode() in asked[0]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching Protocols\r\nConn"], ids=["nothing", "half"])
async def test_a_peer_that_closes_before_it_has_answered_the_request_is_not_waited_for(wire, identities, answer):
    tls = TlsStream(wire.far, identities[1], server=True, accept_pin=lambda _: True)

    async def serve():
        await tls.do_handshake()
        await tls.receive_some()
        if answer:
            await tls.send_all(answer)
        await tls.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(CannotConnect, match="closed the connection in the handshake"):
            async with client_of(wire, identities):
                pytest.fail("it was closed")
        nursery.cancel_scope.cancel()


REQUEST = (
    f"GET {control_link.PATH} HTTP/1.1\r\nHost: host\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    f"Sec-WebSocket-Protocol: {control_link.SUBPROTOCOL}\r\n\r\n"
).encode()


@pytest.mark.parametrize("request_bytes", [REQUEST, REQUEST.replace(b"v1 HTTP", b"v9 HTTP")], ids=["right", "refused"])
async def test_whoever_goes_away_before_its_request_is_answered_is_an_end_and_no_fault(wire, identities, request_bytes):
    """A command that is interrupted while it connects: the answer has nowhere to go."""
    tls = TlsStream(wire.near, identities[0], server=False, accept_pin=lambda _: True)

    async def ask_and_go():
        await tls.do_handshake()
        await tls.send_all(request_bytes)
        await wire.near.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_and_go)
        with pytest.raises(LinkBroken, match="went away in the handshake"):
            async with server_of(wire, identities):
                pytest.fail("nobody is there any more")


@pytest.mark.parametrize("said", [b"", b"GET /transp"], ids=["nothing", "half"])
@pytest.mark.parametrize("in_order", [True, False], ids=["in order", "cut"])
async def test_whoever_goes_away_before_it_has_asked_is_not_waited_for(wire, identities, said, in_order):
    client = TlsStream(wire.near, identities[0], server=False, accept_pin=lambda _: True)
    server = TlsStream(wire.far, identities[1], server=True, accept_pin=lambda _: True)

    async def go():
        await client.do_handshake()
        await client.send_all(said)
        await (client if in_order else wire.near).aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go)
        with pytest.raises((LinkBroken, CannotConnect, trio.BrokenResourceError)):
            await requested_path(server)


async def test_an_answer_counts_that_comes_together_with_the_end_of_the_connection(identities):
    for _ in range(50):  # tasks that can run are taken in any order
        wire = Wire()
        tls = TlsStream(wire.far, identities[1], server=True, accept_pin=lambda _: True)

        async def serve(wire=wire, tls=tls):
            await tls.do_handshake()
            wire.gather()
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(nursery, tls)
                await request.accept(subprotocol=control_link.SUBPROTOCOL)
                nursery.cancel_scope.cancel()
            await tls.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with pytest.raises(LinkBroken):  # and not that it ended within the handshake
                async with client_of(wire, identities):
                    pytest.fail("it was closed")
            nursery.cancel_scope.cancel()


async def test_an_error_of_the_caller_is_not_taken_for_one_of_the_peer(wire, identities):
    """A fault of ours in decoding something is to be seen as one, whatever it has in common with a header's."""
    with pytest.RaisesGroup(UnicodeDecodeError, flatten_subgroups=True):
        async with pair(wire, identities):
            b"\xff".decode("ascii")


async def raw_client(nursery, wire, identities):
    tls = TlsStream(wire.near, identities[0], server=False, accept_pin=lambda _: True)
    await tls.do_handshake()
    return await wrap_client_stream(nursery, tls, "host", control_link.PATH, subprotocols=[control_link.SUBPROTOCOL])


GARBAGE = {
    "text": "hello",
    "no frame": b"\xff" * 50,
    "empty": b"",
    "a message before Hello": b"\x00\x00\x00\x10\x12\x00\x01\x80" + bytes(12),
    "longer than its Hello may be": bytes(100_000),
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage_instead_of_hello_is_a_named_error(wire, identities, what):
    async with trio.open_nursery() as nursery:

        async def dial():
            websocket = await raw_client(nursery, wire, identities)
            await websocket.send_message(GARBAGE[what])

        nursery.start_soon(dial)
        with pytest.raises(RefusedByPeer) as caught:
            async with server_of(wire, identities):
                pytest.fail("it must be refused")
        assert "protocol" in caught.value.what or "text" in caught.value.what
        nursery.cancel_scope.cancel()


async def test_a_peer_of_a_future_version_is_told_so(wire, identities, monkeypatch):
    async def future(link, name):
        await link.send(Hello(version_min=7, version_max=9, name=name, agent="future"))
        await link.receive()

    async with trio.open_nursery() as nursery:

        async def dial():
            with contextlib.suppress(LinkBroken, RefusedByPeer, CannotConnect):
                async with client_of(wire, identities):
                    await trio.sleep_forever()

        original = control_link._hello
        turns = []

        async def hello(link, name):
            await (future if name == "alice" else original)(link, name)
            turns.append(name)

        monkeypatch.setattr(control_link, "_hello", hello)
        nursery.start_soon(dial)
        with pytest.raises(RefusedByPeer, match="no common version: the peer speaks 7 to 9"):
            async with server_of(wire, identities):
                pytest.fail("there is no common version")
        nursery.cancel_scope.cancel()


async def test_a_refused_client_gets_the_reason_not_a_broken_line(wire, identities):
    async with trio.open_nursery() as nursery:

        async def serve():
            with pytest.raises(IdentityRefused):
                async with server_of(wire, identities, accept=lambda _: False):
                    pytest.fail("the client is a stranger")
            await wire.far.aclose()

        nursery.start_soon(serve)
        with pytest.raises(IdentityRefused, match="refused this node's identity"):
            async with client_of(wire, identities):
                pytest.fail("this node is a stranger there")


async def test_altered_records_end_as_tampering(wire, identities):
    with pytest.RaisesGroup(TamperingDetected, flatten_subgroups=True):
        async with pair(wire, identities) as (client, _server):
            await wire.far.send_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
            await client.receive()


async def test_a_cut_is_a_broken_link(wire, identities):
    with pytest.RaisesGroup(LinkBroken, flatten_subgroups=True):
        async with pair(wire, identities) as (client, _server):
            await wire.far.send_stream.aclose()
            await client.receive()


async def test_a_heartbeat_that_falls_due_while_the_connection_closes_is_no_broken_link(
    wire, identities, autojump_clock
):
    """All that was asked has been answered; only the peer's goodbye is still on its way."""
    async with pair(wire, identities):
        await trio.sleep(control_link.HEARTBEAT_SECONDS - control_link.CLOSE_SECONDS / 2)
        wire.held = True


async def test_what_does_not_fit_the_state_is_the_peers_fault(wire, identities):
    with pytest.RaisesGroup(RefusedByPeer, flatten_subgroups=True):
        async with pair(wire, identities) as (client, server):
            client._connection.state = "BACKUP"
            await client._websocket.send_message(b"\x00\x00\x00\x04\x1e\x00\x01\x80")
            await server.receive()


async def test_pings_are_answered_and_never_shown(wire, identities):
    async with pair(wire, identities) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(server.receive)
        await client.send(Ping(token=1))
        with trio.move_on_after(0.05):
            await client.receive()
            pytest.fail("a Pong is no message for the job")
        assert client.bytes_received > 0
        nursery.cancel_scope.cancel()


def test_a_refusal_becomes_the_error_it_names_where_a_provider_can_meet_it():
    codes = set()
    for kind in errors.all_errors():
        made = refusal_to_error(kind.code, "what", "remedy")
        assert made.code == (kind.code if kind.code in control_link.PROVIDER_CODES else "refused")
        assert (made.what, made.remedy) == ("what", "remedy")
        codes.add(kind.code)
    assert codes >= control_link.PROVIDER_CODES


@pytest.mark.parametrize(
    "code",
    ["finished-with-gaps", "interrupted", "wrong-password", "config", "cannot-connect", "link-lost", "internal"],
)
def test_a_peer_does_not_name_errors_of_this_end(code):
    made = refusal_to_error(code, "what", "remedy")
    assert type(made) is RefusedByPeer
    assert (made.exit_status, made.what, made.remedy) == (5, "what", "remedy")


def test_a_refusal_of_the_future_is_a_refusal():
    assert type(refusal_to_error("of the future", "what", "")) is RefusedByPeer
    assert isinstance(refusal_to_error(Refused(code="tampering", what="w").code, "w", ""), TamperingDetected)
