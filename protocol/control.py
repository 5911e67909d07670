"""The control connection: one frame in one WebSocket message, in clear inside TLS. Sans-IO.

connection = ControlConnection.initiator()
websocket.send(connection.send(Hello(...)))
for received in connection.receive_data(one WebSocket message): ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from protocol import limits, states
from protocol.errors import LocalProtocolError, RemoteProtocolError, VersionMismatch
from protocol.frame import LENGTH, Buffer, decode_control, encode
from protocol.messages import Hello, Message, Points, Start

_REPLY_TO: Final = {request: reply for reply, requests in states.ANSWERS.items() for request in requests}
_OTHER: Final = {states.INITIATOR: states.PROVIDER, states.PROVIDER: states.INITIATOR}
_BEFORE_HELLOS: Final = states.NO_HEARTBEAT


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the peer and its payload (empty where the message has none)."""

    message: Message
    payload: memoryview = field(repr=False)


class ControlConnection:
    """One side of a control connection. Not for several tasks at once; sending and receiving may interleave freely.

    ``state`` is a key of ``states.CONTROL``; ``version`` the one agreed on, 0 until both Hellos are through.
    """

    def __init__(self, role: str) -> None:
        if role not in _OTHER:
            raise LocalProtocolError(f"a control connection has no role {role!r}")
        self.role = role
        self.peer = _OTHER[role]
        self.state = states.CONTROL_START
        self.version = 0
        self._hellos: dict[str, Hello] = {}
        self._mismatch: VersionMismatch | None = None
        # Requests that wait for their reply, by (who asked, name of the reply).
        self._open: dict[tuple[str, str], int] = {}

    @classmethod
    def initiator(cls) -> ControlConnection:
        """Return the side that asks."""
        return cls(states.INITIATOR)

    @classmethod
    def provider(cls) -> ControlConnection:
        """Return the side that answers."""
        return cls(states.PROVIDER)

    def send(self, message: Message, payload: Buffer = b"") -> bytes:
        """Return one WebSocket message. Raises LocalProtocolError, the state unchanged, if it does not fit here."""
        front, rest = encode(message, payload)
        self._step(self.role, message, LocalProtocolError)
        return b"".join((LENGTH.pack(len(front) + len(rest)), front, rest))

    def receive_data(self, data: Buffer) -> list[Received]:
        """Take one WebSocket message; return what is in it. Raises RemoteProtocolError; nothing is accepted after.

        Raises VersionMismatch when the peer's Hello and ours have no version in common.
        """
        if self._mismatch is not None:
            raise self._mismatch
        if self.state == states.CONTROL_CLOSED:
            raise LocalProtocolError("the connection is closed")
        try:
            return [self._receive(memoryview(data))]
        except RemoteProtocolError:
            self.state = states.CONTROL_CLOSED
            raise

    def _receive(self, data: memoryview) -> Received:
        most = limits.MAX_HELLO_MESSAGE if self.state in _BEFORE_HELLOS else limits.MAX_CONTROL_MESSAGE
        if len(data) > most:
            raise RemoteProtocolError(f"a message of {len(data)} bytes, {most} are allowed here")
        if len(data) < limits.LENGTH_WORD or LENGTH.unpack_from(data)[0] != len(data) - limits.LENGTH_WORD:
            raise RemoteProtocolError("a WebSocket message is not exactly one frame")
        message, payload = decode_control(data[limits.LENGTH_WORD :])
        self._step(self.peer, message, RemoteProtocolError)
        if self._mismatch is not None:
            raise self._mismatch
        return Received(message, payload)

    def close(self) -> None:
        """Note that the connection is gone: nothing can be sent or received any more."""
        self.state = states.CONTROL_CLOSED

    def _step(self, sender: str, message: Message, error: type[LocalProtocolError | RemoteProtocolError]) -> None:
        """Move on in the table, or raise ``error`` and stay."""
        name = type(message).__name__
        if name in states.HEARTBEAT and self.state not in states.NO_HEARTBEAT:
            target: str | None = self.state
        else:
            target = states.CONTROL[self.state].get((sender, control_event(message)))
        if target is None:
            raise error(f"the {sender} may not send {name} in state {self.state}")
        self._match(sender, message, name, error)
        if isinstance(message, Hello):
            self._hello(sender, message, error)
        if target == "IDLE" and self.state != target:
            self._open = {key: count for key, count in self._open.items() if key[1] == "Pong"}
        self.state = target if self._mismatch is None else states.CONTROL_CLOSED

    def _match(
        self, sender: str, message: Message, name: str, error: type[LocalProtocolError | RemoteProtocolError]
    ) -> None:
        """Count requests and their replies."""
        if name in _REPLY_TO:
            key = (sender, _REPLY_TO[name])
            self._open[key] = self._open.get(key, 0) + 1
        elif name in states.ANSWERS:
            key = (_OTHER[sender], name)
            if not self._open.get(key):
                raise error(f"the {sender} may not send {name}: nothing asked for it")
            if not (isinstance(message, Points) and message.more):
                self._open[key] -= 1

    def _hello(self, sender: str, hello: Hello, error: type[LocalProtocolError | RemoteProtocolError]) -> None:
        if hello.version_min > hello.version_max:
            raise error("a Hello with an empty range of versions")
        self._hellos[sender] = hello
        if len(self._hellos) < len(_OTHER):
            return
        low = max(said.version_min for said in self._hellos.values())
        high = min(said.version_max for said in self._hellos.values())
        if low > high:
            peer, own = self._hellos[self.peer], self._hellos[self.role]
            # Raised when we receive, never when we send: our Hello goes out even if it is in vain, so that the peer
            # learns why.
            self._mismatch = VersionMismatch(
                f"no common version: the peer speaks {peer.version_min} to {peer.version_max}, "
                f"this side {own.version_min} to {own.version_max}"
            )
            return
        self.version = high


def control_event(message: Message) -> str:
    """Return the name by which the table knows ``message``: its type, refined where one of its fields decides."""
    if isinstance(message, Start):
        return f"Start {message.purpose}"
    if isinstance(message, Points) and message.more:
        return "Points more"
    return type(message).__name__
