"""A server that answers as it was told to, or not at all: garbled, endless, slow, cut off."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self


class Misbehaving:
    """``answer`` gets each connection once a request has come; set it before anything is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.sent = 0
        self.answer: Callable[[socket.socket], None] = lambda _connection: None
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)

    def says(self, body: bytes, status: str = "200 OK", kind: str = "application/x-amz-json-1.1") -> None:
        """Answer every request so."""
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.answer = lambda connection: connection.sendall(head.encode() + body)

    def drips(self) -> None:
        """Send a byte of a header now and then, for ever: every single read is quick."""

        def answer(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not self._stopping.wait(0.05):
                connection.sendall(b"z")

        self.answer = answer

    def says_nothing(self) -> None:
        """Hold the connection and stay silent."""
        self.answer = lambda _connection: self._stopping.wait() and None

    def floods(self) -> None:
        """Send a body without an end."""

        def answer(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
            while not self._stopping.is_set():
                connection.sendall(piece)
                self.sent += len(piece)

        self.answer = answer

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self._start(lambda connection=connection: self._serve(connection))

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(65536)
                if not piece:
                    return
                request += piece
            self.asked += 1
            self.answer(connection)

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        self._threads.append(thread)


class Relay(Misbehaving):
    """Stands before a real service; while it is not ``on`` it hangs up. Every request is one connection."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self.on = True
        self.questions = 0
        host, _, port = endpoint.removeprefix("http://").partition(":")
        self._behind = host, int(port)

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if not self.on:
                return
            self.questions += 1
            with socket.create_connection(self._behind) as behind:
                self._open.append(behind)
                self._start(lambda: self._pass_on(connection, behind))
                self._pass_on(behind, connection)

    @staticmethod
    def _pass_on(source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                to.sendall(piece)
            to.shutdown(socket.SHUT_WR)
