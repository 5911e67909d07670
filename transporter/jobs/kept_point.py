"""A point that is read here and there for hours: opened when something of it is wanted, again whenever that breaks.

    asleep ── wanted ──▶ opening ──▶ open ── nothing wanted for IDLE_SECONDS, or told to let go ──▶ asleep
                            ▲          │ the link is lost for good, the target refuses, …
                            └─ pause ◀─┘

What is wanted meanwhile waits, but not for ever: whoever waits gets ``Away``, and asks again later.
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import AsyncExitStack

import trio

from pipeline.run import open_tasks
from transporter.errors import DamagedData, JobFailed, TamperingDetected, TransporterError
from transporter.events import Note, SecurityEvent
from transporter.jobs.chunk_cache import ChunkCache, Slot
from transporter.jobs.context import JobContext
from transporter.jobs.mount_silence import Silence, away
from transporter.jobs.point_order import PointOrder, open_ordered
from transporter.jobs.point_tree import read_tree
from transporter.jobs.recovery import Recovery, wait_for
from transporter.repository.point_head import PointHead
from transporter.workloads.tree_index import TreeIndex

IDLE_SECONDS = 300.0
"""A session that nobody needs is given back: a target has 16 for each of its tenants."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0


class KeptPoint:
    """One point. ``run`` must run in a nursery for as long as anything is asked of it."""

    def __init__(self, context: JobContext, order: PointOrder, cache: ChunkCache, silence: Silence) -> None:
        self._context = context
        self._order = order
        self._cache = cache
        self._silence = silence
        self._tree: TreeIndex | None = None
        self._tree_came = trio.Event()
        self._tree_asked = False
        self._patient = False
        self._head: PointHead | None = None
        self._recovery: Recovery | None = None
        self._wanted = trio.Event()
        self._waiting: deque[Slot] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._let_go = False
        self._readers = 0
        self._used_at = 0.0
        self._began = 0.0
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
            self._patient = patient
            try:
                await (came.wait() if patient else self._wait(came))
            finally:
                self._patient = False
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
        self._readers += 1
        try:
            await self._silence.wait(came)
        finally:
            self._readers -= 1

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
                if self._nobody_cares():
                    self._rest()
                else:
                    self._wanted.set()
            else:
                pause = FIRST_PAUSE

    def _failed(self, error: TransporterError) -> None:
        self.last_error = error
        if not self._was_open:
            self._silence.failed(error, self._began)
        self._fail_waiting(error)
        self._tree_came.set()
        self._tree_came = trio.Event()
        # Who mounts one point ends with the error itself.
        if not self._patient and error.what != self._said:
            self._said = error.what
            self._context.bus.publish(Note(text=f"the restore point cannot be read now: {error}", job=self._order.job))

    def _fail_waiting(self, error: TransporterError) -> None:
        while self._waiting:
            self._cache.fail(self._waiting.popleft(), error)

    async def _one_session(self) -> None:
        self._was_open = False
        async with AsyncExitStack() as stack:
            async with self._silence.turn():
                if self._nobody_cares():
                    self._rest()
                    return
                self._began = trio.current_time()
                recovery = await stack.enter_async_context(open_ordered(self._context, self._order))
            stack.enter_context(self._silence.over(recovery.link))
            self._check_same(recovery)
            await self._read_tree(recovery)
            self._recovery, self.last_error, self._said, self._was_open = recovery, None, "", True
            try:
                await self._serve(recovery)
            finally:
                self._recovery = None

    def _nobody_cares(self) -> bool:
        """Tell whether enough others were looked into since, and nobody waits."""
        # A target that is away would else be dialled, and when it is back be held, for whatever was wanted meanwhile.
        return self._let_go and not self._readers

    def _rest(self) -> None:
        """Want nothing any more, until somebody asks anew."""
        self._tree_asked = False
        self._wanted = trio.Event()
        self._fail_waiting(away())

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
