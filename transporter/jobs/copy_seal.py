"""Points that are sealed anew on their way, by the node that copies: plain ones, or sealed ones under another password.

The chunks keep their names, and so does everything that names them: only session keys, metakey, storage key and slots
are new, bound to the point's place at the target. A plain chunk is proved to be the one that its id names before it is
sealed: what is sealed here is vouched for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import trio
from blake3 import blake3

from pipeline.trust_zone import Zone
from protocol.limits import MAX_PLAIN_LENGTH
from protocol.messages import GetPoint, PointHead, Refused
from transporter.errors import DamagedData, NoKey, RefusedByPeer
from transporter.jobs.context import JobContext
from transporter.jobs.copy_ends import CopyTarget, StoredChunk
from transporter.jobs.copy_plan import CopyOrder, Group
from transporter.jobs.open_chunk import open_chunk
from transporter.jobs.search_here import open_store
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.derive import KEY_LENGTH
from transporter.keys.key_ring import KeyRing
from transporter.keys.password import UserKey
from transporter.keys.session_key import ChunkOpener
from transporter.link.control_link import refusal_to_error
from transporter.link.dial import dial_control
from transporter.points.assemble import OpenedPoint, Place, PointFacts, assemble_sealed, find_in, open_point
from transporter.points.copied import CopiedPoint, job_of_head
from transporter.points.run_keys import RunKeys, begin_run
from transporter.repository import ChunkRecord
from transporter.repository.point_head import PointHead as Head
from transporter.repository.point_head import decode_head

ANSWER_SECONDS = 120.0


@dataclass
class Sealing:
    """How the points of one group are sealed. One for each session with the target."""

    context: JobContext
    user_key: UserKey
    target: CopyTarget
    job: str
    # What the newest point that was sealed so has at the target, if it can be opened here.
    parent: KeyRing | None = field(repr=False)
    _keys: dict[bytes, RunKeys] = field(default_factory=dict, repr=False)
    _labels: set[str] = field(default_factory=set)

    def begin(self, point: CopiedPoint) -> PointSealing:
        """Open a point, in a thread. Raises NoKey, DamagedData and the like where that cannot be done here."""
        head = point.decoded()
        opened = self._open(point, head)
        return PointSealing(self, point, head, opened, self._keys_for(opened))

    def _open(self, point: CopiedPoint, head: Head) -> OpenedPoint:
        origin, keys = point.origin, self.context.keys
        place = Place(origin.tenant, head.job, origin.repository_id, point.point_id, head.domain, head.zone)
        slots = [slot for _, slot in point.slots]
        find = find_in(keys.find_by_salt)
        return open_point(point.head, slots, lambda _head: place, find, keys.storage_key, keys.open_kms_slot)

    def _keys_for(self, opened: OpenedPoint) -> RunKeys:
        """Return the keys of this session for chunks that are named by this key."""
        name = opened.chunk_id_key.secret
        if name not in self._keys:
            database = self.context.keys
            label = f"/copies/{self.target.name}/{self.job}/{blake3(name).hexdigest()[:16]}"
            if database.domain_key(label) is None:
                database.put_domain_key(label, opened.chunk_id_key, self.user_key)
            parent = self.parent
            if parent is not None and (parent.chunk_id_key is None or parent.chunk_id_key.secret != name):
                parent = None
            # For each session, not for each run: a run that redials seals under other keys, and its points need all.
            run_id = self.context.clock.random_bytes(16)
            self._keys[name] = begin_run(database, self.user_key, label, run_id, parent, self.context.clock)
            self._labels.add(label)
        return self._keys[name]

    def committed(self) -> None:
        """All points are there: their rings hold what is still needed."""
        for label in self._labels:
            self.context.keys.forget_runs(label)


@dataclass
class PointSealing:
    """One point that is sealed anew."""

    sealing: Sealing
    point: CopiedPoint
    head: Head
    opened: OpenedPoint = field(repr=False)
    keys: RunKeys = field(repr=False)

    def __post_init__(self) -> None:
        self._fsi = {chunk_id for chunk_id, _ in self.head.fsi or ()}
        self._metadata = self._fsi | {chunk_id for chunk_id, _ in self.head.manifest}

    def readable(self, key_ids: Sequence[bytes]) -> bytes | None:
        """Return one of these forms that this point opens; None if it opens none."""
        mine = self.opened.opener.key_ids
        return next((key_id for key_id in key_ids if key_id in mine), None)

    def usable(self, key_ids: Sequence[bytes]) -> bytes | None:
        """Return one of these forms that the sealed point can use; None if there is none."""
        return next((key_id for key_id in key_ids if self.keys.opens(key_id)), None)

    def seal(self, chunk: StoredChunk) -> StoredChunk:
        """Return a chunk sealed anew, in a thread. Raises DamagedData."""
        record, opener = chunk.record, self.opened.opener
        form = record.chunk_id, record.codec, record.plain_length
        if self.opened.ring is None:
            open_chunk(opener, self.opened.chunk_id_key, MAX_PLAIN_LENGTH, *form, record.stored)
        data = opener.open(*form, record.stored)
        metadata, fsi = record.chunk_id in self._metadata, record.chunk_id in self._fsi
        sealer = self.keys.sealer(metadata=metadata, fsi=fsi)
        sealed = sealer.seal(*form, data)
        return StoredChunk(ChunkRecord(record.chunk_id, sealer.key_id, record.codec, record.plain_length, sealed))

    def sealed_point(self) -> CopiedPoint:
        """Return the point as it is committed at the target, in a thread."""
        sealing, head = self.sealing, self.head
        context, target = sealing.context, sealing.target
        place = Place(
            tenant=target.tenant,
            job=job_of_head(sealing.job),
            repository_id=target.repository_id,
            point_id=head.point_id,
            domain=target.domain,
            zone=Zone.SOURCE,
            parent=head.parent,
            parent_hash=head.parent_hash,
        )
        facts = PointFacts(
            kind=head.kind,
            created_ns=head.created_ns,
            workload=head.workload,
            manifest=head.manifest,
            fsi=head.fsi or [],
            needs_hash=head.needs_hash,
            statistics=head.statistics,
        )
        self.keys.kms_slot = context.keys.prepare_kms_slot(sealing.user_key, target.tenant, head.point_id)
        # The storage key is not kept: this home may keep that of the original, and there is one for each point.
        encoded, slots, _ = assemble_sealed(place, facts, self.keys, sealing.user_key, context.clock, context.escrow)
        return replace(self.point, head=encoded, slots=slots, origin=replace(self.point.origin, resealed=True))


def plain_check(head: Head) -> Callable[[ChunkRecord], None]:
    """Return what raises DamagedData for a plain chunk that is not the one that its id names.

    Where the target seals a point: the source's repository is not trusted with plain chunks, and what was sealed is
    vouched for. Raises DamagedData for a point that is sealed.
    """
    if head.encrypted or len(head.chunk_id_key) != KEY_LENGTH:
        raise DamagedData(
            "a restore point that was listed as not sealed is sealed, or does not say how its chunks are named",
            "find out what happened to that repository",
        )
    opener, key = ChunkOpener((), allow_plain=True), ChunkIdKey(head.chunk_id_key)

    def check(record: ChunkRecord) -> None:
        form = record.chunk_id, record.codec, record.plain_length, record.stored
        open_chunk(opener, key, MAX_PLAIN_LENGTH, *form)

    return check


async def begin_sealing(context: JobContext, order: CopyOrder, group: Group, target: CopyTarget) -> Sealing | None:
    """Return how the points of a group are sealed; None where they are copied as they are. Raises UnknownPassword."""
    if not group.seal or order.seal == "target":
        return None
    user_key = await trio.to_thread.run_sync(context.keys.user_key, order.password)
    parent = await _parent(context, order, group, target)
    return Sealing(context, user_key, target, group.job, parent)


async def _parent(context: JobContext, order: CopyOrder, group: Group, target: CopyTarget) -> KeyRing | None:
    """Return the keys of the newest point that was sealed so: chunks that it needs can be used again."""
    rows = [row for row in group.there.values() if row.resealed and row.domain == target.domain]
    if not rows:
        return None
    newest = max(rows, key=lambda row: row.committed_ns).point
    end = order.target
    try:
        if end.peer:
            slots, raw = await _ask(context, end.peer, GetPoint(end.repository, group.job, newest))
        else:
            slots, raw = await trio.to_thread.run_sync(_read, context, end.repository, target.tenant, group.job, newest)
        return await trio.to_thread.run_sync(_open_parent, context, group, target, newest, slots, raw)
    except (NoKey, DamagedData, RefusedByPeer) as error:
        context.say(f"the newest copy cannot be built upon, and its chunks are sealed once more: {error.what}")
        return None


def _open_parent(
    context: JobContext, group: Group, target: CopyTarget, point: bytes, slots: list[bytes], raw: bytes
) -> KeyRing | None:
    place = Place(
        target.tenant, job_of_head(group.job), target.repository_id, point, decode_head(raw).domain, Zone.SOURCE
    )
    find = find_in(context.keys.find_by_salt)
    return open_point(raw, slots, lambda _head: place, find, by_kms=context.keys.open_kms_slot).ring


def _read(context: JobContext, name: str, tenant: str, job: str, point: bytes) -> tuple[list[bytes], bytes]:
    with open_store(context, name) as store:
        return list(store.slots_of(tenant, job, point).values()), store.read_head(tenant, job, point)


async def _ask(context: JobContext, peer: str, question: GetPoint) -> tuple[list[bytes], bytes]:
    async with dial_control(context.peer(peer), context.identity) as link:
        await link.send(question)
        with trio.fail_after(ANSWER_SECONDS):
            received = await link.receive()
        if isinstance(received.message, Refused):
            raise refusal_to_error(received.message.code, received.message.what, received.message.remedy)
        if not isinstance(received.message, PointHead):
            raise RefusedByPeer("the peer answered something else", "update the transporter there")
        return received.message.slots, bytes(received.payload)
