"""Restore points and slots on disk: small immutable objects that prove themselves.

point: offset  bytes
            0      8   magic "TPPOINT1"
            8     16   repository id
           24     16   point id
           40     16   dedup domain of the chunks it needs
           56      8   time of commit, ns since 1970 by the provider's clock, big endian
           64      2   length t of the tenant's name
           66      2   length j of the job's name
           68      4   length h of the head
           72    t+j   tenant, job (UTF-8)
                   h   head (opaque here; `point_head` knows it)
                32×n   needs: the ids of all chunks, data and manifest, that the point needs
                   8   n, big endian
                  32   BLAKE3 of all that precedes: the point's hash

copy:  the copy of a point of another repository has the magic "TPPOINT2", and between the fixed part and the names
           72     16   repository id of the original
           88      8   time of commit of the original, ns since 1970 by that provider's clock
           96      8   time of the copy, ns since 1970 by this provider's clock
          104     32   hash of the original
          136      1   1: sealed anew on the way, its keys are bound to its place here; 0: as it was
          137      1   zero
          138      2   length o of the original's tenant
          140  t+j+o   tenant, job, the original's tenant (UTF-8)

slot:  offset  bytes
            0      8   magic "TPSLOT01"
            8     16   point id
           24     16   slot id
           40      4   length n
           44      n   slot (opaque here)
         44+n     32   BLAKE3 of what precedes
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from transporter.errors import DamagedData
from transporter.repository import files, limits

POINT_MAGIC: Final = b"TPPOINT1"
COPY_MAGIC: Final = b"TPPOINT2"
SLOT_MAGIC: Final = b"TPSLOT01"
_POINT: Final = struct.Struct(">8s16s16s16sQHHI")
_ORIGIN: Final = struct.Struct(">16sQQ32sBxH")
_SLOT: Final = struct.Struct(">8s16s16sI")
_TAIL: Final = struct.Struct(">Q32s")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a copied point was where it was made: its keys are bound to ``repository_id`` and ``tenant``.

    ``committed_ns`` and ``hash``: of the original object; ``copied_ns``: by this provider's clock, set at the commit of
    the copy. ``resealed``: sealed anew on the way: its keys are bound to its place here, the rest is history.
    """

    repository_id: bytes
    tenant: str
    committed_ns: int
    hash: bytes
    resealed: bool = False
    copied_ns: int = 0


@dataclass(frozen=True, slots=True)
class PointRef:
    """What the repository itself knows of a restore point; the job's next point names ``hash`` as its parent's.

    ``committed_ns`` orders the points of a job: of a copy it is the original's, but never later than the copy itself.
    """

    tenant: str
    job: str
    point_id: bytes
    domain: bytes
    committed_ns: int
    size: int
    hash: bytes
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where the parts of a point object lie in its file."""

    ref: PointRef
    repository_id: bytes
    head_start: int
    needs_start: int
    needs_count: int


def damaged_point(path: files.StrPath) -> DamagedData:
    """Return the error for a point object that does not prove itself."""
    return DamagedData(
        f"the restore point {os.path.basename(path)} is damaged",
        "use an older restore point; run `scrub` to see what else is",
    )


def point_parts(repository_id: bytes, ref: PointRef, head: bytes, needs: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a point object, piece by piece; the last 32 are its hash. ``needs`` comes in whole ids."""
    tenant, job = ref.tenant.encode(), ref.job.encode()
    magic = POINT_MAGIC if ref.origin is None else COPY_MAGIC
    fixed = _POINT.pack(
        magic, repository_id, ref.point_id, ref.domain, ref.committed_ns, len(tenant), len(job), len(head)
    )
    hasher = blake3()
    count = 0
    between, names = _origin_parts(ref.origin)
    for part in (fixed, between, tenant, job, names, head):
        hasher.update(part)
        yield part
    for part in needs:
        hasher.update(part)
        count += len(part) // 32
        yield part
    length = count.to_bytes(8, "big")
    yield length + hasher.update(length).digest()


def _origin_parts(origin: Origin | None) -> tuple[bytes, bytes]:
    """Return what stands between the fixed part and the names, and behind these."""
    if origin is None:
        return b"", b""
    tenant = origin.tenant.encode()
    fixed = _ORIGIN.pack(
        origin.repository_id, origin.committed_ns, origin.copied_ns, origin.hash, origin.resealed, len(tenant)
    )
    return fixed, tenant


class OriginalHash:
    """The hash that the object of the original has, computed from what a copy brings of it.

    The original is of its job's own domain, tenant and job: those that its head names.
    """

    def __init__(self, origin: Origin, point_id: bytes, domain: bytes, job: str, head: bytes) -> None:
        ref = PointRef(origin.tenant, job, point_id, domain, origin.committed_ns, 0, b"")
        tenant, name = ref.tenant.encode(), ref.job.encode()
        fixed = _POINT.pack(
            POINT_MAGIC, origin.repository_id, point_id, domain, origin.committed_ns, len(tenant), len(name), len(head)
        )
        self._hasher = blake3(fixed).update(tenant).update(name).update(head)
        self._needs = 0

    def update(self, needs: bytes) -> None:
        """Take in the next needed chunks: whole ids."""
        self._hasher.update(needs)
        self._needs += len(needs) // 32

    def digest(self) -> bytes:
        """Return the hash (32 bytes)."""
        return self._hasher.copy().update(self._needs.to_bytes(8, "big")).digest()


