"""A port for a server that begins to listen only later."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_port() -> Iterator[int]:
    """A port of loopback on which nobody listens, and that no connection or server of another test gets meanwhile.

    It is bound here and not listened on. Linux lets a program bind it as well, where that allows it, too.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield int(keeper.getsockname()[1])
