"""A link that comes back: the job's only view of the peer.

Chunks that were put and not yet acknowledged as durable stay in memory (bounded in bytes). When a session breaks,
the next one first asks which of them the peer has after all, and sends the rest. Nothing acknowledged is sent twice.
A tampered link is not a broken one: it ends the job.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import trio

from pipeline.chunk import Chunk
from pipeline.run import open_tasks
from protocol.messages import Chunk as ChunkHeader
from protocol.messages import Message, Started
from transporter.errors import CannotConnect, IdentityRefused, JobBusy, LinkLost
from transporter.link.broken import LinkBroken, NoAnswer
from transporter.link.gate import Gate
from transporter.link.outbox import Outbox
from transporter.link.session import Session, SessionHandlers
from transporter.throttle.limits import Flow, free_flow

M = TypeVar("M", bound=Message)
T = TypeVar("T")

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 15.0
# A session that lasts this long and owes nothing was a good one: the next loss starts the count anew.
STEADY_SECONDS = 10.0
# A peer that owes something (acknowledgements, chunks asked for) and gives nothing for so long does not work, even if
# its heartbeat does: two chunks of the greatest length take this long at 100 kbit/s.
STALL_SECONDS = 600.0
# Under a limit, or on a bad line, one chunk may take longer than that: so many bytes on the wire are a sign of life.
# Heartbeats alone are a tenth of it.
ALIVE_BYTES = 64 << 10
WATCH_SECONDS = 10.0
# Nothing beside what is on its way meanwhile, and a few requests gather in it, which arrive one by one.
ASK_TOGETHER_SECONDS = 0.004
IDS_PER_REQUEST = 1024

Connect = Callable[[SessionHandlers], AbstractAsyncContextManager[Session]]
Arrived = Callable[[ChunkHeader, memoryview], Awaitable[None]]
# What happened ("up", "lost", "again"), why, and in how many seconds the next attempt follows.
Notify = Callable[[str, str, float], None]


async def _unexpected_chunk(_header: ChunkHeader, _payload: memoryview) -> None:
    """A backup gets no chunks; what comes anyway is dropped."""


class ResilientLink:
    """Sessions one after the other, as one."""

    def __init__(
        self,
        connect: Connect,
        *,
        redial_for: float,
        notify: Notify,
        on_chunk: Arrived = _unexpected_chunk,
        flow: Flow | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._connect = connect
        self._outbox = Outbox(self._moved)
        self._redial_for = redial_for
        self._notify = notify
        self._handlers = SessionHandlers(
            self._next_chunk,
            self._outbox.stored,
            on_chunk,
            self._missing,
            self._backlog,
            flow or free_flow(),
            self._session_started,
        )
        # What the provider said at the beginning of the session that stands or is being opened, and the parent's head.
        self._said: tuple[Started, bytes] | None = None
        self._gate = gate or Gate()
        self._gate.on_open = self._go_on
        self._session: Session | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self._asked: dict[bytes, int] = {}
        self._to_ask: list[bytes] = []
        # Of chunks that were asked for: ids of keys under which they are of no use.
        self._without: dict[bytes, tuple[bytes, ...]] = {}
        self._asking = trio.lowlevel.ParkingLot()
        self._finished = trio.Event()
        self._complaint: LinkBroken | None = None
        self._complained = trio.Event()
        self._progressed = False
        self._questions = 0
        self._moved_at = 0.0
        # Which stored forms of a chunk are of use to this job: what the peer has under other keys is sent again.
        self.usable: Callable[[bytes], bool] = lambda _key_id: True
        self.on_missing: Callable[[bytes, str], None] | None = None
        self.sessions = 0
        self._bytes_sent_before = 0
        self._bytes_received_before = 0
        self.streams = 0
        self._up_since: float | None = None

    # --- for the job ----------------------------------------------------------------------------------------

    @property
    def bytes_sent(self) -> int:
        """Bytes on the wire from here, over all sessions."""
        return self._bytes_sent_before + (self._session.bytes_sent if self._session else 0)

    @property
    def bytes_received(self) -> int:
        """Bytes on the wire to here, over all sessions."""
        return self._bytes_received_before + (self._session.bytes_received if self._session else 0)

    @property
    def queued(self) -> int:
        """Bytes of the chunks that were put and that no data channel has taken yet."""
        return self._outbox.waiting_bytes

    async def started(self) -> Started:
        """Return what the provider said when the current session began; its data channels may not be open yet."""
        return (await self._beginning())[0]

    async def _beginning(self) -> tuple[Started, bytes]:
        while self._said is None:
            if self._session is not None:
                return self._session.started, b""
            await self._changed.park()
        return self._said

    def _session_started(self, started: Started, head: bytes) -> None:
        self._said = started, head
        self._changed.unpark_all()

    async def parent_head(self, point: bytes) -> tuple[list[bytes], bytes] | None:
        """Return the slots and the head of the parent, if the current session brought them along."""
        started, head = await self._beginning()
        return (started.slots, head) if started.parent == point and head else None

    async def have(self, ids: list[bytes]) -> list[bytes | None]:
        """Which of these chunks does the peer hold? For each: the key id of its stored form, or None."""
        return await self._persist(lambda session: session.have(ids))

    async def request(self, message: Message, payload: bytes, reply: type[M]) -> tuple[M, memoryview]:
        """Ask for something that may safely be asked again on the next session."""
        return await self._persist(lambda session: session.request(message, payload, reply))

    async def tell(
        self, messages: Callable[[], Iterable[tuple[Message, bytes]]], ask: Message, payload: bytes, reply: type[M]
    ) -> M:
        """Send ``messages`` and then ``ask`` within one session, and return the answer; all again after a break.

        The session ends with it: only `finish` may follow. ``messages`` is called for each attempt: so many need not be
        in memory at once.
        """

        async def all_of_it(session: Session) -> M:
            for message, more in messages():
                await session.tell(message, more)
            return (await session.request(ask, payload, reply, last=True))[0]

        return await self._persist(all_of_it)

    def claim(self, chunk_id: bytes) -> bool:
        """Tell whether this chunk still has to be put; False for one that this run has put lately."""
        return self._outbox.claim(chunk_id)

    async def put(self, chunk: Chunk) -> None:
        """Hand over a packed chunk; returns as soon as it is queued. It stays in memory until it is durable."""
        await self._outbox.put(chunk)

    async def drained(self) -> None:
        """Wait until everything that was put is durable at the other end."""
        await self._outbox.drained()

    async def ask_for(self, chunk_id: bytes) -> None:
        """Request one chunk; asked again by itself after a break until ``arrived`` is called for it.

        Requests of the same moment travel together: a message costs more than the ids in it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._asked[chunk_id] = self._asked.get(chunk_id, 0) + 1
        self._to_ask.append(chunk_id)
        self._asking.unpark()

    def ask_for_another(self, chunk_id: bytes, without: Sequence[bytes]) -> None:
        """Request a chunk that came sealed under a key that nobody here has, in a form that is not under ``without``.

        Only notes it, as a task of the session may not wait for the next session; asked again after a break, like any
        other, and in the same form.
        """
        self._without[chunk_id] = tuple(without)
        self._asked[chunk_id] = self._asked.get(chunk_id, 0) + 1
        self._to_ask.append(chunk_id)
        self._asking.unpark()

    def arrived(self, chunk_id: bytes) -> None:
        """Note that a requested chunk came."""
        left = self._asked.pop(chunk_id, 0) - 1
        if left > 0:
            self._asked[chunk_id] = left
        else:
            self._without.pop(chunk_id, None)
        self._moved()

    def finish(self) -> None:
        """The job needs the peer no more."""
        self._finished.set()

    # --- for the session ------------------------------------------------------------------------------------

    async def _next_chunk(self) -> Chunk:
        # Between sessions the queue is about to be made anew: nothing may be taken from the old one.
        while self._session is None or not self._outbox.waiting or self._gate.shut:
            await self._outbox.changed.park()
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._outbox.take()

    def _backlog(self) -> bool:
        """Whether something waits for the line: chunks in the queue, or chunks that were asked for."""
        return self._outbox.waiting or bool(self._asked)

    def _go_on(self) -> None:
        """The gate is open again."""
        self._outbox.changed.unpark_all()
        self._asking.unpark_all()

    def _missing(self, chunk_id: bytes, reason: str) -> None:
        self._without.pop(chunk_id, None)
        if self._asked.pop(chunk_id, 0) and self.on_missing is not None:
            self._moved()
            self.on_missing(chunk_id, reason)

    def _moved(self) -> None:
        self._progressed = True
        self._moved_at = trio.current_time()

    async def _current(self) -> Session:
        while self._session is None:
            await self._changed.park()
        return self._session

    async def _persist(self, ask: Callable[[Session], Awaitable[T]]) -> T:
        self._questions += 1
        try:
            return await self._until_answered(ask)
        finally:
            self._questions -= 1

    @property
    def _owed(self) -> bool:
        """Whether the peer owes anything: an answer, an acknowledgement, a chunk."""
        return self._outbox.owed or bool(self._questions or self._asked)

    async def _until_answered(self, ask: Callable[[Session], Awaitable[T]]) -> T:
        while True:
            session = await self._current()
            try:
                answer = await ask(session)
            except LinkBroken as error:
                # The session may not know it yet (and never would, of a peer that only fails to answer): tell it, and
                # wait until it is gone, so that this does not spin.
                if self._session is session:
                    self._complaint = error
                    self._complained.set()
                while self._session is session:
                    await self._changed.park()
            else:
                self._progressed = True
                return answer

    # --- the loop -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a session open until ``finish``. Raises LinkLost when the peer stays away for ``redial_for`` seconds."""
        pause = FIRST_PAUSE
        lost_at: float | None = None
        while not self._finished.is_set():
            try:
                await self._one_session()
                return
            except (LinkBroken, CannotConnect, JobBusy) as error:
                if self.sessions == 0:
                    raise self._first_failure(error) from error
                now = trio.current_time()
                steady = self._up_since is not None and now - self._up_since > STEADY_SECONDS
                # A peer that comes back again and again, and never does its part, is not waited for for ever.
                if self._progressed or (steady and not self._owed):
                    lost_at, pause = None, FIRST_PAUSE
                lost_at = now if lost_at is None else lost_at
                if now - lost_at > self._redial_for:
                    raise LinkLost(
                        f"the link was lost and did not come back for {self._redial_for:.0f} s: {error}",
                        "run the job again when the peer is reachable; it sends only what is missing there",
                    ) from error
                # Jitter, so that a thousand sources do not all return in the same second.
                delay = pause * random.uniform(0.5, 1.5)
                self._notify("lost", str(error), delay)
                await trio.sleep(delay)
                pause = min(pause * 2, LONGEST_PAUSE)

    @staticmethod
    def _first_failure(error: Exception) -> Exception:
        if isinstance(error, LinkBroken):
            return CannotConnect(str(error), "check the line and the log of the peer")
        return error

    async def _one_session(self) -> None:
        self._up_since = None
        self._progressed = False
        self._complaint, self._complained = None, trio.Event()
        try:
            async with self._connect(self._handlers) as session:
                self._up_since = trio.current_time()
                self.sessions += 1
                self.streams = max(self.streams, session.streams)
                await self._outbox.offer_again(session.have, self.usable)
                self._to_ask = [chunk_id for chunk_id, times in self._asked.items() for _ in range(times)]
                self._session = session
                self._changed.unpark_all()
                self._outbox.changed.unpark_all()
                self._notify("up" if self.sessions == 1 else "again", "", 0.0)
                async with open_tasks() as nursery:
                    nursery.start_soon(self._ask_together, session)
                    nursery.start_soon(self._watch)
                    await self._finished.wait()
                    nursery.cancel_scope.cancel()
                await session.close()
        finally:
            if self._session is not None:
                self._bytes_sent_before += self._session.bytes_sent
                self._bytes_received_before += self._session.bytes_received
                self.streams = max(self.streams, self._session.streams)
                self._session = None
            self._said = None
            self._changed.unpark_all()

    async def _watch(self) -> None:
        """End the session when somebody got no answer, or when the peer owes something and gives nothing."""
        self._moved_at = trio.current_time()
        alive = self.bytes_sent + self.bytes_received
        while self._complaint is None:
            moved = self.bytes_sent + self.bytes_received
            if moved - alive >= ALIVE_BYTES:
                alive, self._moved_at = moved, trio.current_time()
            if self._gate.shut or not self._owed:
                alive, self._moved_at = moved, trio.current_time()
            if trio.current_time() - self._moved_at >= STALL_SECONDS:
                raise NoAnswer("the peer neither acknowledges chunks nor sends those it was asked for")
            with trio.move_on_after(WATCH_SECONDS):
                await self._complained.wait()
        raise self._complaint

    async def _ask_together(self, session: Session) -> None:
        while True:
            while not self._to_ask or self._gate.shut:
                await self._asking.park()
            await trio.sleep(ASK_TOGETHER_SECONDS)
            ids, self._to_ask = self._to_ask[:IDS_PER_REQUEST], self._to_ask[IDS_PER_REQUEST:]
            forms: dict[tuple[bytes, ...], list[bytes]] = {}
            for chunk_id in ids:
                forms.setdefault(self._without.get(chunk_id, ()), []).append(chunk_id)
            for without, group in forms.items():
                await session.ask_for(group, without)


__all__ = ["Connect", "IdentityRefused", "ResilientLink"]
