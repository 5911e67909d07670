"""A backup, from the end that reads: identify → drop what the target has → compress → seal → send → commit.

The stages are composed from the trust zone. The run's id is the id of the point it will commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass, field

import trio
from blake3 import blake3
from msgspec import structs

from pipeline.channel import ByteChannel
from pipeline.chunk import Chunk
from pipeline.chunker import CONTENT_SIZES
from pipeline.run import open_tasks
from pipeline.trust_zone import Zone, backup_source
from pipeline.workers import ordered_window
from protocol.keeping_messages import Chain, GetChain
from protocol.lost_messages import split_claims
from protocol.messages import GetLost, Lost, Start, Started
from transporter.config import JobConfig
from transporter.errors import JobFailed, MissingChunks
from transporter.events import (
    FileNote,
    FileSkipped,
    JobFinished,
    JobStarted,
    LinkLost,
    LinkUp,
    Note,
    PointCommitted,
    Progress,
    Redialling,
    display_path,
)
from transporter.jobs.chain import check_chain, expected_digest, read_chain
from transporter.jobs.commit import Commit, commit_point
from transporter.jobs.compression import Compression
from transporter.jobs.context import JobContext, job_lock
from transporter.jobs.early_reading import EarlyReader, open_early_reader
from transporter.jobs.given import check_domain
from transporter.jobs.index_cache import IndexCache
from transporter.jobs.packing import compose_packing, keep_index
from transporter.jobs.parent import Parent, find_parent, last_point_at
from transporter.jobs.read_messages import Open
from transporter.jobs.reading import Reading
from transporter.jobs.resealing import Resealer
from transporter.jobs.retention import retain_after_run
from transporter.keys.chunk_id import ChunkIdKey
from transporter.link.data_path import open_data_session
from transporter.link.resilient import ResilientLink
from transporter.points.run_keys import RunKeys, begin_run

POINT_ID_LENGTH = 16
# What is compressed and sealed at once: large enough that a hop into a thread costs nothing, small enough to cancel
# between, and for both processors to have something to do.
GROUP = 3 << 20
# Few questions at a time: each then asks for all that was cut meanwhile, and on a long line they grow by themselves.
QUESTIONS_UNDER_WAY = 2
IDS_PER_QUESTION = 1024
PROGRESS_SECONDS = 0.25
STREAMS = 2


@dataclass
class Counters:
    """What happened so far; plain numbers that events are made of."""

    bytes_read: int = 0
    bytes_new: int = 0
    chunks: int = 0
    chunks_new: int = 0
    files_skipped: int = 0
    notes: int = 0
    redials: int = 0


@dataclass
class BackupRun:
    """One run of one job."""

    context: JobContext
    name: str
    job: JobConfig
    run_id: bytes
    # Unchanged files are read, too.
    reread: bool = False
    counters: Counters = field(default_factory=Counters)
    # Chunks of the parent's manifest: if one is not there after all, the commit says so, and all is read again.
    surely_there: frozenset[bytes] = frozenset()
    # Of a first run: what its chunks were named by while nobody knew yet that it is one.
    fresh_key: ChunkIdKey | None = field(default=None, repr=False)
    # What the target lost and older points need, where it lost anything.
    lost: Resealer | None = None

    @property
    def label(self) -> str:
        """What the key database calls the job's domain: two targets of one job share neither ids nor keys."""
        return f"{self.job.to}/{self.name}"

    async def run(self) -> JobFinished:
        """Do it. Raises the error that ended it; nothing half-visible is left then."""
        began = self.context.clock.monotonic()
        self.context.bus.publish(
            JobStarted(
                job=self.name,
                operation="backup",
                peer=self.job.peer,
                repository=self.job.repository,
                zone=self.job.encrypt,
                point=self.run_id.hex(),
            )
        )
        link = self._link()
        async with (
            open_tasks() as nursery,
            open_early_reader(
                self.context.home.cache, from_stdin=self.job.workload == "stream", spare=self.context.spare
            ) as reader,
        ):
            nursery.start_soon(link.run)
            async with open_tasks() as early:
                early.start_soon(self._begin_reading, reader)
                started = await link.started()
                check_domain(started, self.name, acceleration=self.job.network_acceleration)
                await self._check_chain(link, started)
                parent = await find_parent(self.context, self.name, self.job, link, started, reread=self.reread)
                self.surely_there = parent.manifest
                keys = await trio.to_thread.run_sync(self._keys, parent, started.tenant)
                if keys is not None:
                    link.usable = keys.opens
                await self._learn_lost(link, started, keys)
                known = parent.point if parent.known_here else b""
                reading = await reader.open(self._what_to_read(known, self._chunk_id_key(keys, started)))
            pack = compose_packing(backup_source(Zone(self.job.encrypt)), keys)
            if self.lost is not None:
                pack = self.lost.packing(pack)
            with closing(IndexCache(self.context.home.index_cache)) as cache:
                compression = Compression(link, keep_index(pack, cache), self.job.compression, self.context.clock)
                await self._copy(link, reading, keys, compression)
            kind = "incremental" if parent.point else "full"
            commit = Commit(self.context, self.name, self.job, self.run_id, kind, started, parent, keys)
            await commit_point(commit, link, reading, reader.needs, self.counters.files_skipped)
            link.finish()
        self.context.bus.publish(
            PointCommitted(job=self.name, point=self.run_id.hex(), kind=kind, parent=parent.point.hex())
        )
        seconds = self.context.clock.monotonic() - began
        return structs.replace(self._finished(link, reading, kind, seconds), **compression.facts())

    async def _learn_lost(self, link: ResilientLink, started: Started, keys: RunKeys | None) -> None:
        """Ask what the target lost: as it is read it is sealed as it was, so that older points are whole again."""
        if keys is None or not started.lost:
            return
        answer, _payload = await link.request(GetLost(), b"", Lost)
        self.lost = Resealer(split_claims(answer.claims), keys)

    # --- parts ------------------------------------------------------------------------------------------------

    def _link(self) -> ResilientLink:
        peer = self.context.peer(self.job.peer)
        start = Start(
            purpose="backup",
            job=self.name,
            repository=self.job.repository,
            zone=self.job.encrypt,
            password=self.job.password if Zone(self.job.encrypt) is Zone.TARGET else "",
            point=b"",
            resume=self.run_id,
            kind="",
            acceleration=self.job.network_acceleration,
            head=Zone(self.job.encrypt) is Zone.SOURCE,
        )
        most = self.context.config.limits.max_streams
        streams = min(STREAMS, most)

        def notify(what: str, reason: str, delay: float) -> None:
            if what == "lost":
                self.counters.redials += 1
                self.context.bus.publish(LinkLost(peer=peer.name, reason=reason))
                self.context.bus.publish(Redialling(peer=peer.name, attempt=self.counters.redials, delay=delay))
            else:
                self.context.bus.publish(LinkUp(peer=peer.name, address=peer.place, streams=streams))

        return ResilientLink(
            lambda handlers: open_data_session(
                peer, self.context.identity, start, streams, handlers, self.context.clock, self.context.say, most
            ),
            redial_for=float(self.context.config.limits.redial_for),
            notify=notify,
            flow=self.context.flow(peer.name, self.name),
            gate=self.context.gate,
        )

    async def _check_chain(self, link: ResilientLink, started: Started) -> None:
        """See that no point was removed or exchanged. A round trip only where it is not all as it should be."""
        catalog = self.context.catalog
        if not started.chain or started.chain == expected_digest(catalog, self.job.to, self.name):
            return

        async def ask(question: GetChain) -> tuple[Chain, memoryview]:
            return await link.request(question, b"", Chain)

        there = await read_chain(ask, self.job.repository, self.name)
        # The job's lock is held: a commit whose end was not seen will not come any more.
        await check_chain(self.context, self.job.to, self.name, there, settled=True)

    async def _begin_reading(self, reader: EarlyReader) -> None:
        await reader.begin(await self._expected())

    async def _expected(self) -> Open | None:
        """Return what this run will read if the target says what this home remembers; None where nothing is known.

        Only in zone source are chunks named by a key of this home. What comes by stdin can be read but once.
        """
        if Zone(self.job.encrypt) is not Zone.SOURCE or self.job.workload == "stream":
            return None
        last = last_point_at(self.context, self.name, self.job)
        key = await trio.to_thread.run_sync(self.context.keys.domain_key, self.label)
        if key is None:
            if last is not None:
                return None
            key = self.fresh_key = ChunkIdKey.generate(self.context.clock)
        return self._what_to_read(b"" if last is None or self.reread else last.point, key.secret)

    def _keys(self, parent: Parent, tenant: str) -> RunKeys | None:
        if Zone(self.job.encrypt) is not Zone.SOURCE:
            return None
        user_key = self.context.keys.user_key(self.job.password)
        # All that a service must give, now: once chunks are sealed its outage stops nothing.
        kms_slot = self.context.keys.prepare_kms_slot(user_key, tenant, self.run_id)
        keys = begin_run(
            self.context.keys, user_key, self.label, self.run_id, parent.ring, self.context.clock, fresh=self.fresh_key
        )
        keys.kms_slot = kms_slot
        return keys

    @staticmethod
    def _chunk_id_key(keys: RunKeys | None, started: Started) -> bytes:
        if keys is not None:
            return keys.chunk_id_key.secret
        if not started.chunk_id_key:
            raise JobFailed("the peer did not say how chunks are named", "update the transporter there")
        return started.chunk_id_key

    def _what_to_read(self, known: bytes, chunk_id_key: bytes) -> Open:
        """``known``: the point whose manifest this home has kept, empty where every file is to be read."""
        job = self.job
        return Open(
            workload=job.workload,
            paths=[os.fsencode(path) for path in job.paths],
            exclude=list(job.exclude),
            stdin_name=job.stdin_name,
            manifest_path=str(self.context.home.manifest_path(self.name)),
            identity=_identity(self.run_id, chunk_id_key),
            parent=_identity(known, chunk_id_key) if known else b"",
            chunk_id_key=chunk_id_key,
        )

    async def _copy(
        self, link: ResilientLink, reading: Reading, keys: RunKeys | None, compression: Compression
    ) -> None:
        cut: ByteChannel[list[Chunk]] = ByteChannel("cut", 4, 2 * CONTENT_SIZES.maximum, _size)
        unknown: ByteChannel[list[Chunk]] = ByteChannel("unknown", 4, 2 * CONTENT_SIZES.maximum, _size)

        async def known(chunks: list[Chunk]) -> list[Chunk]:
            return await self._drop_known(link, _all_that_wait(chunks, cut), keys)

        async def put(chunks: list[Chunk]) -> None:
            for chunk in chunks:
                chunk.let_go()
                await compression.put(chunk)

        async def hand_on(chunks: list[Chunk]) -> None:
            for group in _in_small_groups(chunks):
                await unknown.send(group)

        async def known_stage() -> None:
            await ordered_window(cut, known, hand_on, QUESTIONS_UNDER_WAY)
            unknown.close()

        async with open_tasks() as watch:
            watch.start_soon(self._publish_progress, link, reading)
            watch.start_soon(reading.give_back)
            async with open_tasks() as nursery:
                nursery.start_soon(self._read_stage, reading, cut)
                nursery.start_soon(known_stage)
                nursery.start_soon(ordered_window, unknown, compression.pack_group, put, compression.width)
            await link.drained()
            watch.cancel_scope.cancel()

    async def _read_stage(self, reading: Reading, cut: ByteChannel[list[Chunk]]) -> None:
        # Left to the garbage collector, a reading that was cut short would end at no moment that anybody chose.
        async with aclosing(reading.units()) as units:
            async for length, chunks in units:
                self.counters.bytes_read += length
                self._report(reading)
                if chunks:
                    await cut.send(chunks)
        cut.close()

    async def _drop_known(self, link: ResilientLink, chunks: list[Chunk], keys: RunKeys | None) -> list[Chunk]:
        """Ask the target, and keep only what it lacks (or has under a key that nobody holds any more)."""
        unknown = []
        again = {chunk.chunk_id for chunk in chunks if self.lost is not None and await self._made_again(chunk)}
        doubtful = [chunk for chunk in chunks if chunk.chunk_id not in self.surely_there or chunk.chunk_id in again]
        for chunk in chunks:
            self.counters.chunks += 1
            if chunk.chunk_id in self.surely_there and chunk.chunk_id not in again:
                chunk.let_go()
        answers = await self._ask(link, [chunk.chunk_id for chunk in doubtful]) if doubtful else []
        for chunk, key_id in zip(doubtful, answers, strict=True):
            usable = key_id is not None and (keys is None or keys.opens(key_id))
            if (usable and chunk.chunk_id not in again) or not link.claim(chunk.chunk_id):
                chunk.let_go()
                continue
            self.counters.chunks_new += 1
            self.counters.bytes_new += chunk.plain_length
            unknown.append(chunk)
        return unknown

    async def _made_again(self, chunk: Chunk) -> bool:
        """Tell whether the target lost this chunk, and its lost form could be made once more."""
        if self.lost is None or chunk.chunk_id not in self.lost:
            return False
        return await trio.to_thread.run_sync(self.lost.make, chunk)

    async def _ask(self, link: ResilientLink, ids: list[bytes]) -> list[bytes | None]:
        """Return for each id the key id of its stored form, or None. Nobody is asked where the answer is known."""
        if (await link.started()).domain_empty:
            return [None] * len(ids)
        return await link.have(ids)

    def _report(self, reading: Reading) -> None:
        for note in reading.take_notes():
            path = display_path(note.path)
            if note.gap:
                self.counters.files_skipped += 1
                self.context.bus.publish(FileSkipped(job=self.name, path=path, reason=note.text))
            else:
                self.context.bus.publish(FileNote(job=self.name, path=path, note=note.text))

    async def _publish_progress(self, link: ResilientLink, reading: Reading) -> None:
        while True:
            await trio.sleep(PROGRESS_SECONDS)
            self.context.bus.publish(
                Progress(
                    job=self.name,
                    bytes_read=self.counters.bytes_read,
                    bytes_new=self.counters.bytes_new,
                    bytes_sent=link.bytes_sent,
                    files=reading.files,
                    files_unchanged=reading.files_unchanged,
                    bytes_total=reading.bytes_expected,
                )
            )

    def _finished(self, link: ResilientLink, reading: Reading, kind: str, seconds: float) -> JobFinished:
        counters = self.counters
        return JobFinished(
            job=self.name,
            operation="backup",
            point=self.run_id.hex(),
            kind=kind,
            zone=self.job.encrypt,
            bytes_read=counters.bytes_read,
            bytes_new=counters.bytes_new,
            bytes_sent=link.bytes_sent,
            bytes_received=link.bytes_received,
            bytes_total=reading.bytes_total,
            files=reading.files,
            files_unchanged=reading.files_unchanged,
            files_skipped=counters.files_skipped,
            chunks=counters.chunks,
            chunks_new=counters.chunks_new,
            seconds=round(seconds, 3),
            streams=link.streams,
            redials=counters.redials,
        )


