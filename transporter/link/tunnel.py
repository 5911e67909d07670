"""A front end that speaks HTTP: the whole connection runs inside an outer WebSocket (``ws://``, ``wss://``).

What is inside is what a TCP connection would carry; the outer TLS of ``wss://`` is the front end's own, and nothing is
trusted because of it.
"""

from __future__ import annotations

import trio

from transporter.errors import CannotConnect
from transporter.link.address import Address
from transporter.link.outbound import open_tcp
from transporter.link.websocket_stream import TUNNEL_PATH, open_websocket
from transporter.outbound_proxy import OutboundProxy

TUNNEL_SECONDS = 10.0


async def open_stream(address: Address, seconds: float, proxy: OutboundProxy | None = None) -> trio.abc.Stream:
    """Open a connection to a transporter, whatever its address says. Raises CannotConnect."""
    tcp = await open_tcp(address, seconds, proxy)
    if not address.scheme:
        return tcp
    try:
        with trio.fail_after(TUNNEL_SECONDS):
            outer = await _outer_tls(tcp, address) if address.scheme == "wss" else tcp
            return await open_websocket(outer, address.authority, address.path or TUNNEL_PATH)
    except BaseException as error:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(tcp)
        if isinstance(error, trio.TooSlowError):
            what = f"cannot connect to {address}: the front end did not answer within {TUNNEL_SECONDS:.0f} s"
            raise CannotConnect(what, "check the front end, and that `transporter serve` runs behind it") from error
        if isinstance(error, CannotConnect):
            raise CannotConnect(f"cannot connect to {address}: {error.what}", error.remedy) from error
        raise


async def _outer_tls(tcp: trio.SocketStream, address: Address) -> trio.abc.Stream:
    """The front end's TLS, checked as browsers do it."""
    import ssl

    context = ssl.create_default_context()
    # A front end that spoke HTTP/2 would not understand the request that follows.
    context.set_alpn_protocols(["http/1.1"])
    tls = trio.SSLStream(tcp, context, server_hostname=address.host, https_compatible=True)
    try:
        await tls.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        reason = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or "the connection broke"
        raise CannotConnect(
            f"the front end's TLS failed: {reason}",
            "check its certificate (authority, name, dates); one that no known authority signed needs SSL_CERT_FILE",
        ) from error
    return tls
