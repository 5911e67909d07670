"""Copying restore points from repository to repository: what touches one of them, for jobs and for services.

Nothing is opened here. A point is its head, its slots and the list of chunks it needs, byte for byte; a chunk is all
the forms in which it is stored, because whoever has no key cannot know which of them a point can use.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from protocol.limits import FORM, ID, MAX_FORMS, MAX_IDS, MAX_PLAIN_LENGTH, MAX_SLOTS, POINT_ID
from transporter.config import NAME
from transporter.errors import DamagedData, MissingChunks, RefusedByPeer, UsageError
from transporter.points.assemble import Place
from transporter.repository import (
    PLAIN_KEY,
    ChunkMissing,
    ChunkRecord,
    Origin,
    PointExists,
    PointMissing,
    PointRef,
    Repository,
)
from transporter.repository.point_head import PointHead, decode_head
from transporter.repository.points import OriginalHash
from transporter.repository.record import seal_header

PLAIN_FORM = 0
SEALED_FORM = 1
_KEY_ID = slice(1, 33)
_SEALED_HEADER = 41
NO_DIGEST = bytes(ID)
# A node's name, a dash and the beginning of its pin.
_TENANT = re.compile(r"[^\W_][\w.+@-]{0,127}\Z")
Form = tuple[bytes, bytes]
"""A stored form of a chunk: chunk id, key id."""


def copy_name(pin: bytes, repository_id: bytes, domain: bytes, sealing: bytes = b"") -> bytes:
    """Return what the chunks of a domain are called where they are copied to, 16 bytes.

    ``pin``: of the node that they come from. Chunks from two nodes are never shared, whatever these say of them: a
    false chunk of the one must not stand in the way of the other's. ``sealing``: empty, or how they are sealed anew.
    """
    parts = b"".join(len(part).to_bytes(4, "big") + part for part in (pin, repository_id, domain, sealing))
    return hashlib.blake2b(parts, digest_size=16, person=b"transporter/cpyn").digest()


def copy_domain(tenant: str, name: bytes) -> bytes:
    """Return the domain of copied chunks, 16 bytes. Never across tenants, whatever name one of them gives."""
    return hashlib.blake2b(name + tenant.encode(), digest_size=16, person=b"transporter/cpy1").digest()


def job_of_head(job: str) -> str:
    """Return the job that the heads of points name which lie under ``job``.

    A provider's copies of its tenants' points lie under TENANT/JOB; no job of a configuration has a slash.
    """
    return job.rpartition("/")[2]


def is_job_of_copies(job: str) -> bool:
    """Tell whether copies may lie under ``job``: a job's name, perhaps behind those of tenants, each of them sound."""
    *tenants, name = job.split("/")
    return bool(NAME.match(name)) and all(_TENANT.match(tenant) for tenant in tenants)


def is_of_another_tenant(job: str) -> bool:
    """Tell whether points under ``job`` are a provider's copies of its tenants' points: those are not its to open."""
    return "/" in job


@dataclass(frozen=True)
class CopiedPoint:
    """What a copy of a point is made of. ``domain``: of its chunks where it lies; ``needs``: how many it needs."""

    point_id: bytes
    origin: Origin
    domain: bytes
    needs: int
    head: bytes = field(repr=False)
    slots: list[tuple[bytes, bytes]] = field(repr=False)

    def decoded(self) -> PointHead:
        """Return the head, and see that it is this point's. Raises DamagedData."""
        head = decode_head(self.head)
        if (head.point_id, head.tenant) != (self.point_id, self.origin.tenant):
            raise DamagedData("this is not the restore point that was asked for", "scrub the repository it comes from")
        return head


def read_copy(store: Repository, tenant: str, job: str, point_id: bytes) -> CopiedPoint:
    """Read a point, proven, but for its needs. Raises PointMissing, DamagedData."""
    ref = store.point(tenant, job, point_id)
    head = store.read_head(tenant, job, point_id)
    slots = list(store.slots_of(tenant, job, point_id).items())
    if len(slots) > MAX_SLOTS:
        # Never only some of them: the one that matters may be among the others.
        raise DamagedData("a restore point has more slots than anyone makes", "remove what was added to them")
    origin = origin_of(store, ref, head)
    return CopiedPoint(point_id, origin, ref.domain, store.count_needs(tenant, job, point_id), head, slots)