def read_frame(fd: int, path: files.StrPath) -> _Frame:
    """Return the outline of an open point object; DamagedData if its lengths do not fit together."""
    size = os.fstat(fd).st_size
    raw = os.pread(fd, _POINT.size + _ORIGIN.size + 3 * limits.NAME_LENGTH, 0)
    copied = raw[:8] == COPY_MAGIC
    names_start = _POINT.size + (_ORIGIN.size if copied else 0)
    if size < names_start + _TAIL.size or not (copied or raw[:8] == POINT_MAGIC):
        raise damaged_point(path)
    _, repository_id, point_id, domain, committed_ns, tenant_length, job_length, head_length = _POINT.unpack_from(raw)
    count, digest = _TAIL.unpack(os.pread(fd, _TAIL.size, size - _TAIL.size))
    job_end = names_start + tenant_length + job_length
    origin_length = _ORIGIN.unpack_from(raw, _POINT.size)[-1] if copied else 0
    names_end = job_end + origin_length
    needs_start = names_end + head_length
    longest = max(tenant_length, job_length, origin_length)
    if longest > limits.NAME_LENGTH or head_length > limits.HEAD_LENGTH:
        raise damaged_point(path)
    if needs_start + 32 * count + _TAIL.size != size:
        raise damaged_point(path)
    try:
        tenant = raw[names_start : names_start + tenant_length].decode()
        job = raw[names_start + tenant_length : job_end].decode()
        origin = _read_origin(raw, raw[job_end:names_end].decode()) if copied else None
    except UnicodeDecodeError:
        raise damaged_point(path) from None
    ref = PointRef(tenant, job, point_id, domain, committed_ns, size, digest, origin)
    return _Frame(ref, repository_id, names_end, needs_start, count)


def _read_origin(raw: bytes, tenant: str) -> Origin:
    repository_id, committed_ns, copied_ns, digest, resealed, _ = _ORIGIN.unpack_from(raw, _POINT.size)
    return Origin(repository_id, tenant, committed_ns, digest, bool(resealed), copied_ns)


def prove(fd: int, frame: _Frame, path: Path) -> None:
    """Hash the whole object; DamagedData unless it is what was committed."""
    hasher = blake3()
    end = frame.ref.size - 32
    offset = 0
    while offset < end:
        piece = os.pread(fd, min(limits.READ_SIZE, end - offset), offset)
        if not piece:
            break
        hasher.update(piece)
        offset += len(piece)
    if hasher.digest() != frame.ref.hash:
        raise damaged_point(path)


def read_head(fd: int, frame: _Frame) -> bytes:
    """Return the head (not proven: `prove` first)."""
    return os.pread(fd, frame.needs_start - frame.head_start, frame.head_start)


def iterate_needs(fd: int, frame: _Frame, batch: int) -> Iterator[bytes]:
    """Yield the needs table in pieces of at most ``batch`` ids."""
    end = frame.needs_start + 32 * frame.needs_count
    for start in range(frame.needs_start, end, 32 * batch):
        yield os.pread(fd, min(32 * batch, end - start), start)


def size_of_slot(data: bytes) -> int:
    """Return the bytes of the object that holds ``data``."""
    return _SLOT.size + len(data) + 32


def encode_slot(point_id: bytes, slot_id: bytes, data: bytes) -> bytes:
    """Return the bytes of a slot object."""
    raw = _SLOT.pack(SLOT_MAGIC, point_id, slot_id, len(data)) + data
    return raw + blake3(raw).digest()


def decode_slot(raw: bytes, point_id: bytes, slot_id: bytes) -> bytes:
    """Return what a slot object holds; DamagedData if it is not whole or not the one of this name."""
    fits = _SLOT.size + 32 <= len(raw) <= _SLOT.size + limits.SLOT_LENGTH + 32
    named = fits and _SLOT.unpack_from(raw) == (SLOT_MAGIC, point_id, slot_id, len(raw) - _SLOT.size - 32)
    if named and blake3(raw[:-32]).digest() == raw[-32:]:
        return raw[_SLOT.size : -32]
    raise DamagedData(
        f"slot {slot_id.hex()} of restore point {point_id.hex()} is damaged", "open the point with another password"
    )


def read_small(path: Path, bound: int) -> bytes:
    """Return a small file's content, never more than ``bound`` + 1 bytes of it."""
    with files.disk_errors(f"read {path.name}"):
        return files.read_small(path, bound)
