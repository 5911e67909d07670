"""A relay on the line between two nodes that does what lines and attackers do: cut, stall, alter, repeat, record.

A connection is *control* when its first byte begins a TLS record, else *data*. *up* leads from the one who dialled.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["up", "down"]
Kind = Literal["control", "data"]
Act = Literal["cut", "stall", "flip", "repeat", "drop", "swap"]

TLS_FIRST_BYTE = 0x16
_BLOCK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


@dataclass
class Fault:
    """Do ``act`` once, when ``after`` bytes have passed in this direction on connections of this kind.

    ``fired`` is set when it happened. A stall holds every connection of the kind up, until ``released`` is set.
    ``refuse``: how many later connections are closed at once, as while a line is down.
    """

    act: Act
    after: int
    direction: Direction = "up"
    kind: Kind = "data"
    refuse: int = 0
    fired: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class _Connection:
    def __init__(self, relay: Relay, client: socket.socket) -> None:
        self.relay = relay
        self.client = client
        self.server: socket.socket | None = None
        self.kind: Kind = "control"
        self.lock = threading.Lock()
        self.held = b""
        self.open_ways = 2

    def reset(self) -> None:
        for sock in (self.client, self.server):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    # close() alone would leave the other thread in its recv.
                    sock.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(OSError):
                    sock.close()


class Relay:
    """Listens on a port of its own and passes everything on to ``port`` of this machine."""

    def __init__(self, port: int, *, record: bool = False) -> None:
        self.target_port = port
        self.recording = record
        self.recorded: list[bytes] = []
        self.passed: dict[tuple[Direction, Kind], int] = {
            (way, kind): 0
            for way in ("up", "down")
            for kind in ("control", "data")  # type: ignore[misc]
        }
        self.faults: list[Fault] = []
        self.connections: list[_Connection] = []
        self.accepted = 0
        self.refused = 0
        self.down = False
        # Called with the kind of each new connection before anything passes on it.
        self.on_connection: Callable[[Kind], None] = lambda _kind: None
        self._refuse = 0
        self._stop = False
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="relay", daemon=True)
        self._thread.start()

    # --- for tests --------------------------------------------------------------------------------------------

    @property
    def up(self) -> int:
        """Bytes that went from the one who dialled to the one who listens."""
        return self.passed["up", "control"] + self.passed["up", "data"]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.passed.values())

    def plan(self, fault: Fault) -> Fault:
        """Have something happen; counted from now on."""
        with self._lock:
            fault.after += self.passed[fault.direction, fault.kind]
            self.faults.append(fault)
        return fault

    def cut(self, refuse: int = 0) -> None:
        """Reset every connection now, and refuse so many later ones (from now on)."""
        with self._lock:
            self._refuse = refuse
            broken, self.connections = self.connections, []
        for connection in broken:
            connection.reset()

    def release(self) -> None:
        """Let pass what was stalled."""
        for fault in self.faults:
            fault.released.set()

    def close(self) -> None:
        """End."""
        self._stop = True
        self.release()
        # A listening socket that is closed does not wake its accept(); a shut down one does.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join(10)

    # --- threads ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._stop:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            connection = _Connection(self, client)
            with self._lock:
                refuse = self.down or self._refuse > 0
                self._refuse -= self._refuse > 0
                self.refused += refuse
                self.accepted += not refuse
                if not refuse:
                    self.connections.append(connection)
            if refuse:
                connection.reset()
            else:
                threading.Thread(target=self._begin, args=(connection,), name="relay-up", daemon=True).start()

    def _begin(self, connection: _Connection) -> None:
        try:
            connection.server = socket.create_connection(("127.0.0.1", self.target_port), timeout=10)
            connection.server.settimeout(None)
            for sock in (connection.client, connection.server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            first = connection.client.recv(1, socket.MSG_PEEK)
        except OSError:
            connection.reset()
            return
        connection.kind = "control" if first[:1] == bytes([TLS_FIRST_BYTE]) else "data"
        self.on_connection(connection.kind)
        back = threading.Thread(
            target=self._pump,
            args=(connection, "down", connection.server, connection.client),
            name="relay-down",
            daemon=True,
        )
        back.start()
        self._pump(connection, "up", connection.client, connection.server)

    def _pump(self, connection: _Connection, way: Direction, source: socket.socket, sink: socket.socket) -> None:
        try:
            while block := source.recv(_BLOCK):
                for piece in self._through(connection, way, block):
                    sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            connection.reset()
        with connection.lock:
            connection.open_ways -= 1
            last = connection.open_ways == 0
        if last:
            with self._lock:
                if connection in self.connections:
                    self.connections.remove(connection)
            for sock in (source, sink):
                sock.close()

    def _through(self, connection: _Connection, way: Direction, block: bytes) -> Iterator[bytes]:
        kind = connection.kind
        with self._lock:
            before = self.passed[way, kind]
            self.passed[way, kind] += len(block)
            if self.recording:
                self.recorded.append(block)
            fault = next(
                (
                    each
                    for each in self.faults
                    if not each.fired.is_set()
                    and (each.direction, each.kind) == (way, kind)
                    and before + len(block) > each.after
                ),
                None,
            )
            if fault is not None:
                fault.fired.set()
            held_up = [
                each.released
                for each in self.faults
                if each.act == "stall" and each.fired.is_set() and (each.direction, each.kind) == (way, kind)
            ]
        if connection.held:
            block, connection.held = block + connection.held, b""
        if fault is None:
            for released in held_up:
                released.wait()
            yield block
            return
        at = max(fault.after - before, 0)
        match fault.act:
            case "cut":
                yield block[:at]
                self.cut(fault.refuse)
                raise ConnectionResetError
            case "stall":
                yield block[:at]
                fault.released.wait()
                yield block[at:]
            case "flip":
                yield block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]
            case "repeat":
                yield block + block
            case "drop":
                yield block[:at]
            case "swap":
                connection.held = block
