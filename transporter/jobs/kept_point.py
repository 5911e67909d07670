"""A point that is read here and there for hours: opened when something of it is wanted, again whenever that breaks.

    asleep ── wanted ──▶ opening ──▶ open ── nothing wanted for IDLE_SECONDS, or told to let go ──▶ asleep
                            ▲          │ the link is lost for good, the target refuses, …
                            └─ pause ◀─┘

What is wanted meanwhile waits, but not for ever: whoever waits gets ``Away``, and asks again later.
"""

from __future__ import annotations

import random
from collections import deque

import trio

from pipeline.run import open_tasks
from transporter.errors import CannotConnect, DamagedData, JobFailed, TamperingDetected, TransporterError
from transporter.events import Note, SecurityEvent
from transporter.jobs.chunk_cache import ChunkCache, Slot
from transporter.jobs.context import JobContext
from transporter.jobs.point_order import PointOrder, open_ordered
from transporter.jobs.point_tree import read_tree
from transporter.jobs.recovery import PointLink, Recovery, wait_for
from transporter.repository.point_head import PointHead
from transporter.workloads.tree_index import TreeIndex

ANSWER_SECONDS = 30.0
"""How long a reader waits while nothing arrives: a program that reads a file must learn that it cannot. A slow line is
no reason: whatever arrives begins the time anew."""
AGAIN_SECONDS = 1.0
"""How long the next reader waits while still nothing has come. The kernel answers a read that failed with a smaller one
of its own before it tells the program, and a program goes on to the next file: none of them should wait anew."""
ALIVE_BYTES = 64 << 10
"""So much in that time is a sign of life; heartbeats alone are a tenth of it."""
IDLE_SECONDS = 300.0
"""A session that nobody needs is given back: a target has 16 for each of its tenants."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0


class Away(CannotConnect):
    """The target did not answer in time."""


def away() -> Away:
    """Return the error that something did not come in time."""
    return Away("the target does not answer", "it is dialled again; try later")


class KeptPoint:
    """One point. ``run`` must run in a nursery for as long as anything is asked of it."""

    def __init__(self, context: JobContext, order: PointOrder, cache: ChunkCache) -> None:
        self._context = context
        self._order = order
        self._cache = cache
        self._tree: TreeIndex | None = None
        self._tree_came = trio.Event()
        self._tree_asked = False
        self._head: PointHead | None = None
        self._recovery: Recovery | None = None
        self._link: PointLink | None = None
        self._silent_since: int | None = None  # bytes of the link when somebody gave up; None: it answers
        self._wanted = trio.Event()
        self._waiting: deque[Slot] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._let_go = False
        self._used_at = 0.0
        self._said = ""
        self._was_open = False
        self.last_error: TransporterError | None = None

    # --- what is asked of it ----------------------------------------------------------------------------------------

    @property
    def point_id(self) -> bytes:
        """Return the id of the point once it was open; empty before."""
        return self._head.point_id if self._head is not None else b""

    @property
    def tree_here(self) -> TreeIndex | None:
        """The tree, if it has been read and was not forgotten."""
        return self._tree

    async def tree(self, *, patient: bool = False) -> TreeIndex:
        """Return the tree; read it first, if that was not done. Raises what opening raises; Away unless ``patient``."""
        if self._tree is None:
            self._tree_asked = True
            self._want()
            came = self._tree_came
            await (came.wait() if patient else self._wait(came))
        if self._tree is None:
            raise self.last_error or away()
        return self._tree

    def forget_tree(self) -> None:
        """Let go of the tree; it is read anew when it is wanted. Whoever still uses it may go on."""
        self._tree = None
        self._tree_came = trio.Event()

    def let_go(self) -> None:
        """Give the session back as soon as nothing is under way."""
        self._let_go = True
        self._changed.unpark_all()

    def here(self, chunk_id: bytes) -> memoryview | None:
        """Return a chunk that is in the cache."""
        return self._cache.here(chunk_id)

    async def chunk(self, chunk_id: bytes, reach: int) -> memoryview:
        """Return a chunk, proven; ``reach``: bytes that it is known to have. Raises Away, DamagedData."""
        slot = self._ask(chunk_id, reach)
        await self._wait(slot.ready)
        if slot.error is not None:
            raise slot.error
        assert slot.plain is not None
        if len(slot.plain) < reach:
            raise DamagedData("a file goes on behind the end of a chunk", "run verify; restore another point")
        return slot.plain

    def ahead(self, chunk_id: bytes, reach: int) -> None:
        """Begin to load a chunk that will be wanted soon, where that can be done now."""
        if self._recovery is not None:
            self._ask(chunk_id, reach)

    def _ask(self, chunk_id: bytes, reach: int) -> Slot:
        slot, new = self._cache.slot(chunk_id, reach)
        if new:
            self._waiting.append(slot)
            self._want()
        return slot

    def _want(self) -> None:
        self._used_at = trio.current_time()
        self._wanted.set()
        self._changed.unpark_all()

    async def _wait(self, came: trio.Event) -> None:
        """Wait for something, for as long as the target answers. Raises Away."""
        while not came.is_set():
            before = self._received()
            with trio.move_on_after(self._patience()):
                await came.wait()
            if not came.is_set() and self._received() - before < ALIVE_BYTES:
                if self._silent_since is None:
                    self._silent_since = before
                raise away()

    def _patience(self) -> float:
        """Return how many seconds a reader waits from here on."""
        if self._silent_since is not None and self._received() - self._silent_since >= ALIVE_BYTES:
            self._silent_since = None
        return ANSWER_SECONDS if self._silent_since is None else AGAIN_SECONDS

    def _received(self) -> int:
        return self._link.bytes_received if self._link is not None else 0

    # --- sessions, one after the other ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the point at hand until cancelled."""
        pause = FIRST_PAUSE
        while True:
            await self._wanted.wait()
            self._let_go = False
            try:
                await self._one_session()
            except TamperingDetected as error:
                # Whoever sits in the line is not given another try.
                self._context.bus.publish(SecurityEvent(peer=self._order.job, what=error.what))
                raise
            except Exception as error:
                # Whatever the target did: programs that read from the mount learn it, and the mount stays.
                self._failed(error if isinstance(error, TransporterError) else JobFailed(f"internal error: {error!r}"))
                if self._was_open:
                    pause = FIRST_PAUSE
                # Jitter, so that many mounts do not all return in the same moment.
                await trio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, LONGEST_PAUSE)
                self._wanted.set()
            else:
                pause = FIRST_PAUSE

    def _failed(self, error: TransporterError) -> None:
        self.last_error = error
        while self._waiting:
            self._cache.fail(self._waiting.popleft(), error)
        self._tree_came.set()
        self._tree_came = trio.Event()
        if error.what != self._said:
            self._said = error.what
            self._context.bus.publish(Note(text=f"the restore point cannot be read now: {error}", job=self._order.job))

    async def _one_session(self) -> None:
        self._was_open = False
        try:
            async with open_ordered(self._context, self._order) as recovery:
                self._link, self._silent_since = recovery.link, None
                self._check_same(recovery)
                await self._read_tree(recovery)
                self._recovery, self.last_error, self._said, self._was_open = recovery, None, "", True
                await self._serve(recovery)
        finally:
            self._recovery = self._link = None

    async def _read_tree(self, recovery: Recovery) -> None:
        if self._tree is None:
            self._tree = await read_tree(self._context, recovery)
        self._tree_asked = False
        self._tree_came.set()

    def _check_same(self, recovery: Recovery) -> None:
        """Refuse another point under the name of ours: what was read of it before is still in use."""
        if self._head is not None and self._head != recovery.head:
            raise DamagedData("the target serves another restore point under the same id", "run scrub there")
        self._head = recovery.head

    async def _serve(self, recovery: Recovery) -> None:
        under_way: set[Slot] = set()
        try:
            async with open_tasks() as nursery:
                while not (self._let_go and not under_way and not self._waiting and not self._tree_asked):
                    # What was wanted so far is seen to now; what is wanted from here on is not forgotten, should this
                    # session end just then.
                    self._wanted = trio.Event()
                    if self._tree_asked:
                        await self._read_tree(recovery)
                    while self._waiting:
                        slot = self._waiting.popleft()
                        under_way.add(slot)
                        nursery.start_soon(self._load, recovery, slot, under_way)
                    left = self._used_at + IDLE_SECONDS - trio.current_time()
                    if left <= 0 and not under_way:
                        break
                    with trio.move_on_after(max(left, 1.0)):
                        await self._changed.park()
        finally:
            for slot in under_way:
                self._cache.fail(slot, self.last_error or away())

    async def _load(self, recovery: Recovery, slot: Slot, under_way: set[Slot]) -> None:
        wanted = await recovery.content.want(slot.chunk_id, slot.reach)
        try:
            plain = await wait_for(wanted)
        except TransporterError as error:
            under_way.discard(slot)
            self._cache.fail(slot, error)
        else:
            under_way.discard(slot)
            self._cache.fill(slot, plain)
        finally:
            recovery.content.done(wanted)
        if self._let_go:
            self._changed.unpark_all()
