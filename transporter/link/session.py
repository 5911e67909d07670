"""The initiating side of one session: keys agreed, data channels open, questions and answers matched.

New session, new keys, always. A session that breaks is over; ``resilient.py`` opens the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from pipeline.chunk import Chunk
from protocol.control import Received
from protocol.data import HEADROOM
from protocol.messages import Chunk as ChunkHeader
from protocol.messages import (
    Fin,
    Get,
    Have,
    HaveReply,
    Limit,
    Message,
    Missing,
    Progress,
    Refused,
    SlotStored,
    Started,
    Stop,
    Stopped,
    Stored,
)
from protocol.pieces import RECOVERY_AT_MOST
from transporter.errors import RefusedByPeer, TransporterError
from transporter.link.broken import LinkBroken, NoAnswer
from transporter.link.chunk_pieces import IncomingChunks, PieceQueue
from transporter.link.control_link import ControlLink, refusal_to_error
from transporter.link.data_link import DataLink, chunk_header
from transporter.throttle.limits import Flow, free_flow

# A peer may have to finish writing (salvage, seal a pack, commit) before it answers.
ANSWER_SECONDS = 120.0
CLOSING_SECONDS = 30.0
# A provider that ends a session says why, but a data channel that it closed may be noticed before that.
LAST_WORD_SECONDS = 2.0

M = TypeVar("M", bound=Message)


class DirectDataFailed(LinkBroken):
    """A direct data channel brought no answer at all, although the control connection stands."""


@dataclass(frozen=True)
class SessionHandlers:
    """What the job does with what comes in, and where its outgoing chunks come from."""

    next_chunk: Callable[[], Awaitable[Chunk]]
    on_stored: Callable[[bytes], None]
    on_chunk: Callable[[ChunkHeader, memoryview], Awaitable[None]]
    # Told the id of a chunk, and behind it the id of its key where a form of it was asked for.
    on_missing: Callable[[bytes, str], None]
    # Whether something waits for the line: chunks to be sent, or chunks that were asked for.
    backlog: Callable[[], bool] = lambda: False
    # What the job may send and receive; it lasts over all its sessions.
    flow: Flow = field(default_factory=free_flow)
    # Told what the provider said, and the head that came along: a round trip before the data channels are open.
    on_started: Callable[[Started, bytes], None] = lambda _started, _head: None


@dataclass
class _Question:
    """Somebody waits for an answer to this."""

    answered: trio.Event = field(default_factory=trio.Event)
    answer: Received | None = None


class Session:
    """One live session. Every method raises LinkBroken once it is over."""

    def __init__(self, link: ControlLink, started: Started, handlers: SessionHandlers) -> None:
        self.started = started
        self.link = link
        self._handlers = handlers
        self._batch = 0
        self._batches: dict[int, _Question] = {}
        # Requests that wait for their answers; the provider answers them in order.
        self._requests: deque[_Question] = deque()
        self._one_request = trio.Lock()
        self._stop: _Question | None = None
        self._channels: list[DataLink] = []
        self._over = False
        # Whether the provider can still be heard on the control connection.
        self.link_stands = True
        self._refusal: TransporterError | None = None
        self._open_directions = 0
        self._fin_came = trio.lowlevel.ParkingLot()
        # On a long line chunks go in pieces, so that a slow channel holds up little.
        self.in_pieces = False
        self._pieces = PieceQueue(self._next_stored, lambda: self._in_use or len(self._channels))
        self._incoming = IncomingChunks(link.peer_name, RECOVERY_AT_MOST)
        # Within it channels are added; none may be once the session closes.
        self.growing = trio.CancelScope()
        self.is_growing = False
        self.grown = trio.lowlevel.ParkingLot()
        # Channels with this number and above rest; None: none does.
        self._in_use: int | None = None
        self._rested = trio.lowlevel.ParkingLot()

    @property
    def bytes_sent(self) -> int:
        """Bytes on the wire from here, control messages and data frames."""
        return self.link.bytes_sent + sum(channel.bytes_sent for channel in self._channels)

    @property
    def bytes_received(self) -> int:
        """Bytes on the wire to here."""
        return self.link.bytes_received + sum(channel.bytes_received for channel in self._channels)

    @property
    def streams(self) -> int:
        """Number of open data channels."""
        return len(self._channels)

    @property
    def data_bytes(self) -> int:
        """Bytes on the data channels, both ways."""
        return sum(channel.bytes_sent + channel.bytes_received for channel in self._channels)

    @property
    def backlog(self) -> bool:
        """Whether something waits for the line."""
        return self._handlers.backlog()

    def add(self, channel: DataLink) -> None:
        """Note a data channel that is being opened."""
        channel.flow = self._handlers.flow
        self._channels.append(channel)
        self._open_directions += 1

    def drop(self, channel: DataLink) -> None:
        """Forget a data channel that was not opened after all."""
        self._channels.remove(channel)
        self._open_directions -= 1

    def use_channels(self, count: int) -> None:
        """Send on the first ``count`` channels only; the others stay open."""
        self._in_use = count
        self._rested.unpark_all()

    @property
    def data_came(self) -> bool:
        """Whether a data channel has brought its answer: then that way is open, whatever breaks on it."""
        return any(channel.bytes_received for channel in self._channels)

    async def have(self, ids: list[bytes]) -> list[bytes | None]:
        """Ask which chunks the provider holds: for each id the key id of its stored form, or None.

        Many batches may be under way at once.
        """
        self._batch += 1
        question = self._batches[self._batch] = _Question()
        await self.link.send(Have(batch=self._batch, ids=b"".join(ids)))
        reply = (await self._answer(question)).message
        if not isinstance(reply, HaveReply) or len(reply.known) != len(ids) or max(reply.known) > len(reply.key_ids):
            raise RefusedByPeer("the peer's answer does not fit the question", "update the transporter there")
        return [reply.key_ids[mark - 1] if mark else None for mark in reply.known]

    async def ask_for(self, ids: list[bytes], without: Sequence[bytes] = ()) -> None:
        """Request chunks; they arrive through ``on_chunk`` or ``on_missing``, in any order.

        ``without``: ids of keys that nobody here has; forms of the chunks that are sealed under them are of no use.
        """
        self._batch += 1
        await self.link.send(Get(batch=self._batch, ids=b"".join(ids), without=b"".join(without)))

    async def tell(self, message: Message, payload: bytes = b"") -> None:
        """Send a message that has no answer."""
        await self.link.send(message, payload)

    async def request(
        self, message: Message, payload: bytes, reply: type[M], *, last: bool = False
    ) -> tuple[M, memoryview]:
        """Send a message and wait for its answer of type ``reply``; one request at a time.

        ``last``: nothing comes after it, and the session's end is said right behind it, which saves a round trip.
        """
        async with self._one_request:
            question = await self._ask(message, payload)
            if last:
                await self._say_stop()
            received = await self._answer(question)
        return self._expected(received, reply)

    async def _ask(self, message: Message, payload: bytes = b"") -> _Question:
        question = _Question()
        self._requests.append(question)
        try:
            await self.link.send(message, payload)
        except BaseException:
            self._requests.remove(question)
            raise
        return question

    @staticmethod
    def _expected(received: Received, reply: type[M]) -> tuple[M, memoryview]:
        if not isinstance(received.message, reply):
            raise RefusedByPeer(
                f"the peer answered with {type(received.message).__name__}", "update the transporter there"
            )
        return received.message, received.payload

    async def _answer(self, question: _Question) -> Received:
        if self._over:
            raise LinkBroken("the session is over")
        with trio.move_on_after(ANSWER_SECONDS):
            await question.answered.wait()
        if question.answer is None:
            if self._over:
                raise LinkBroken("the session ended before the answer")
            raise NoAnswer("the peer does not answer")
        return question.answer

    async def _say_stop(self) -> None:
        """Say the end: a FIN on every channel, then Stop. The provider answers once it has them all."""
        self.growing.cancel()
        while self.is_growing:
            await self.grown.park()
        for channel in list(self._channels):
            if channel.answered:
                await channel.finish()
            else:
                # It was opened a moment ago, and the provider may not take it any more. Nothing is on its way there.
                self.drop(channel)
                await channel.aclose()
        self._stop = await self._ask(Stop())

    async def close(self) -> None:
        """End in order: a FIN each way on every channel, then Stop. Raises LinkBroken when the peer does not answer."""
        with trio.move_on_after(CLOSING_SECONDS) as deadline:
            if self._stop is None:
                async with self._one_request:
                    await self._say_stop()
            if self._stop is not None:
                self._expected(await self._answer(self._stop), Stopped)
            while self._open_directions:
                await self._fin_came.park()
        if deadline.cancelled_caught:
            raise LinkBroken("the peer did not end the session in time")
        self.link.all_said = True

    async def close_channels(self) -> None:
        """Close every data channel, in a job that is cancelled, too: closing does not wait."""
        with trio.CancelScope(shield=True):
            for channel in self._channels:
                await channel.aclose()

    def end(self) -> None:
        """Wake everybody who waits for an answer: none will come."""
        self._over = True
        for question in (*self._batches.values(), *self._requests, *([self._stop] if self._stop else [])):
            question.answered.set()

    async def last_word(self) -> TransporterError | None:
        """Return why the provider ended this session, if it still says so. Only once `read_control` has stopped.

        Notes in ``link_stands`` whether it could have.
        """
        with trio.move_on_after(LAST_WORD_SECONDS):
            while self._refusal is None:
                try:
                    message = (await self.link.receive()).message
                except LinkBroken:
                    self.link_stands = False
                    break
                if isinstance(message, Stored):
                    self._handlers.on_stored(message.chunks)
                elif isinstance(message, Refused):
                    self._refusal = refusal_to_error(message.code, message.what, message.remedy)
        return self._refusal

    # --- tasks ---------------------------------------------------------------------------------------------

    async def read_control(self) -> None:
        """Match answers to questions until the session ends."""
        while True:
            received = await self.link.receive()
            message = received.message
            if isinstance(message, HaveReply):
                self._settle(self._batches.pop(message.batch, None), received)
            elif isinstance(message, Stored):
                self._handlers.on_stored(message.chunks)
            elif isinstance(message, Missing):
                self._handlers.on_missing(message.id + message.key, message.reason)
            elif isinstance(message, SlotStored | Progress):
                continue
            elif isinstance(message, Limit):
                self._handlers.flow.asked(message.bytes_per_second)
            elif isinstance(message, Refused):
                self._refusal = refusal_to_error(message.code, message.what, message.remedy)
                raise self._refusal
            else:
                self._settle(self._requests.popleft() if self._requests else None, received)

    def _settle(self, question: _Question | None, received: Received) -> None:
        if question is None:
            raise RefusedByPeer("the peer answered what nobody asked", "update the transporter there")
        question.answer = received
        question.answered.set()

    async def send_chunks(self, channel: DataLink, number: int = 0) -> None:
        """Send the job's chunks over one channel, as fast as it takes them, while it is in use."""
        while True:
            while self._in_use is not None and number >= self._in_use:
                await self._rested.park()
            if self.in_pieces:
                await channel.send(*await self._pieces.next())
                continue
            chunk = await self._handlers.next_chunk()
            await channel.send_chunk(chunk_header(chunk), chunk.data)

    async def _next_stored(self) -> tuple[ChunkHeader, memoryview]:
        chunk = await self._handlers.next_chunk()
        return chunk_header(chunk), memoryview(chunk.data)[HEADROOM:]

    async def receive_chunks(self, channel: DataLink) -> None:
        """Hand on what arrives on one channel until its FIN."""
        while True:
            try:
                event = await channel.receive()
            except LinkBroken:
                if channel in self._channels:
                    raise
                return
            if isinstance(event.message, Fin):
                self._open_directions -= 1
                self._fin_came.unpark_all()
                return
            whole = self._incoming.take(event)
            if whole is not None:
                await self._handlers.on_chunk(*whole)
