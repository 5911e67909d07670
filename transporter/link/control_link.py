"""The control connection: TLS, a WebSocket in it, and messages in that; with a heartbeat."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from traceback import walk_tb
from types import TracebackType

import h11
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream, wrap_server_stream
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import ProtocolError as WebSocketProtocolError

from pipeline.run import open_tasks
from protocol import limits
from protocol.control import ControlConnection, Received
from protocol.errors import RemoteProtocolError
from protocol.messages import Hello, Message, Ping, Pong
from transporter import __version__
from transporter.errors import CannotConnect, IdentityRefused, RefusedByPeer, TransporterError, error_of
from transporter.link.broken import LinkBroken
from transporter.link.tls import TlsStream
from transporter.throttle.limits import NO_LIMIT, Flow

PATH = "/transporter/v1"
SUBPROTOCOL = "transporter.v1"
HEARTBEAT_SECONDS = 10.0
# Three heartbeats unanswered: the peer is dead or the line is.
SILENCE_SECONDS = 30.0
# Of either end, once a connection is made; until then it is `connect_timeout`. Nobody can set it: the end that was
# dialled would give up all the same.
HANDSHAKE_SECONDS = 10.0
CLOSE_SECONDS = 2.0
# A request of the handshake that took so long was on its way, and not only worked on.
CERTAINLY_LONG_SECONDS = 0.02
HASTY_CLOSE_SECONDS = 0.1
# What can go wrong at a provider. Every other error is one of this end (its line, its configuration, its passwords, the
# person who stops it): a peer that names one would choose what is tried again, asked for, and the exit status.
PROVIDER_CODES = frozenset(
    {
        *("refused", "identity-refused", "duplicate-identity", "quota-exceeded", "tampering"),
        *("job-failed", "job-busy", "disk-full", "missing-chunks", "point-exists"),
        # A name that the repository cannot hold; a point that is not there.
        *("usage", "no-such-point", "point-kept", "clock-doubtful", "repository-busy"),
        # Zone target, and sealed at rest: the keys are there.
        *("no-key", "unknown-password", "wrong-key"),
        *("damaged", "chunk-missing", "corrupted-point", "unsupported-format"),
    }
)
_READ = 64 * 1024
# Messages that wait to be taken, of up to 16 MiB each: one to work on and one behind it. More lie in TCP's buffers.
_QUEUE = 2
# What a peer may send before it is known, all in all: the WebSocket's request, and a Hello and a Pair of 4 KiB at most.
# The WebSocket would gather a whole message of 16 MiB before anything could look at its length.
UNKNOWN_BYTES = 16 << 10


class SilentPeer(CannotConnect):
    """The connection was made, and then nothing came: the peer hangs, or the line swallows long packets."""


class ControlLink:
    """A control connection after both Hellos. ``peer_pin`` and ``exporter`` come from its TLS handshake."""

    def __init__(
        self,
        websocket: WebSocketConnection,
        connection: ControlConnection,
        tls: TlsStream,
        when_known: Callable[[], None] = lambda: None,
    ) -> None:
        self._when_known = when_known
        self._websocket = websocket
        self._connection = connection
        self._tls = tls
        self._waiting: list[Received] = []
        self.peer_pin = tls.peer_pin
        self.exporter = tls.exporter()
        self.peer_name = ""
        self.bytes_sent = 0
        self.bytes_received = 0
        # A first guess of the line's round trip in seconds, from the handshake; 0: none.
        self.guess = 0.0
        # Of a peer that stores points in somebody else's name: what allows it to, once the service has proven it.
        self.mandate: object = None
        # Nothing more is to be said by either side: closing need not wait for the other's goodbye.
        self.all_said = False
        # The last error that the peer was told.
        self.told: Exception | None = None
        self._closing = False
        self._pongs = 0
        self._pong_came = trio.lowlevel.ParkingLot()

    def peer_is_known(self) -> None:
        """Note that the peer is paired: it is half-open no longer, and may send as much as the protocol allows."""
        self._tls.allowance = None
        self._when_known()

    @contextmanager
    def paced(self, flow: Flow) -> Iterator[None]:
        """Count this connection as one of ``flow`` for as long as the context lasts."""
        self._tls.flow = flow
        try:
            yield
        finally:
            self._tls.flow = NO_LIMIT

    async def send(self, message: Message, payload: bytes = b"") -> None:
        """Send one message. Raises LinkBroken."""
        data = self._connection.send(message, payload)
        try:
            await self._websocket.send_message(data)
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken(error) from error
        self.bytes_sent += len(data)

    async def receive(self) -> Received:
        """Return the next message and its payload; heartbeats are answered here. Raises LinkBroken."""
        while not self._waiting:
            try:
                data = await self._websocket.get_message()
            except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise self._broken(error) from error
            if isinstance(data, str):
                raise RefusedByPeer("the peer sent text where only frames belong", "update the transporter there")
            self.bytes_received += len(data)
            await self._take(data)
        return self._waiting.pop(0)

    async def _take(self, data: bytes) -> None:
        try:
            events = self._connection.receive_data(data)
        except RemoteProtocolError as error:
            raise RefusedByPeer(f"the peer broke the protocol: {error}", "update the transporter there") from error
        for event in events:
            if isinstance(event.message, Ping):
                await self.send(Pong(token=event.message.token))
            elif isinstance(event.message, Pong):
                self._pongs += 1
                self._pong_came.unpark_all()
            else:
                self._waiting.append(event)

    def kernel_round_trip(self) -> float | None:
        """Return the kernel's measurement of the round trip to the next hop in seconds, if there is one."""
        return self._tls.round_trip()

    async def alive(self, seconds: float) -> bool:
        """Tell whether the peer answers a Ping within ``seconds``; somebody must be receiving meanwhile."""
        before = self._pongs
        with trio.move_on_after(seconds), suppress(LinkBroken, TransporterError):
            await self.send(Ping(token=0))
            while self._pongs == before:
                await self._pong_came.park()
        return self._pongs > before

    async def round_trip(self, seconds: float) -> float | None:
        """Return how long a Ping takes there and back (the shorter of two), None if none is answered in ``seconds``.

        Somebody must be receiving meanwhile. Two, because either end may have been busy with something else.
        """
        took = []
        for _ in range(2):
            began = trio.current_time()
            if await self.alive(seconds):
                took.append(trio.current_time() - began)
        return min(took, default=None)

    def _broken(self, error: Exception) -> Exception:
        if self._tls.refusal is not None:
            return self._tls.refusal
        if self._tls.ended.is_set() or _said_goodbye(error):
            return LinkBroken("the peer closed the connection")
        return LinkBroken(f"the control connection broke: {type(error).__name__}")

    async def beat(self) -> None:
        """Ask for a sign of life every 10 s; raise LinkBroken after 30 s without any.

        What counts is whether the line brings bytes, not whether anybody here takes the messages in them: a provider
        that salvages, lists or commits takes none meanwhile. A connection that closes is asked no more.
        """
        try:
            await self._beat()
        except LinkBroken:
            # A beat under way is not cancelled for that: half a record sent would spoil the goodbye.
            if not self._closing:
                raise

    async def _beat(self) -> None:
        token = 0
        while True:
            await trio.sleep(HEARTBEAT_SECONDS)
            if self._closing:
                return
            if self._tls.silence() >= SILENCE_SECONDS:
                raise LinkBroken(f"nothing was heard from the peer for {SILENCE_SECONDS:.0f} s")
            token += 1
            with trio.move_on_after(SILENCE_SECONDS) as scope:
                await self.send(Ping(token=token))
            # Behind a long message that is paced, or on a slow line, a heartbeat waits its turn.
            if scope.cancelled_caught and self._tls.sending_stands() >= SILENCE_SECONDS:
                raise LinkBroken("the peer does not read")

    async def aclose(self) -> None:
        """Close in order, without waiting long for the peer; when cancelled, nobody reads its answer any more."""
        self._closing = True
        cancelled = trio.current_effective_deadline() <= trio.current_time()
        seconds = HASTY_CLOSE_SECONDS if cancelled else CLOSE_SECONDS
        if not self.all_said:
            with trio.move_on_after(seconds) as scope:
                scope.shield = True
                await self._websocket.aclose()
        with trio.move_on_after(seconds) as scope:
            scope.shield = True
            await self._tls.aclose()


