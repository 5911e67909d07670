"""TLS 1.3 with pinned public keys on both sides, as a small trio stream over pyOpenSSL's memory buffers.

The standard library's ``ssl`` has no verify callback, no exporter and the system's older OpenSSL; pyOpenSSL uses the
one inside ``cryptography``, which negotiates the hybrid key exchange without being told.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio
from OpenSSL import SSL, crypto

from transporter.errors import CannotConnect, IdentityRefused, RefusedByPeer, TamperingDetected
from transporter.link import long_line
from transporter.link.identity import Identity, pin_of
from transporter.throttle.limits import NO_LIMIT

EXPORTER_LABEL = b"EXPORTER-transporter/v1 binding"
HYBRID_GROUP = "X25519MLKEM768"
# What OpenSSL says of records that are not the ones the peer sent: altered, repeated, moved, or put in between.
_ALTERED = ("bad record mac", "decryption failed", "wrong version number", "bad record type", "record layer failure")
# In the handshake the other reasons mean that something else than a transporter answers there.
_ALTERED_IN_HANDSHAKE = _ALTERED[:2]
_READ = 64 * 1024

PinCheck = Callable[[bytes], bool]


def make_context(
    identity: Identity, *, server: bool, accept_pin: PinCheck, seen: Callable[[bytes], None]
) -> SSL.Context:
    """Return a context that talks TLS 1.3 only and asks ``accept_pin`` about the peer's public key in the handshake.

    ``seen`` is told every pin that was offered, accepted or not, so that a refusal can name it.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    # A ticket would let a later connection skip the pin check.
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.key)

    def verify(_connection: SSL.Connection, certificate: crypto.X509, _error: int, depth: int, _ok: int) -> bool:
        # Self-signed by design: trust is the pin, and only a certificate of its own (depth 0) can carry one.
        if depth != 0:
            return False
        pin = pin_of(certificate.to_cryptography())
        seen(pin)
        return accept_pin(pin)

    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
    return context


