"""The daemon's listener: who knocks, and which service answers."""

from __future__ import annotations

import structlog
import trio

from protocol.data import Preface
from protocol.errors import ProtocolError
from transporter.daemon.tidy import Tidier
from transporter.errors import TamperingDetected, TransporterError
from transporter.events import EventBus, SecurityEvent
from transporter.link.address import Address
from transporter.link.broken import LinkBroken
from transporter.link.carrier import Carrier
from transporter.link.control_link import control_server
from transporter.link.listen import HalfOpen, dispatch
from transporter.link.tls import TlsStream
from transporter.service.peer import serve_peer
from transporter.service.provider import Provider

ATTACH_SECONDS = 10.0
log = structlog.get_logger()


class Front:
    """Takes in connections for one provider."""

    def __init__(self, provider: Provider, bus: EventBus) -> None:
        self._provider = provider
        self._bus = bus
        self._half_open = HalfOpen()
        self.tidier = Tidier()

    async def take(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end; whatever goes wrong with it stays with it."""
        peer = _where(stream)
        try:
            await dispatch(stream, self._half_open, self._control, self._data)
        except TamperingDetected as error:
            self._bus.publish(SecurityEvent(peer=peer, what=error.what))
            log.error("tampering", peer=peer, what=error.what)
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
        tls = TlsStream(stream, self._provider.identity, server=True, accept_pin=self._accepts)
        async with control_server(tls, self._provider.config.node.name, self._half_open) as link:
            await serve_peer(self._provider, link, self._bus)

    async def _data(self, preface: Preface, carrier: Carrier) -> None:
        session = self._provider.sessions.get(preface.session)
        if session is None:
            return
        data_link = None
        with trio.move_on_after(ATTACH_SECONDS):
            data_link = await session.attach(preface, carrier)
        if data_link is not None:
            await data_link.closed.wait()


def _where(stream: trio.SocketStream) -> str:
    try:
        return str(Address(*stream.socket.getpeername()[:2]))
    except OSError:
        return "unknown"
