"""Lines that swallow large packets (a path MTU black hole, RFC 2923): found out, remembered, and got around.

Somewhere a router drops what is too long for the next hop, and its message that says so is filtered. A TCP connection
opens then, as its first packets are short, and hangs with the first long one. Connections that promise and send short
segments get through.
"""

from __future__ import annotations

import socket
from contextlib import suppress

import trio

from transporter.link.address import Address

# Fits in what every IPv6 link carries (1,280 bytes, RFC 8200 section 5), headers and options included.
SMALL_SEGMENT = 1200
# A line changes; after an hour the whole length is tried again.
REMEMBERED_SECONDS = 3600.0


class SmallSegments:
    """The addresses to which long packets do not get through. One for each process."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, int], float] = {}

    def note(self, address: Address) -> None:
        """Use short segments to this address from now on."""
        self._until[address.host, address.port] = trio.current_time() + REMEMBERED_SECONDS

    def forget(self, address: Address) -> None:
        """They made no difference."""
        self._until.pop((address.host, address.port), None)

    def wanted(self, address: Address) -> bool:
        """Whether to use short segments."""
        return trio.current_time() < self._until.get((address.host, address.port), 0.0)


OF_THIS_PROCESS = SmallSegments()


async def open_small(host: str, port: int) -> trio.SocketStream:
    """Open a TCP connection whose segments are short in both directions. Raises OSError.

    The option must be set before the connection is made: it is what the other side is told in the handshake.
    """
    error: OSError | None = None
    for family, kind, protocol, _, place in await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = trio.socket.socket(family, kind, protocol)
        try:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
            await sock.connect(place)
        except OSError as failed:
            sock.close()
            error = failed
        except BaseException:
            sock.close()
            raise
        else:
            return trio.SocketStream(sock)
    raise error or OSError(f"no address of {host}")
