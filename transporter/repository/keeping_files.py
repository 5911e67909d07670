"""Pins, locks, tombstones and the clock's mark: small files that prove themselves, all of one form.

offset  bytes
     0      8   magic: "TPPIN001", "TPLOCK01", "TPTOMB01", "TPCLOCK1"
     8      4   length n of the body, big endian
    12      n   body: msgpack map
  12+n     32   BLAKE3 of what precedes

Unlike what they are about they change: each is replaced whole, by a rename.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Annotated, ClassVar, Final, TypeVar

import msgspec
from blake3 import blake3
from msgspec import Meta

from transporter.errors import DamagedData
from transporter.repository import files, limits
from transporter.repository.layout import own_name

_FIXED: Final = struct.Struct(">8sI")
_Id16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Name = Annotated[str, Meta(max_length=limits.NAME_LENGTH)]
# Shown on terminals: no control characters.
Reason = Annotated[str, Meta(max_length=limits.REASON_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]

PROVIDER: Final = ""
"""Whoever runs the repository, as ``by``: no tenant has an empty name."""


class _Small(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    MAGIC: ClassVar[bytes]


class Pin(_Small, frozen=True, kw_only=True, omit_defaults=True):
    """``pins/<point id>``: retention keeps the point. ``by``: the tenant that set it, or `PROVIDER`.

    The id is what `Layout.belongings` says, in the name of the file as in ``point_id``.
    """

    MAGIC: ClassVar[bytes] = b"TPPIN001"
    point_id: _Id16
    reason: Reason
    by: _Name
    at_ns: _Time
    # Of a pin that came with a copy of the point: who set it where it was copied from, at ``at_ns``.
    origin_by: _Name | None = None

    @property
    def first_by(self) -> str:
        """Who set it in the first place."""
        return self.by if self.origin_by is None else self.origin_by


class Lock(_Small, frozen=True, kw_only=True):
    """``locks/<point id>``, likewise: nobody removes the point before ``until_ns`` (ns since 1970)."""

    MAGIC: ClassVar[bytes] = b"TPLOCK01"
    point_id: _Id16
    until_ns: _Time


class Tombstone(_Small, frozen=True, kw_only=True):
    """``tombstones/<point id>``: the removal of a point, from its decision until nothing is left of it.

    The file's name is what `Layout.belongings` says; ``point_id`` is the id.

    ``until_ns``: until when it lies in the recycle bin; 0: it does not.
    """

    MAGIC: ClassVar[bytes] = b"TPTOMB01"
    point_id: _Id16
    tenant: _Name
    job: _Name
    by: _Name
    at_ns: _Time
    until_ns: _Time


class ClockMark(_Small, frozen=True, kw_only=True):
    """``leases/clock``: the latest time that this repository has seen and believed."""

    MAGIC: ClassVar[bytes] = b"TPCLOCK1"
    seen_ns: _Time


SmallT = TypeVar("SmallT", Pin, Lock, Tombstone, ClockMark)


def encode(content: Pin | Lock | Tombstone | ClockMark) -> bytes:
    """Return the bytes of a small file."""
    body = msgspec.msgpack.encode(content)
    raw = _FIXED.pack(content.MAGIC, len(body)) + body
    return raw + blake3(raw).digest()


def decode(raw: bytes, kind: type[SmallT], name: str) -> SmallT:
    """Return what a small file says; DamagedData if it is not whole."""
    damaged = DamagedData(f"{name} is damaged", "put it back from a copy of the repository; `scrub` names what else is")
    if not _FIXED.size + 32 <= len(raw) <= limits.SMALL_FILE or blake3(raw[:-32]).digest() != raw[-32:]:
        raise damaged
    if _FIXED.unpack_from(raw) != (kind.MAGIC, len(raw) - _FIXED.size - 32):
        raise damaged
    try:
        return msgspec.msgpack.decode(raw[_FIXED.size : -32], type=kind)
    except (msgspec.MsgspecError, ValueError):
        raise damaged from None


def read(path: Path, kind: type[SmallT]) -> SmallT | None:
    """Return what the file says, None if there is none. Raises DamagedData."""
    with files.disk_errors(f"read {path.name}"):
        try:
            raw = files.read_small(path, limits.SMALL_FILE)
        except (FileNotFoundError, NotADirectoryError):
            return None
    found = decode(raw, kind, f"{path.parent.name}/{path.name}")
    if not isinstance(found, ClockMark) and path.name not in _names_of(found):
        raise DamagedData(f"{path.parent.name}/{path.name} is of another restore point", "run `scrub`")
    return found


def _names_of(content: Pin | Lock | Tombstone) -> tuple[str, ...]:
    """Return the names that the file may have."""
    if isinstance(content, Tombstone):
        own = own_name(content.tenant, content.job, content.point_id)
        return content.point_id.hex(), own.hex()
    return (content.point_id.hex(),)


def write(temporary: str, content: Pin | Lock | Tombstone | ClockMark) -> None:
    """Write the file under its temporary name, durably."""
    fd = files.create(temporary)
    try:
        files.write(fd, encode(content))
        files.sync(fd)
    finally:
        os.close(fd)


def put(temporary: str, path: Path, root: Path, content: Pin | Lock | Tombstone | ClockMark) -> None:
    """Write or replace a small file: whole and durable under its name, or as it was. Raises OSError."""
    try:
        write(temporary, content)
        files.make_folders(path.parent, root)
        files.replace(temporary, path)
        files.sync_folder(path.parent)
    except BaseException:
        files.discard(temporary)
        raise
