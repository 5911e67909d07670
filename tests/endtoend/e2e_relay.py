"""A relay on the line between two nodes that does what lines and attackers do: cut, stall, delay, alter, repeat.

A connection is *control* when its first byte begins a TLS record, else *data*. *up* leads from the one who dialled.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from e2e_line import Bottleneck, LongWay

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


@dataclass
class RandomCuts:
    """Cut every connection after a random number of bytes, both directions together, ``times`` times in all.

    ``alone``: only the connection whose bytes were counted, not every one of the link. The same seed gives the same
    numbers, in the order in which connections are made.
    """

    times: int
    most: int
    seed: int = 1
    alone: bool = True
    done: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def draw(self) -> int:
        """Bytes until the next connection is cut."""
        return self._random.randrange(self.most)


class _Connection:
    def __init__(self, relay: Relay, client: socket.socket) -> None:
        self.relay = relay
        self.client = client
        self.server: socket.socket | None = None
        self.kind: Kind = "control"
        self.lock = threading.Lock()
        self.held = b""
        self.open_ways = 2
        self.cut_after: int | None = None
        self.is_cut = False
        self.long_ways: list[LongWay] = []

    def reset(self) -> None:
        for way in self.long_ways:
            way.drop()
        for sock in (self.client, self.server):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    # close() alone would leave the other thread in its recv.
                    sock.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(OSError):
                    sock.close()


class Relay:
    """Listens on a port of its own and passes everything on to ``port`` of this machine.

    ``delay``: seconds that everything takes, each way. ``rate``: bytes/s of each direction, all connections together.
    ``window``: bytes that the sockets of the relay take in on their own, about; None leaves that to the kernel.
    """

    def __init__(
        self,
        port: int,
        *,
        record: bool = False,
        delay: float = 0.0,
        rate: float | None = None,
        window: int | None = None,
    ) -> None:
        self.target_port = port
        self.recording = record
        self.recorded: list[bytes] = []
        self.passed: dict[tuple[Direction, Kind], int] = {
            (way, kind): 0
            for way in ("up", "down")
            for kind in ("control", "data")  # type: ignore[misc]
        }
        self.faults: list[Fault] = []
        self.random_cuts: RandomCuts | None = None
        self._delay = delay
        self._window = window
        self._bottlenecks: dict[Direction, Bottleneck] = {"up": Bottleneck(rate), "down": Bottleneck(rate)}
        self._long = bool(delay or rate)
        self._block = _BLOCK if rate is None else max(1500, min(_BLOCK, int(rate / 50)))
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
        if window is not None:
            # Before the connection: what it offers the other side is derived from it.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
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

    def cut_at_random(self, cuts: RandomCuts) -> RandomCuts:
        """Cut from now on; connections that stand get their number of bytes, too."""
        with self._lock:
            self.random_cuts = cuts
            for connection in self.connections:
                connection.cut_after = cuts.draw()
        return cuts

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
                    if self.random_cuts is not None:
                        connection.cut_after = self.random_cuts.draw()
            if refuse:
                connection.reset()
            else:
                threading.Thread(target=self._begin, args=(connection,), name="relay-up", daemon=True).start()

    def _begin(self, connection: _Connection) -> None:
        try:
            connection.server = self._dial()
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

    def _dial(self) -> socket.socket:
        sock = socket.socket()
        try:
            if self._window is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._window)
            sock.settimeout(10)
            sock.connect(("127.0.0.1", self.target_port))
        except OSError:
            sock.close()
            raise
        return sock

    def _pump(self, connection: _Connection, way: Direction, source: socket.socket, sink: socket.socket) -> None:
        long_way = None
        if self._long:
            long_way = LongWay(sink, self._delay, self._bottlenecks[way], connection.reset)
            connection.long_ways.append(long_way)
        put = sink.sendall if long_way is None else long_way.put
        try:
            while block := source.recv(self._block):
                for piece in self._through(connection, way, block):
                    put(piece)
            if long_way is None:
                sink.shutdown(socket.SHUT_WR)
            else:
                long_way.end()
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
        block, cuts = self._until_random_cut(connection, block)
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
            if cuts is not None:
                self._cut_one(connection, cuts)
                raise ConnectionResetError
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

    def _until_random_cut(self, connection: _Connection, block: bytes) -> tuple[bytes, RandomCuts | None]:
        """Return what of the block still passes, and by what the connection is cut behind it."""
        with self._lock:
            cuts, left = self.random_cuts, connection.cut_after
            if connection.is_cut:  # in the other direction, a moment ago
                raise ConnectionResetError
            if cuts is None or left is None or cuts.done >= cuts.times:
                return block, None
            if len(block) <= left:
                connection.cut_after = left - len(block)
                return block, None
            cuts.done += 1
            for each in [connection] if cuts.alone else self.connections:
                each.is_cut = True  # so that no other connection of the link counts the same cut again
            return block[:left], cuts

    def _cut_one(self, connection: _Connection, cuts: RandomCuts) -> None:
        if not cuts.alone:
            self.cut()
            return
        with self._lock:
            if connection in self.connections:
                self.connections.remove(connection)
        connection.reset()
