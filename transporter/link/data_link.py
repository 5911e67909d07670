"""One data channel over a carrier: sealed frames in, sealed frames out."""

from __future__ import annotations

import trio

from pipeline.chunk import Chunk
from protocol.data import NEED_DATA, DataChannel, Event
from protocol.errors import RemoteProtocolError, TamperingError, TruncatedError
from protocol.messages import FSI, METADATA, KeyB, KeyBProof, Message
from protocol.messages import Chunk as ChunkHeader
from transporter.errors import RefusedByPeer, TamperingDetected
from transporter.link.broken import LinkBroken
from transporter.link.carrier import Carrier
from transporter.throttle.limits import NO_LIMIT


def chunk_header(chunk: Chunk) -> ChunkHeader:
    """Return what travels beside a stored chunk: the border between a pipeline chunk and a wire message."""
    flags = (METADATA if chunk.metadata else 0) | (FSI if chunk.fsi else 0)
    return ChunkHeader(id=chunk.chunk_id, codec=chunk.codec, plain_length=chunk.plain_length, flags=flags)


class DataLink:
    """A data channel whose keys are agreed. One task sends at a time, and one receives."""

    def __init__(self, channel: DataChannel, carrier: Carrier, peer: str) -> None:
        self._channel = channel
        self._carrier = carrier
        self._peer = peer
        self.bytes_sent = 0
        self.bytes_received = 0
        # Set by the session that the channel belongs to.
        self.flow = NO_LIMIT
        # Taken from the limits on what is received, and not used yet.
        self._may_read = 0
        self.closed = trio.Event()

    @property
    def answered(self) -> bool:
        """Whether anything has come on it: its preface, or the answer to ours, apart."""
        return self.bytes_received > 0

    def _check_alive(self) -> None:
        """Raise LinkBroken once receiving has found the channel broken: whoever sends may be the first to notice."""
        if self._channel.dead:
            raise LinkBroken("a data channel broke")

    async def send(self, message: Message, payload: bytes | memoryview = b"") -> None:
        """Send one small message."""
        self._check_alive()
        await self._send_all(self._channel.seal(message, payload))

    async def send_chunk(self, header: ChunkHeader, memory: bytes | bytearray | memoryview) -> None:
        """Send a stored chunk; ``memory`` is ``[HEADROOM][stored bytes]`` and is left as it is."""
        self._check_alive()
        await self._send_all(self._channel.seal_chunk(header, memoryview(memory)))

    async def finish(self) -> None:
        """Send the FIN of this direction, with its totals."""
        self._check_alive()
        await self._send_all(self._channel.finish())

    async def open_as_initiator(self, key_b: bytes | None) -> None:
        """Send the preface; on channel 0 (``key_b`` given) deliver Key B and have it proven."""
        await self._send_all(self._channel.data_to_send())
        if key_b is None:
            return
        await self._send_all(self._channel.switch_to_key_b(key_b))
        event = await self.receive()
        if not isinstance(event.message, KeyBProof):
            raise RefusedByPeer("the peer did not prove Key B", "update the transporter there")

    async def open_as_acceptor(self) -> bytes | None:
        """Answer the preface; on channel 0 take in Key B, prove it, and return it."""
        await self._send_all(self._channel.data_to_send())
        if self._channel.number != 0:
            return None
        event = await self.receive()
        if not isinstance(event.message, KeyB):
            raise RefusedByPeer("channel 0 did not begin with Key B", "update the transporter")
        await self._send_all(self._channel.switch_to_key_b(event.message.key))
        return event.message.key

    async def _send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            if self.flow.sending.limited:
                await self.flow.sending.send(self._send_slice, data)
            else:
                await self._carrier.send_all(data)
                self.bytes_sent += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise LinkBroken(f"a data channel broke while sending: {error}") from error

    async def _send_slice(self, data: bytes | bytearray | memoryview) -> None:
        await self._carrier.send_all(data)
        self.bytes_sent += len(data)

    async def _receive_slice(self, buffer: memoryview, missing: int) -> int:
        """Receive a part of the current frame, no faster than the limits on what is received allow."""
        if not self._may_read:
            self._may_read = await self.flow.receiving.take(len(buffer))
        buffer = buffer[: self._may_read]
        count = await self._carrier.receive_into(buffer, min(missing, len(buffer)))
        self._may_read -= count
        self.flow.received += count
        return count

    async def receive(self) -> Event:
        """Return the next event. Raises LinkBroken at a cut, TamperingDetected when bytes were altered."""
        try:
            while (event := self._channel.next_event()) is NEED_DATA:
                buffer, missing = self._channel.get_buffer(), self._channel.missing
                if self.flow.receiving.limited:
                    count = await self._receive_slice(buffer, missing)
                else:
                    count = await self._carrier.receive_into(buffer, missing)
                if count == 0:
                    self._channel.eof()
                    raise LinkBroken("a data channel ended")
                self.bytes_received += count
                self._channel.buffer_updated(count)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise LinkBroken(f"a data channel broke while receiving: {error}") from error
        except TruncatedError as error:
            raise LinkBroken(str(error)) from error
        except TamperingError as error:
            raise TamperingDetected(
                f"a data channel with {self._peer} was tampered with: {error}",
                "nothing of it was used; find out who stands in the line before the next run",
            ) from error
        except RemoteProtocolError as error:
            raise RefusedByPeer(f"{self._peer} broke the protocol: {error}", "update the transporter there") from error
        return event

    async def aclose(self) -> None:
        """Close the carrier."""
        self.closed.set()
        await self._carrier.aclose()
        self._channel.let_go()