def origin_of(store: Repository, ref: PointRef, head: bytes) -> Origin:
    """Return what a copy of this point says of where it was made: a copy of a copy is a copy of the original."""
    if ref.origin is None:
        return Origin(store.repository_id, ref.tenant, ref.committed_ns, ref.hash)
    if not ref.origin.resealed:
        return ref.origin
    # Sealed anew when it came here: here its keys were made, and it has the hash that a point made here would have.
    said = decode_head(head)
    origin = Origin(store.repository_id, ref.tenant, ref.committed_ns, NO_DIGEST)
    proof = OriginalHash(origin, ref.point_id, said.domain, said.job, head)
    for part in store.needs_parts(ref.tenant, ref.job, ref.point_id, 0):
        proof.update(part)
    return Origin(store.repository_id, ref.tenant, ref.committed_ns, proof.digest())


def place_of(store: Repository, ref: PointRef, domain: bytes, zone: str) -> Place:
    """Return the place that the keys of a point are bound to: of a copy that was not sealed anew, the original's."""
    origin, job = ref.origin, job_of_head(ref.job)
    if origin is not None and not origin.resealed:
        return Place(origin.tenant, job, origin.repository_id, ref.point_id, domain, zone)
    return Place(ref.tenant, job, store.repository_id, ref.point_id, domain, zone)


# --- chunks ----------------------------------------------------------------------------------------------------------


def ids_of(raw: bytes) -> list[bytes]:
    """Take ids of 32 bytes apart."""
    return [raw[at : at + ID] for at in range(0, len(raw), ID)]


def forms_of(raw: bytes) -> list[Form]:
    """Take (chunk id, key id) pairs apart."""
    return [(raw[at : at + ID], raw[at + ID : at + FORM]) for at in range(0, len(raw), FORM)]


def join_forms(forms: Iterable[Form]) -> bytes:
    """Return pairs as they travel."""
    return b"".join(chunk_id + key_id for chunk_id, key_id in forms)


def encode_keys(found: Sequence[Sequence[bytes]]) -> bytes:
    """Return the payload of Forms: for each chunk u8 n, and n key ids."""
    return b"".join(bytes((len(keys[:MAX_FORMS]),)) + b"".join(keys[:MAX_FORMS]) for keys in found)


def decode_keys(payload: bytes | memoryview, count: int) -> list[tuple[bytes, ...]]:
    """Parse the payload of Forms for ``count`` chunks. Raises RefusedByPeer."""
    raw, at = bytes(payload), 0
    found: list[tuple[bytes, ...]] = []
    for _ in range(count):
        many = raw[at] if at < len(raw) else MAX_FORMS + 1
        end = at + 1 + ID * many
        if many > MAX_FORMS or end > len(raw):
            raise _does_not_fit()
        found.append(tuple(ids_of(raw[at + 1 : end])))
        at = end
    if at != len(raw):
        raise _does_not_fit()
    return found


def _does_not_fit() -> RefusedByPeer:
    return RefusedByPeer("the peer's answer does not fit the question", "update the transporter there")


def digests(store: Repository, own: bytes, domain: bytes, forms: Iterable[Form]) -> bytes:
    """Read forms of the domain ``own`` and return the hash that each record has in ``domain``.

    32 bytes each, zeros for one that is not there or not whole. Every byte is read from the disk and proven.
    """
    return b"".join(_digest(store, own, domain, form) for form in forms)


def _digest(store: Repository, own: bytes, domain: bytes, form: Form) -> bytes:
    with suppress(ChunkMissing, DamagedData):
        if own == domain:
            return store.hash_of(own, *form)
        return digest_of(domain, store.read(own, form[0], (form[1],)))
    return NO_DIGEST


def digest_of(domain: bytes, record: ChunkRecord) -> bytes:
    """Return the hash that a record has in ``domain`` (32 bytes)."""
    return seal_header(domain, record)[-ID:]


