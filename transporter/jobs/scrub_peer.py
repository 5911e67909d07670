"""A copy at a peer, as what a repository of this node is healed from: the very same records, over a copy-out session.

The one who heals is a thread that needs one chunk after the other; the session belongs to a task. It is opened when the
first chunk is needed, for most scrubs need none, and again after a line broke.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import trio

from pipeline.run import open_tasks
from transporter.errors import CannotConnect, DamagedData, TransporterError, UsageError
from transporter.jobs.context import JobContext
from transporter.jobs.copy_ends import CopyRow, StoredChunk
from transporter.jobs.copy_plan import End, list_end
from transporter.jobs.copy_there import SourceThere, open_source_there
from transporter.jobs.points import DAMAGED
from transporter.jobs.scrub_copy import same_domains
from transporter.link.broken import LinkBroken, NoAnswer
from transporter.points.copied import Form
from transporter.repository import ChunkRecord, PointMissing, Repository
from transporter.repository.errors import ChunkMissing

Work = Callable[[SourceThere], Awaitable[Any]]
# A chunk of 16 MiB over a slow line, behind others; then whoever does not give it gives none.
ANSWER_SECONDS = 600.0
# Nothing was asked for so long: the peer's session is not held any longer. The next question opens another.
IDLE_SECONDS = 30.0
PAUSE_SECONDS = 1.0
TRIES = 3
# Points of one domain by which its chunks are asked for: any will do, but the newest may be gone by then.
POINTS_TRIED = 4


@dataclass(eq=False)
class _Question:
    """What a thread asks, until it is answered."""

    work: Work
    done: trio.Event = field(default_factory=trio.Event)
    answer: object = None
    error: Exception | None = None
    tries: int = 0


class CopyThere:
    """The copy. `have` and `read` are for threads of trio's, one at a time; `serve` runs meanwhile."""

    def __init__(self, context: JobContext, end: End, points: dict[bytes, list[CopyRow]]) -> None:
        self._context = context
        self._end = end
        # For each domain here the domains there that hold the same chunks, and points by which they are asked for.
        self._domains: dict[bytes, dict[bytes, list[CopyRow]]] = {}
        for domain, rows in points.items():
            there = self._domains.setdefault(domain, {})
            for row in rows:
                kept = there.setdefault(row.row.domain, [])
                if len(kept) < POINTS_TRIED:
                    kept.append(row)
        # The session, and which point it is about.
        self._turned: tuple[SourceThere, CopyRow] | None = None
        self._asked: _Question | None = None
        # Not empty while a point is being turned to: those that will do, the first one is asked for.
        self._turning: list[CopyRow] = []
        self._send, self._receive = trio.open_memory_channel[_Question](0)

    # --- for the thread that heals --------------------------------------------------------------------------------

    def have(self, domain: bytes, ids: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        """Return the keys under which each chunk is stored. Raises CannotConnect, and what the peer refuses with."""
        found: list[dict[bytes, None]] = [{} for _ in ids]

        async def work(source: SourceThere) -> None:
            for rows in self._domains.get(domain, {}).values():
                await self._turn_to(source, rows)
                for keys, more in zip(found, await source.forms(list(ids)), strict=True):
                    keys.update(dict.fromkeys(more))

        trio.from_thread.run(self._ask, work)
        return [tuple(keys) for keys in found]

    def read(self, domain: bytes, chunk_id: bytes, key_ids: Sequence[bytes] | None = None) -> ChunkRecord:
        """Return the record of a chunk under one of ``key_ids``, which the peer has read and proved.

        Raises ChunkMissing, DamagedData, CannotConnect.
        """

        async def work(source: SourceThere) -> ChunkRecord:
            for rows in self._domains.get(domain, {}).values():
                await self._turn_to(source, rows)
                for key_id in key_ids or ():
                    found = await _fetch(source, domain, (chunk_id, key_id))
                    if found is not None:
                        return found
            raise ChunkMissing(f"{self._end} has no chunk {chunk_id.hex()[:16]} whole", "take another copy")

        return cast(ChunkRecord, trio.from_thread.run(self._ask, work))

    async def _ask(self, work: Work) -> object:
        question = _Question(work)
        await self._send.send(question)
        await question.done.wait()
        if question.error is not None:
            raise question.error
        return question.answer

    # --- with the session -----------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Answer until cancelled."""
        while True:
            if self._asked is None:
                self._asked = await self._receive.receive()
            try:
                async with open_source_there(self._context, self._end.peer, self._end.repository, "") as source:
                    await self._serve_some(source)
            except (LinkBroken, CannotConnect) as error:
                await self._broke(error)
            except TransporterError as error:
                if self._turning and isinstance(error, PointMissing | DamagedData):
                    # A refusal ends the session. The question is asked again, by another point.
                    del self._turning[0]
                else:
                    self._settle(error=error)
            self._turning = []

    async def _broke(self, error: Exception) -> None:
        """Ask once more over another session, but not for ever. Where nothing is asked for, nothing is lost."""
        if self._asked is None:
            return
        self._asked.tries += 1
        if self._asked.tries == TRIES:
            why = f"{self._end.peer} does not supply chunks any more: {error}"
            self._settle(error=CannotConnect(why, "scrub again: what was supplied by then stays"))
            return
        await trio.sleep(PAUSE_SECONDS)

    async def _serve_some(self, source: SourceThere) -> None:
        while self._asked is not None:
            with trio.move_on_after(ANSWER_SECONDS) as deadline:
                try:
                    self._settle(await self._asked.work(source))
                except DamagedData as error:
                    if self._turning:
                        raise
                    self._settle(error=error)
            if deadline.cancelled_caught:
                raise NoAnswer("it gives no answer")
            with trio.move_on_after(IDLE_SECONDS):
                self._asked = await self._receive.receive()

    def _settle(self, answer: object = None, error: Exception | None = None) -> None:
        question, self._asked = self._asked, None
        if question is not None:
            question.answer, question.error = answer, error
            question.done.set()

    async def _turn_to(self, source: SourceThere, rows: list[CopyRow]) -> None:
        """Have the session be about the newest of these points, which all need chunks of one domain.

        Raises ChunkMissing where all of them are gone.
        """
        if not rows:
            raise ChunkMissing(f"{self._end} has none of these restore points any more", "take another copy")
        if self._turned == (source, rows[0]):
            return
        self._turning = rows
        await source.open_point(rows[0])
        self._turning = []
        self._turned = source, rows[0]


async def _fetch(source: SourceThere, domain: bytes, form: Form) -> ChunkRecord | None:
    """Return a record, None where the peer has it not, or not whole."""
    found: list[ChunkRecord] = []

    async def take(chunk: StoredChunk) -> None:
        found.append(chunk.record)

    await source.fetch(domain, [form], take, lambda _form, _reason: None)
    return found[0] if found else None


@asynccontextmanager
async def open_copy_there(context: JobContext, end: End, store: Repository) -> AsyncIterator[CopyThere]:
    """Yield the repository ``end`` at a peer as what ``store`` is healed from.

    Raises UsageError where it has no point that ``store`` has, CannotConnect, and what the peer refuses with.
    """
    rows = [row for row in await list_end(context, end, "") if row.row.kind != DAMAGED and not row.row.resealed]
    named = [(row.row.point, row.row.point_hash, row) for row in rows]
    points = await trio.to_thread.run_sync(same_domains, store, named)
    if not points:
        raise UsageError(
            f"{end} has no restore point that this repository has, as far as this node may see",
            "name a repository that it was copied to or from, by this node",
        )
    copy = CopyThere(context, end, points)
    async with open_tasks() as nursery:
        nursery.start_soon(copy.serve)
        yield copy
        nursery.cancel_scope.cancel()