def _said_goodbye(error: Exception) -> bool:
    """Tell whether an error is about a WebSocket that was closed in order: done, or going away."""
    reason = error.reason if isinstance(error, ConnectionClosed) else None
    return reason is not None and reason.code in (CloseReason.NORMAL_CLOSURE, CloseReason.GOING_AWAY)


@asynccontextmanager
async def _websocket_tasks() -> AsyncIterator[trio.Nursery]:
    """Open a nursery for a WebSocket: its reader fails in its own ways when the peer answers with anything else."""
    try:
        async with open_tasks() as nursery:
            yield nursery
    except (HandshakeError, h11.ProtocolError, WebSocketProtocolError) as error:
        raise _no_transporter() from error
    except UnicodeError as error:
        # wsproto decodes headers as they come. Anywhere else it is a fault of ours, and is to be seen as one.
        if error.__traceback__ is None or not _came_through(error.__traceback__, "wsproto"):
            raise
        raise _no_transporter() from error


def _no_transporter() -> CannotConnect:
    return CannotConnect("the peer does not talk the transporter protocol", "check address and port")


def _came_through(traceback: TracebackType, package: str) -> bool:
    return any(frame.f_globals.get("__name__", "").partition(".")[0] == package for frame, _ in walk_tb(traceback))


@asynccontextmanager
async def control_client(tls: TlsStream, host: str, name: str) -> AsyncIterator[ControlLink]:
    """Shake hands over ``tls`` as the initiating side and exchange Hellos."""
    async with _websocket_tasks() as nursery:
        began = trio.current_time()
        with trio.move_on_after(HANDSHAKE_SECONDS) as deadline:
            await _handshake_or_silence(tls, began)
            nursery.start_soon(_raise_refusal, tls)
            asked = trio.current_time()
            async with open_tasks() as watch:
                watch.start_soon(_raise_break, tls)
                watch.start_soon(_raise_end, tls)
                websocket = await _open_websocket(nursery, tls, host)
                watch.cancel_scope.cancel()
            link = ControlLink(websocket, ControlConnection.initiator(), tls)
            took = trio.current_time() - asked
            link.guess = took if took >= CERTAINLY_LONG_SECONDS else 0.0
            await _hello(link, name)
        if deadline.cancelled_caught:
            raise SilentPeer(
                f"the peer did not answer within {HANDSHAKE_SECONDS:.0f} s", "check the line and try again"
            )
        nursery.start_soon(link.beat)
        try:
            yield link
        finally:
            await link.aclose()
            nursery.cancel_scope.cancel()


