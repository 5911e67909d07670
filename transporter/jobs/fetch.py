"""Chunks on their way in: asked for well ahead, opened in threads, handed on in the order of need.

Memory: a chunk that was asked for counts as what is known of its length, but not less than the usual one, until it is
here. All of them together stay within ``AHEAD_BYTES``; where many turn out to be longer (four times at the most), no
more are asked for until they are used. ``KEPT_BYTES`` of those that were used stay, because an incremental point goes
back and forth between old and new chunks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from pipeline.channel import ByteBudget
from pipeline.workers import Lane, processors
from protocol.limits import MAX_KEY_IDS, MAX_PLAIN_LENGTH
from protocol.messages import Chunk
from transporter.errors import DamagedData, NoKey, TransporterError
from transporter.jobs.open_chunk import open_chunk
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.session_key import ChunkOpener

AHEAD_BYTES = 20 << 20
# What a chunk is taken for of which little is known: an ordinary one, minimum and half an average long.
USUAL_LENGTH = 1280 << 10
# Manifest chunks are 256 KiB at the most.
MANIFEST_CHUNK = 256 << 10
MANIFEST_AHEAD_BYTES = 8 * MANIFEST_CHUNK
KEPT_BYTES = 4 << 20
# In a sealed chunk, behind its form (keys/session_key.py).
KEY_ID = slice(1, 33)


@dataclass(eq=False)
class Wanted:
    """A chunk that was asked for. ``users`` hold it; ``plain`` or ``error`` is there once ``ready``.

    ``opening``: it came and is being opened. ``without``: ids of keys under which it came and that the point has not.
    """

    chunk_id: bytes
    users: int = 0
    charged: int = 0
    ready: trio.Event = field(default_factory=trio.Event)
    opening: bool = False
    plain: memoryview | None = field(default=None, repr=False)
    error: TransporterError | None = None
    without: list[bytes] = field(default_factory=list)


class ChunkLink(Protocol):
    """Whom a fetcher asks: the line to a peer, or a repository of this node."""

    async def ask_for(self, chunk_id: bytes) -> None:
        """Request one chunk."""

    def ask_for_another(self, chunk_id: bytes, without: Sequence[bytes]) -> None:
        """Request a chunk in a form that is not sealed under one of the keys ``without``."""

    def arrived(self, chunk_id: bytes) -> None:
        """Note that a requested chunk came."""


class ChunkFetcher:
    """Asks, opens, checks, keeps. ``on_chunk`` is called by the link for every chunk that arrives.

    ``opened``: called, in a thread, with each chunk that was found in order, as it came.
    """

    def __init__(
        self,
        opener: ChunkOpener,
        chunk_id_key: ChunkIdKey,
        longest: int = MAX_PLAIN_LENGTH,
        ahead: int = AHEAD_BYTES,
        kept: int = KEPT_BYTES,
        usual: int = USUAL_LENGTH,
        opened: Callable[[Chunk, memoryview], None] | None = None,
    ) -> None:
        self._opener = opener
        self._chunk_id_key = chunk_id_key
        self._longest = longest
        self._usual = usual
        self._opened = opened
        self._wanted: OrderedDict[bytes, Wanted] = OrderedDict()
        self._kept = 0
        self._kept_at_most = kept
        self._budget = ByteBudget("fetched", ahead, resume_at=ahead * 3 // 4)
        self._lane = Lane(processors())
        self.link: ChunkLink | None = None
        self.chunks = 0
        self.bytes_plain = 0

    async def want(self, chunk_id: bytes, at_least: int = 0) -> Wanted:
        """Ask for a chunk unless it is here or on its way; waits while too many are. Give it back with ``done``.

        ``at_least``: bytes that it is known to have.
        """
        wanted = self._wanted.get(chunk_id)
        if wanted is None or (wanted.ready.is_set() and wanted.error is not None):
            wanted = self._wanted[chunk_id] = Wanted(chunk_id, users=1)
            wanted.charged = min(max(at_least, self._usual), self._longest)
            await self._budget.acquire(wanted.charged)
            if self.link is None:
                raise RuntimeError("no link")
            await self.link.ask_for(chunk_id)
            return wanted
        wanted.users += 1
        if wanted.users == 1 and wanted.plain is not None:
            self._kept -= len(wanted.plain)
            wanted.charged = len(wanted.plain)
            await self._budget.acquire(wanted.charged)
        return wanted

    def done(self, wanted: Wanted) -> None:
        """Give a chunk back; what was used last stays a while."""
        wanted.users -= 1
        if wanted.users:
            return
        self._budget.release(wanted.charged)
        wanted.charged = 0
        if wanted.plain is None:
            self._drop(wanted)
            return
        self._kept += len(wanted.plain)
        self._wanted.move_to_end(wanted.chunk_id)
        self._forget_old()

    def _drop(self, wanted: Wanted) -> None:
        if self._wanted.get(wanted.chunk_id) is wanted:
            del self._wanted[wanted.chunk_id]

    def _forget_old(self) -> None:
        for chunk_id, wanted in list(self._wanted.items()):
            if self._kept <= self._kept_at_most:
                return
            if wanted.users == 0 and wanted.plain is not None:
                self._kept -= len(wanted.plain)
                del self._wanted[chunk_id]

    def waits_for(self, chunk_id: bytes) -> bool:
        """Tell whether this chunk was asked for here and has not come."""
        wanted = self._wanted.get(chunk_id)
        return wanted is not None and not wanted.opening and not wanted.ready.is_set()

    def had_under(self, chunk_id: bytes, key_id: bytes) -> bool:
        """Tell whether this chunk came under that key, and was asked for in another form."""
        wanted = self._wanted.get(chunk_id)
        return wanted is not None and key_id in wanted.without

    async def on_chunk(self, header: Chunk, stored: memoryview) -> None:
        """Open a chunk that arrived."""
        if not self.waits_for(header.id):
            return
        if self.link is not None:
            self.link.arrived(header.id)
        await self._take(self._wanted[header.id], header, stored)

    async def _take(self, wanted: Wanted, header: Chunk, stored: memoryview) -> None:
        try:
            plain = await self._open(wanted, header, stored)
        except NoKey:
            wanted.error = _useless(wanted.chunk_id)
            if self._ask_for_another(wanted, bytes(stored[KEY_ID])):
                return
        except TransporterError as error:
            wanted.error = error
        else:
            wanted.plain, wanted.error = plain, None
            self._budget.release(wanted.charged - len(plain))
            wanted.charged = len(plain)
        self.chunks += 1
        self.bytes_plain += header.plain_length
        wanted.ready.set()

    async def _open(self, wanted: Wanted, header: Chunk, stored: memoryview) -> memoryview:
        wanted.opening = True
        try:
            # It is here, whatever becomes of the session that carried it: nobody will ask for it again. Nothing else
            # may be waited for in here: this is a task of the session, and whoever waits for the next one waits for it.
            with trio.CancelScope(shield=True):
                plain = await self._lane.run(self.open, header, stored)
        finally:
            wanted.opening = False
        return plain

    def _ask_for_another(self, wanted: Wanted, key_id: bytes) -> bool:
        """Ask for another form of a chunk that came under a key of another point; tell whether there is sense in it.

        A job whose parent could not be opened stores chunks again under keys of its own, beside the old ones.
        """
        if self.link is None or key_id in wanted.without or len(wanted.without) >= MAX_KEY_IDS:
            return False
        wanted.without.append(key_id)
        self.link.ask_for_another(wanted.chunk_id, wanted.without)
        return True

    def on_missing(self, chunk_id: bytes, reason: str) -> None:
        """Note that a chunk cannot be had."""
        wanted = self._wanted.get(chunk_id)
        if wanted is None or wanted.ready.is_set():
            return
        if wanted.error is None:
            wanted.error = DamagedData(
                f"chunk {chunk_id.hex()[:16]} is {reason} at the target", "run scrub there; another point may be whole"
            )
        wanted.ready.set()

    def open(self, header: Chunk, stored: memoryview) -> memoryview:
        """Open, decompress and check one chunk: its id is a keyed hash of what must come out."""
        plain = open_chunk(
            self._opener, self._chunk_id_key, self._longest, header.id, header.codec, header.plain_length, stored
        )
        if self._opened is not None:
            self._opened(header, stored)
        return plain


def _useless(chunk_id: bytes) -> DamagedData:
    """Return what is wrong with a chunk that is there, but in no form for this point: its own was lost.

    Not NoKey: the point is open, no password would help, and the files that do without this chunk are whole.
    """
    return DamagedData(
        f"chunk {chunk_id.hex()[:16]} is stored under keys of other restore points only",
        "what this one had was lost at the target; a newer point may be whole",
    )