def _all_that_wait(first: list[Chunk], cut: ByteChannel[list[Chunk]]) -> list[Chunk]:
    """Return ``first`` and whatever else has been cut by now, up to one question's worth."""
    chunks = list(first)
    while len(chunks) < IDS_PER_QUESTION:
        try:
            chunks += cut.receive_nowait()
        except trio.WouldBlock:
            break
    return chunks


def _in_small_groups(chunks: list[Chunk]) -> Iterator[list[Chunk]]:
    """Yield the chunks in groups of about ``GROUP`` bytes: the unit of work, and of memory, of the packing threads."""
    group: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if group and size + chunk.plain_length > GROUP:
            yield group
            group, size = [], 0
        group.append(chunk)
        size += chunk.plain_length
    if group:
        yield group


def _size(chunks: list[Chunk]) -> int:
    return sum(chunk.plain_length for chunk in chunks)


def _identity(point: bytes, chunk_id_key: bytes) -> bytes:
    """Return what a kept manifest is known by: its ids mean nothing where chunks are named under another key."""
    return point + blake3(chunk_id_key).digest()[:16]


async def run_backup(context: JobContext, name: str) -> JobFinished:
    """Run the job ``name`` of this home once. Raises every error of ``transporter.errors`` that a job can meet."""
    job = context.config.job(name)
    with job_lock(context.home, name):
        # Here, and not where config.toml is edited: nobody gets around it by editing that by hand.
        await trio.to_thread.run_sync(context.keys.take_up_zone, name, job.encrypt)
        try:
            finished = await _one_run(context, name, job)
        except MissingChunks:
            # Files that were taken for unchanged lie in chunks that the target lost: read everything, and so heal it.
            # The last point stays known: else a target that says so could go back to an older one unnoticed.
            context.bus.publish(Note(text="the target lost chunks; every file is read again", job=name))
            finished = await _one_run(context, name, job, reread=True)
        if not job.keep.empty:
            await retain_after_run(context, name, job)
        return finished


async def _one_run(context: JobContext, name: str, job: JobConfig, *, reread: bool = False) -> JobFinished:
    return await BackupRun(context, name, job, context.clock.random_bytes(POINT_ID_LENGTH), reread).run()
