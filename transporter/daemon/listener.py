"""The daemon's listener: who knocks, and which service answers."""

from __future__ import annotations

import trio

from protocol.data import Preface
from protocol.errors import ProtocolError
from transporter.daemon.tidy import Tidier
from transporter.errors import DuplicateIdentity, TamperingDetected, TransporterError
from transporter.events import EventBus, SecurityEvent
from transporter.link.address import Address
from transporter.link.broken import LinkBroken
from transporter.link.byte_stream import incoming
from transporter.link.carrier import Carrier
from transporter.link.control_link import HANDSHAKE_SECONDS, control_server, requested_path, too_slow
from transporter.link.listen import HalfOpen, dispatch, take_preface
from transporter.link.tls import TlsStream
from transporter.link.websocket_carrier import WebSocketCarrier
from transporter.link.websocket_stream import DATA_PATH, accept_websocket
from transporter.logs import get_logger
from transporter.service.peer import serve_peer
from transporter.service.provider import Provider

ATTACH_SECONDS = 10.0
log = get_logger()


class Front:
    """Takes in connections for one provider."""

    def __init__(self, provider: Provider, bus: EventBus) -> None:
        self._provider = provider
        self._bus = bus
        self._half_open = HalfOpen()
        self.tidier = Tidier()

    async def take(self, stream: trio.abc.Stream) -> None:
        """Serve one connection to its end; whatever goes wrong with it stays with it."""
        peer = _where(stream)
        try:
            await dispatch(stream, self._half_open, self._control, self._data, self._provider.tickets.find)
        except (TamperingDetected, DuplicateIdentity) as error:
            self._bus.publish(SecurityEvent(peer=peer, what=error.what))
            log.error(error.code, peer=peer, what=error.what)
        except TransporterError as error:
            log.warning("connection refused", peer=peer, code=error.code, what=error.what)
        except (LinkBroken, ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.info("connection ended", peer=peer, reason=str(error))
        except Exception:
            # One peer's connection must never take the daemon down; the trace is for us.
            log.exception("connection failed", peer=peer)
        finally:
            self.tidier.ended()

    def _accepts(self, pin: bytes) -> bool:
        """Known peers; anybody while an invitation is open (who then can do nothing but prove the secret)."""
        if self._provider.catalog.peer_by_pin(pin) is not None:
            return True
        now = self._provider.clock.now_ns()
        return any(one.used_ns is None and one.expires_ns > now for one in self._provider.catalog.invitations())

    async def _control(self, stream: trio.abc.Stream) -> None:
        """TLS: the path that is asked for inside decides between the control connection and a data channel."""
        tls = TlsStream(stream, self._provider.identity, server=True, accept_pin=self._accepts)
        until = trio.current_time() + HANDSHAKE_SECONDS
        with self._half_open, trio.move_on_at(until) as deadline:
            path = await requested_path(tls)
        if deadline.cancelled_caught:
            raise too_slow()
        if path == DATA_PATH:
            await self._data_websocket(tls, until)
            return
        async with control_server(tls, self._provider.config.node.name, self._half_open, until) as link:
            await serve_peer(self._provider, link, self._bus)

    async def _data_websocket(self, tls: TlsStream, until: float) -> None:
        # Not limited any more, as its first chunks come right behind the preface; no more is read here than that.
        tls.allowance = None
        websocket, preface = None, None
        with self._half_open, trio.move_on_at(until):
            websocket = await accept_websocket(tls, DATA_PATH)
            if websocket is not None:
                preface = await take_preface(incoming(websocket))
        if websocket is not None and preface is not None:
            await self._data(preface, WebSocketCarrier(websocket, tls), tls.peer_pin)

    async def _data(self, preface: Preface, carrier: Carrier, pin: bytes | None = None) -> None:
        """Hand a data channel to the session that it names; ``pin``: of whoever opened it, where that is known."""
        session = self._provider.sessions.get(preface.session)
        if session is None:
            return
        if pin is not None and pin != session.link.peer_pin:
            raise TamperingDetected(
                "a data channel named the session of another peer than the one that opened it",
                "find out who has that key, and how it knows that session",
            )
        data_link = None
        with trio.move_on_after(ATTACH_SECONDS):
            data_link = await session.attach(preface, carrier)
        if data_link is not None:
            await data_link.closed.wait()


def _where(stream: trio.abc.Stream) -> str:
    if not isinstance(stream, trio.SocketStream):
        return "inside a WebSocket"
    try:
        return str(Address(*stream.socket.getpeername()[:2]))
    except OSError:
        return "unknown"