class TlsStream(trio.abc.Stream):
    """One TLS connection over a byte stream. ``do_handshake`` first; then the pin and the exporter are available."""

    def __init__(self, carrier: trio.abc.Stream, identity: Identity, *, server: bool, accept_pin: PinCheck) -> None:
        self._carrier = carrier
        self._offered: bytes | None = None
        context = make_context(identity, server=server, accept_pin=accept_pin, seen=self._note_pin)
        self._tls = SSL.Connection(context, None)
        if server:
            self._tls.set_accept_state()
        else:
            self._tls.set_connect_state()
        self._sending = trio.Lock()
        # Records that TLS has made and the carrier has not had yet, and whether it has had a part of them.
        self._unsent = b""
        self._torn = False
        self._flushing = False
        # Under TLS 1.3 a client learns that its certificate was refused only when it reads: kept for the caller.
        # So is that records were altered: the end of the stream, too, but no broken line.
        self.refusal: RefusedByPeer | None = None
        self.refused = trio.Event()
        # Set once reading has failed for whatever reason.
        self.broken = trio.Event()
        # Set once the peer has closed in order.
        self.ended = trio.Event()
        # How many bytes more the peer may send before it is known; None: any number.
        self.allowance: int | None = None
        self._unread = b""
        # Since when somebody waits for bytes of the peer.
        self._waits_since: float | None = None
        # When the carrier last took something.
        self._sent_at = float("-inf")
        # What this connection counts among while a session uses it.
        self.flow = NO_LIMIT

    def _note_pin(self, pin: bytes) -> None:
        self._offered = pin

    async def do_handshake(self) -> None:
        """Agree on keys and check pins. Raises IdentityRefused or CannotConnect."""
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                await self._shake_on()
            except SSL.Error as error:
                # Best effort: let the peer know why (the alert), then say it here.
                with trio.move_on_after(1), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._flush()
                raise self._refusal(error, _ALTERED_IN_HANDSHAKE) from None
            else:
                break
        await self._shake_on(last=True)
        if self._tls.get_group_name() != HYBRID_GROUP:
            raise IdentityRefused(
                f"the peer did not agree to the hybrid key exchange {HYBRID_GROUP}", "update the transporter there"
            )

    async def _shake_on(self, *, last: bool = False) -> None:
        try:
            await self._flush()
            if not last:
                await self._feed(during="the TLS handshake")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise CannotConnect("the connection broke in the TLS handshake", "check the line and try again") from error

    @staticmethod
    def _refusal(error: SSL.Error, altered: tuple[str, ...] = _ALTERED) -> Exception:
        reasons = " ".join(str(part[-1]) for part in (error.args[0] if error.args else []))
        if "certificate verify failed" in reasons:
            return IdentityRefused(
                "the peer's identity is not the one that was pinned",
                "if the peer was set up anew, remove it and pair again; otherwise somebody stands in between",
            )
        if any(word in reasons for word in altered):
            return TamperingDetected(
                f"the control connection was tampered with ({reasons})",
                "nothing of it was used; find out who stands in the line before the next run",
            )
        if "alert" in reasons:
            return IdentityRefused(
                f"the peer refused this node's identity ({reasons})", "pair again: `invite` there, `join` here"
            )
        return CannotConnect(f"TLS failed: {reasons or 'no reason given'}", "check that a transporter listens there")

    @property
    def peer_pin(self) -> bytes:
        """SHA-256 of the peer's public key, checked in the handshake (32 bytes)."""
        if self._offered is None:
            raise RuntimeError("no handshake yet")
        return self._offered

    def exporter(self) -> bytes:
        """Return 32 bytes that both ends of this connection, and nobody else, can compute (RFC 8446 section 7.5)."""
        return self._tls.export_keying_material(EXPORTER_LABEL, 32)

    async def _flush(self) -> None:
        """Send what TLS has to say. A send that is cancelled half-way leaves half a record on the line.

        Nothing may follow it then, not even a goodbye: the peer would find a record that does not open, and take an
        honest end for tampering. One that is cancelled before its first byte goes first the next time.
        """
        if self._flushing:
            raise trio.BusyResourceError("somebody sends already")
        self._flushing = True
        try:
            while self._has_more():
                if self.flow.sending.limited:
                    await self.flow.sending.send(self._send_slice, self._unsent)
                else:
                    await self._send_slice(self._unsent)
                self._unsent, self._torn = b"", False
        finally:
            self._flushing = False

    def _has_more(self) -> bool:
        if self._torn:
            raise trio.BrokenResourceError("an earlier send was cut short")
        if not self._unsent:
            with suppress(SSL.WantReadError):
                self._unsent = self._tls.bio_read(_READ)
        return bool(self._unsent)

    async def _send_slice(self, data: bytes | bytearray | memoryview) -> None:
        # A cancellation that is due already comes here, where nothing has left: the carrier's first try is behind it.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._torn = True
        await self._carrier.send_all(data)
        self._sent_at = trio.current_time()

    async def _feed(self, during: str = "") -> bool:
        data = await self._carrier.receive_some(_READ)
        if data:
            self._tls.bio_write(bytes(data))
            if self.flow.receiving.limited:
                self.flow.received += len(data)
                await self.flow.receiving.pay(len(data))
            return True
        if during:
            raise CannotConnect(
                f"the peer closed the connection in {during}", "it may not know this node: pair again, or see its log"
            )
        return False

    async def _feed_or_break(self) -> bool:
        try:
            return await self._feed()
        except trio.BrokenResourceError:
            self.broken.set()
            raise

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; senders take turns."""
        view = memoryview(data)
        async with self._sending:
            while view:
                try:
                    sent = self._tls.send(view[: 1 << 20])
                except SSL.Error as error:
                    raise trio.BrokenResourceError(f"TLS is over: {error}") from None
                view = view[sent:]
                try:
                    await self._flush()
                except trio.BrokenResourceError:
                    await self._hear_out()
                    raise
                except BaseException:
                    # The rest was never encrypted: whatever came next would take its place.
                    self._torn = self._torn or bool(view)
                    raise

    async def _hear_out(self) -> None:
        """The peer closed: what it said before that may be why. Nobody need listen where somebody reads anyway."""
        if self._waits_since is None:
            with trio.move_on_after(1), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while await self.receive_some():
                    pass
        self.broken.set()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the carrier takes data."""
        await self._carrier.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return decrypted bytes; empty at an orderly end. Raises BrokenResourceError for any other end."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._unread:
            count = len(self._unread) if max_bytes is None else max_bytes
            data, self._unread = self._unread[:count], self._unread[count:]
            return data
        while True:
            try:
                return self._allowed(self._tls.recv(max_bytes or _READ))
            except SSL.WantReadError:
                self._waits_since = trio.current_time()
                try:
                    more = await self._feed_or_break()
                finally:
                    self._waits_since = None
                if not more:
                    # An end without close_notify: somebody cut the line, or the process died.
                    self.broken.set()
                    raise trio.BrokenResourceError("the connection ended without a TLS close") from None
            except SSL.ZeroReturnError:
                self.ended.set()
                return b""
            except SSL.Error as error:
                refusal = self._refusal(error)
                if isinstance(refusal, RefusedByPeer):
                    self._refuse(refusal)
                self.broken.set()
                raise trio.BrokenResourceError(f"TLS error: {refusal}") from None

    def unread(self, data: bytes) -> None:
        """Put bytes back: they are the next that `receive_some` returns."""
        self._unread = data + self._unread

    def _refuse(self, refusal: RefusedByPeer) -> None:
        self.refusal = refusal
        self.refused.set()

    def _allowed(self, data: bytes) -> bytes:
        if self.allowance is not None:
            self.allowance -= len(data)
            if self.allowance < 0:
                what = "a peer broke the protocol: it sent too much before it was known"
                self._refuse(RefusedByPeer(what, "nothing to do here"))
                self.broken.set()
                raise trio.BrokenResourceError("more was sent than a peer may send before it is known")
        return data

    def round_trip(self) -> float | None:
        """Return the round trip of the TCP connection below in seconds, as its kernel has measured it."""
        return long_line.round_trip(self._carrier.socket) if isinstance(self._carrier, trio.SocketStream) else None

    def silence(self) -> float:
        """Return for how many seconds bytes of the peer have been waited for in vain.

        0 while nobody reads: what the peer has said meanwhile may lie unread.
        """
        return 0.0 if self._waits_since is None else trio.current_time() - self._waits_since

    def sending_stands(self) -> float:
        """Return for how many seconds the carrier has taken nothing."""
        return trio.current_time() - self._sent_at

    async def aclose(self) -> None:
        """Say goodbye if the carrier still takes it, then close."""
        try:
            with trio.move_on_after(1):
                self._tls.shutdown()
                await self._flush()
        except (SSL.Error, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass
        finally:
            await self._carrier.aclose()