async def _handshake_or_silence(tls: TlsStream, began: float) -> None:
    """Shake hands. A peer that gave up only after a long silence was silent: it waits no longer than this end."""
    try:
        await tls.do_handshake()
    except CannotConnect as error:
        if trio.current_time() - began < HANDSHAKE_SECONDS / 2:
            raise
        raise SilentPeer(error.what, error.remedy) from error


@asynccontextmanager
async def control_server(
    tls: TlsStream, name: str, half_open: AbstractContextManager[object], until: float = math.inf
) -> AsyncIterator[ControlLink]:
    """Shake hands over ``tls`` as the side that was dialled and exchange Hellos, by ``until`` (10 s from now at most).

    ``half_open`` counts until ``peer_is_known`` is called (or the connection ends); until then little may be sent.
    """
    async with _websocket_tasks() as nursery:
        with ExitStack() as unknown:
            unknown.enter_context(half_open)
            if tls.allowance is None:
                tls.allowance = UNKNOWN_BYTES
            with trio.move_on_at(min(until, trio.current_time() + HANDSHAKE_SECONDS)) as deadline:
                await tls.do_handshake()
                websocket = await _accept_websocket(nursery, tls)
                link = ControlLink(websocket, ControlConnection.provider(), tls, unknown.close)
                await _hello(link, name)
            if deadline.cancelled_caught:
                raise too_slow()
            nursery.start_soon(link.beat)
            try:
                yield link
            finally:
                await link.aclose()
                nursery.cancel_scope.cancel()


