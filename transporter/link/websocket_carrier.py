"""A data channel as a WebSocket inside TLS, where only HTTPS passes: the same sealed frames, another carrier."""

from __future__ import annotations

import trio

from transporter.errors import CannotConnect, RefusedByPeer
from transporter.link.byte_stream import StreamCarrier
from transporter.link.tls import TlsStream
from transporter.link.websocket_stream import DATA_PATH, WebSocketStream, open_websocket

OPEN_SECONDS = 10.0


class WebSocketCarrier:
    """Sealed frames in slices of a WebSocket. Records of its TLS that were altered are tampering, not a broken line."""

    def __init__(self, websocket: WebSocketStream, tls: TlsStream) -> None:
        self._carrier = StreamCarrier(websocket)
        self._tls = tls

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send every byte of ``data``. Raises BrokenResourceError, TamperingDetected, IdentityRefused."""
        try:
            await self._carrier.send_all(data)
        except trio.BrokenResourceError as error:
            raise self._tls.refusal or error from error

    async def receive_into(self, buffer: memoryview, missing: int = 1) -> int:
        """Fill the start of ``buffer``; return how many bytes came, 0 at the end. Raises what `send_all` raises."""
        try:
            return await self._carrier.receive_into(buffer, missing)
        except trio.BrokenResourceError as error:
            raise self._tls.refusal or error from error

    async def send_eof(self) -> None:
        """A WebSocket has no half-closed state: the channel's FIN, which travels inside, says all there is to say."""

    async def aclose(self) -> None:
        """Close at once."""
        await self._carrier.aclose()


async def open_data_websocket(tls: TlsStream, host: str) -> WebSocketCarrier:
    """Open a data channel's WebSocket over ``tls`` (handshake included); closes it if that fails.

    Raises CannotConnect, IdentityRefused, TamperingDetected.
    """
    try:
        with trio.fail_after(OPEN_SECONDS):
            await tls.do_handshake()
            return WebSocketCarrier(await open_websocket(tls, host, DATA_PATH), tls)
    except (CannotConnect, RefusedByPeer, trio.TooSlowError) as error:
        await trio.aclose_forcefully(tls)
        if isinstance(error, trio.TooSlowError):
            what = f"the peer did not open a WebSocket for data within {OPEN_SECONDS:.0f} s"
            raise CannotConnect(what, "check the line and try again") from error
        raise tls.refusal or error from error
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(tls)
        raise
