"""Settings of a TCP connection that crosses a long line: congestion control, and how much may wait in the kernel."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import trio

# With a shorter round trip than this the defaults do well, and BBR's pacing only costs processor time.
LONG_SECONDS = 0.003
# What waits unsent in one connection's buffer waits while another one may be free: little of it, so that the shared
# queue gives each connection what it really carries.
UNSENT_BYTES = 128 << 10
BBR = "bbr"
# struct tcp_info of linux/tcp.h: tcpi_rtt, in microseconds.
_ROUND_TRIP_AT = 68
_TCP_NOTSENT_LOWAT = 25


def round_trip(sock: trio.socket.SocketType) -> float | None:
    """Return the kernel's measurement of the round trip in seconds; None where it tells none."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ROUND_TRIP_AT + 4)
        (microseconds,) = struct.unpack_from("=I", info, _ROUND_TRIP_AT)
    except (OSError, AttributeError, struct.error):
        return None
    return float(microseconds) / 1e6


def suit(sock: trio.socket.SocketType, congestion: str = BBR) -> None:
    """Prepare a connection that has just been made for its line. ``congestion``: what to ask for; empty: leave it.

    A kernel that has it not, or lets only some programs use it, keeps its own.
    """
    seconds = round_trip(sock)
    if seconds is None or seconds < LONG_SECONDS:
        return
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    if congestion:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