async def _accept_websocket(nursery: trio.Nursery, tls: TlsStream) -> WebSocketConnection:
    request = await wrap_server_stream(
        nursery,
        tls,
        message_queue_size=_QUEUE,
        max_message_size=limits.MAX_CONTROL_MESSAGE,
        receive_buffer_size=_READ,
    )
    try:
        if request.path != PATH or SUBPROTOCOL not in request.proposed_subprotocols:
            await request.reject(404)
            raise RefusedByPeer(f"a peer asked for {request.path!r}", "update the transporter there")
        return await request.accept(subprotocol=SUBPROTOCOL)
    except ConnectionClosed as error:
        # Whoever gives up while it waits for the answer (a command that is interrupted) is nothing to worry about.
        raise tls.refusal or LinkBroken("the peer went away in the handshake") from error


def too_slow() -> CannotConnect:
    """Return the error of a peer that did not finish its handshake."""
    return CannotConnect("a peer did not finish its handshake in time", "nothing to do here")


async def requested_path(tls: TlsStream) -> str:
    """Shake hands over ``tls`` as the side that was dialled; return the path that the peer asks for ("" if none).

    The request itself is put back, for whoever serves that path. The caller has the deadline. Raises LinkBroken when
    the peer closes before it has asked: nobody is to wait on for what cannot come.
    """
    tls.allowance = UNKNOWN_BYTES
    await tls.do_handshake()
    head = b""
    try:
        while b"\r\n" not in head and (more := await tls.receive_some()):
            head += more
    except trio.BrokenResourceError as error:
        raise tls.refusal or error from error
    if b"\r\n" not in head:
        raise LinkBroken("the peer closed the connection in the handshake")
    tls.unread(head)
    words = head.partition(b"\r\n")[0].split(b" ")
    return words[1].decode("ascii", "replace") if len(words) == 3 else ""


async def _open_websocket(nursery: trio.Nursery, tls: TlsStream, host: str) -> WebSocketConnection:
    try:
        # Any trio stream will do; the annotation there names only two of them.
        return await wrap_client_stream(
            nursery,
            tls,  # type: ignore[arg-type]
            host,
            PATH,
            subprotocols=[SUBPROTOCOL],
            message_queue_size=_QUEUE,
            max_message_size=limits.MAX_CONTROL_MESSAGE,
            receive_buffer_size=_READ,
        )
    except (HandshakeError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        if tls.refusal is not None:
            raise tls.refusal from error
        raise _no_transporter() from error


async def _raise_break(tls: TlsStream) -> None:
    """A connection that breaks while the WebSocket waits for its answer ends the wait, too."""
    await tls.broken.wait()
    raise tls.refusal or CannotConnect("the connection broke in the handshake", "check the line and try again")


async def _raise_end(tls: TlsStream) -> None:
    """So does one that the peer closes in order: the WebSocket would wait on."""
    await tls.ended.wait()
    # What came before the end was read by then. Whoever waits for the answer may be about to hear that it was there.
    await trio.lowlevel.checkpoint()
    raise tls.refusal or CannotConnect("the peer closed the connection in the handshake", "see the log there")


async def _raise_refusal(tls: TlsStream) -> None:
    """Under TLS 1.3 a refused client learns of it when it reads; the WebSocket would wait for its answer for ever."""
    await tls.refused.wait()
    if tls.refusal is not None:
        raise tls.refusal


async def _hello(link: ControlLink, name: str) -> None:
    await link.send(Hello(version_min=1, version_max=1, name=name, agent=f"transporter/{__version__}"))
    received = await link.receive()
    if not isinstance(received.message, Hello):
        raise RefusedByPeer("the peer did not say Hello", "update the transporter there")
    link.peer_name = received.message.name


def refusal_to_error(code: str, what: str, remedy: str) -> TransporterError:
    """Turn a peer's ``Refused`` into the error it names; a code that no provider may give becomes a plain refusal."""
    return error_of(code, what, remedy) if code in PROVIDER_CODES else RefusedByPeer(what, remedy)


__all__ = ["ControlLink", "IdentityRefused", "control_client", "control_server", "refusal_to_error"]