def copied_record(chunk_id: bytes, codec: int, plain_length: int, stored: memoryview) -> ChunkRecord:
    """Return the record of a chunk that came as it was stored. Raises RefusedByPeer for what no repository stores."""
    if plain_length > MAX_PLAIN_LENGTH:
        raise RefusedByPeer("a chunk claims to be longer than any can be", "update the transporter there")
    if len(stored) == 0 or stored[0] not in (PLAIN_FORM, SEALED_FORM):
        raise RefusedByPeer("a chunk came in a form that nobody knows", "update the transporter there")
    if stored[0] == PLAIN_FORM:
        return ChunkRecord(chunk_id, PLAIN_KEY, codec, plain_length, stored)
    if len(stored) < _SEALED_HEADER:
        raise RefusedByPeer("a sealed chunk is cut short", "update the transporter there")
    return ChunkRecord(chunk_id, bytes(stored[_KEY_ID]), codec, plain_length, stored)


def needs_parts(store: Repository, tenant: str, job: str, point_id: bytes, start: int) -> Iterator[bytes]:
    """Yield the needs of a point from number ``start`` on, at most `MAX_IDS` ids at a time."""
    return store.needs_parts(tenant, job, point_id, start, MAX_IDS)


# --- the commit ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CopyToCommit:
    """A copy that is ready. ``tenant`` and ``job``: whose it is here; ``domain``: of its chunks here."""

    tenant: str
    job: str
    domain: bytes
    point_id: bytes
    origin: Origin
    head: bytes = field(repr=False)
    slots: list[tuple[bytes, bytes]] = field(repr=False)


def commit_copy(
    store: Repository,
    copy: CopyToCommit,
    needs: Iterable[bytes],
    needs_hash: bytes,
    key_ids: Collection[bytes] | None = None,
) -> bytes:
    """Make the copy visible and return its hash. The same copy again (its answer was lost) is answered again.

    ``needs``: ids in pieces; ``needs_hash``: their BLAKE3; ``key_ids``: under one of which each chunk must lie, if this
    end can tell. Raises RefusedByPeer, MissingChunks, DamagedData.
    """
    head = check_copy(store, copy)
    if head.needs_hash != needs_hash:
        raise RefusedByPeer("the list of chunks is not the one that the restore point names", "copy it again")
    known = _there(store, copy)
    if known is not None:
        return known
    taken = store.slots_left(copy.tenant, copy.job, copy.point_id).keys() | {slot_id for slot_id, _ in copy.slots}
    if len(taken) > MAX_SLOTS:
        raise RefusedByPeer(f"a restore point has at most {MAX_SLOTS} slots", "remove a password first")
    try:
        return store.commit_point(
            copy.tenant,
            copy.job,
            copy.point_id,
            copy.head,
            needs,
            domain=copy.domain,
            key_ids=key_ids,
            slots=copy.slots,
            origin=copy.origin,
        )
    except ChunkMissing as error:
        raise MissingChunks(
            "the repository does not hold every chunk that the restore point needs", "copy the point again"
        ) from error
    except PointExists:
        again = _there(store, copy)
        if again is None:
            raise
        return again


def check_copy(store: Repository, copy: CopyToCommit) -> PointHead:
    """Raise RefusedByPeer or UsageError unless this may lie here, under this job. Return its head."""
    head = decode_head(copy.head)
    if len(copy.point_id) != POINT_ID or head.point_id != copy.point_id or head.job != job_of_head(copy.job):
        raise RefusedByPeer("the restore point is not the one that was announced", "update the transporter there")
    if head.encrypted and not copy.slots:
        raise RefusedByPeer("a sealed restore point comes without anything that opens it", "copy it again")
    if store.encrypted and not head.encrypted:
        raise UsageError(
            "a restore point that is not sealed may not lie in a repository that is encrypted at rest",
            "seal it on the way (--encrypt source) or there (--encrypt target)",
        )
    return head


def _there(store: Repository, copy: CopyToCommit) -> bytes | None:
    """Return the hash of this very copy if it is there; RefusedByPeer if another point has its id."""
    try:
        ref = store.point(copy.tenant, copy.job, copy.point_id)
    except PointMissing:
        return None
    if ref.origin is not None and ref.origin.hash == copy.origin.hash:
        return ref.hash
    raise another_point(copy.point_id)


def another_point(point_id: bytes) -> RefusedByPeer:
    """Return the error about a point whose id is taken by something else."""
    return RefusedByPeer(
        f"there is another restore point {point_id.hex()[:8]} already where it is to be copied to",
        "find out which of the two is the true one; nothing was changed",
    )
