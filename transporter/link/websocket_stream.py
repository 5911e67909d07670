"""A WebSocket as a byte stream: its binary messages are slices of the stream, and mean nothing by themselves.

Two uses: a data channel inside TLS (``DATA_PATH``), and, where a front end speaks HTTP, everything inside an outer
WebSocket (``TUNNEL_PATH``). No task of its own: who reads, answers pings; who sends, sends what is due.
"""

from __future__ import annotations

from collections import deque

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from transporter.errors import CannotConnect

DATA_PATH = "/transporter/v1/data"
TUNNEL_PATH = "/transporter/v1/tunnel"
SUBPROTOCOL = "transporter.v1"
# One message. Large enough that its header costs nothing, small enough that nobody has to hold much of one.
SLICE = 256 << 10
# A front end cuts what is silent (nginx after 60 s by default); a data channel has nothing to say while files are read.
IDLE_SECONDS = 20.0
_CLOSE_SECONDS = 1.0
_HEAD_AT_MOST = 8 << 10
_READ = 64 << 10
_ANSWERABLE: dict[type[Event], ConnectionState] = {
    Ping: ConnectionState.OPEN,
    CloseConnection: ConnectionState.REMOTE_CLOSING,
}


class WebSocketStream(trio.abc.Stream):
    """One side of an open WebSocket. One task may send while another receives."""

    def __init__(self, stream: trio.abc.Stream, websocket: WSConnection) -> None:
        self._stream = stream
        self._websocket = websocket
        self._sending = trio.Lock()
        self._torn = False
        self._ready: deque[bytes] = deque()
        # The answer to the peer's last ping or goodbye, for whoever sends next. Older answers are not owed any more.
        self._due = b""
        self._ended = False
        # The first bytes may have come together with the end of the handshake.
        self._fresh = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send every byte of ``data``, in slices."""
        view = memoryview(data)
        async with self._sending:
            while view or self._due:
                await self._send(self._frame(BytesMessage(data=view[:SLICE])) if view else b"")  # type: ignore[arg-type]
                view = view[SLICE:]

    def _frame(self, event: Event) -> bytes:
        try:
            return self._websocket.send(event)
        except LocalProtocolError as error:
            raise trio.BrokenResourceError("the WebSocket is closed") from error

    async def _send(self, frame: bytes) -> None:
        """Send one frame and what is due. One that was cut short by a cancellation may have nothing behind it."""
        if self._torn:
            raise trio.BrokenResourceError("an earlier send was cut short")
        due, self._due = self._due, b""
        self._torn = True
        await self._stream.send_all(due + frame if due else frame)
        self._torn = False

    async def _say(self, frame: bytes) -> None:
        """Send a control frame now, or have whoever is sending do it: a reader does not wait for that."""
        self._due = frame
        if not self._sending.locked():
            async with self._sending:
                await self._send(b"")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the connection takes data."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes of the stream; empty once the peer has closed the WebSocket.

        Raises BrokenResourceError for any other end, and for what is no WebSocket.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._ready:
            if self._ended:
                return b""
            await self._receive()
        data = self._ready.popleft()
        if max_bytes is not None and len(data) > max_bytes:
            self._ready.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        return data

    async def _receive(self) -> None:
        data = b"" if self._fresh else bytes(await self._next_bytes())
        if not data and not self._fresh:
            raise trio.BrokenResourceError("the WebSocket ended without a goodbye")
        self._fresh = False
        try:
            self._websocket.receive_data(data)
            answers = self._note(list(self._websocket.events()))
        except (RemoteProtocolError, LocalProtocolError) as error:
            raise trio.BrokenResourceError(f"not a WebSocket any more: {error}") from error
        for answer in answers:
            await self._say(answer)

    async def _next_bytes(self) -> bytes | bytearray:
        while True:
            with trio.move_on_after(IDLE_SECONDS):
                return await self._stream.receive_some(_READ)
            if not self._sending.locked() and not self._ended:
                await self._say(self._frame(Ping(payload=b"")))

    def _note(self, events: list[Event]) -> list[bytes]:
        """Keep what came; return the frames to answer with."""
        answers = []
        for event in events:
            if isinstance(event, BytesMessage):
                if event.data:
                    self._ready.append(bytes(event.data))
            elif isinstance(event, TextMessage):
                raise RemoteProtocolError("text, where only bytes belong")
            elif isinstance(event, Ping | CloseConnection):
                if isinstance(event, CloseConnection) and self._websocket.state is ConnectionState.OPEN:
                    # No goodbye of the peer's, but the one that its fault calls for.
                    raise RemoteProtocolError(event.reason or "a broken frame")
                self._ended = isinstance(event, CloseConnection)
                # All that came was read at once: a goodbye behind a ping leaves nothing to answer the ping for, and one
                # that answers ours needs no answer.
                if self._websocket.state is _ANSWERABLE[type(event)]:
                    answers = [self._websocket.send(event.response())]
        return answers

    async def aclose(self) -> None:
        """Say goodbye if the connection still takes it at once, then close; the peer's goodbye is not waited for."""
        try:
            if not self._ended and not self._torn and not self._sending.locked():
                with trio.move_on_after(_CLOSE_SECONDS):
                    await self._say(self._frame(CloseConnection(code=1000)))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass
        finally:
            await self._stream.aclose()


async def open_websocket(stream: trio.abc.Stream, host: str, path: str) -> WebSocketStream:
    """Ask for a WebSocket over ``stream``. Raises CannotConnect. The caller has the deadline, and closes."""
    websocket = WSConnection(ConnectionType.CLIENT)
    try:
        await stream.send_all(websocket.send(Request(host=host, target=path, subprotocols=[SUBPROTOCOL])))
        answer = await _first_event(stream, websocket)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise CannotConnect("the connection broke in the WebSocket handshake", _REMEDY) from error
    if isinstance(answer, RejectConnection):
        raise CannotConnect(f"the WebSocket was refused with HTTP status {answer.status_code}", _REMEDY)
    if not isinstance(answer, AcceptConnection) or answer.subprotocol != SUBPROTOCOL:
        raise CannotConnect("what answers there is no transporter's WebSocket", _REMEDY)
    return WebSocketStream(stream, websocket)


_REMEDY = "check address and path, and that the front end passes WebSockets on to `transporter serve`"


async def accept_websocket(stream: trio.abc.Stream, path: str) -> WebSocketStream | None:
    """Take in the request for a WebSocket at ``path``; None for anything else, which is told nothing."""
    websocket = WSConnection(ConnectionType.SERVER)
    request = await _first_event(stream, websocket)
    if not isinstance(request, Request) or request.target != path or SUBPROTOCOL not in request.subprotocols:
        return None
    await stream.send_all(websocket.send(AcceptConnection(subprotocol=SUBPROTOCOL)))
    return WebSocketStream(stream, websocket)


async def _first_event(stream: trio.abc.Stream, websocket: WSConnection) -> Event | None:
    """Return the first thing that the other side says, from a head of 8 KiB at most; None when it is no HTTP."""
    received = 0
    while received <= _HEAD_AT_MOST:
        data = await stream.receive_some(_HEAD_AT_MOST)
        received += len(data)
        try:
            websocket.receive_data(bytes(data))
            event = next(iter(websocket.events()), None)
        except (RemoteProtocolError, LocalProtocolError, ValueError):
            # ValueError: names in headers that are not text.
            return None
        if event is not None or not data:
            return event
    return None
