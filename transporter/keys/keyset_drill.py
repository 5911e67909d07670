"""A drill of keysets: every restore point's slots in a file, which the escrow opens one by one, releasing nothing.

    "TKDR" | version 1 | records | end
    record = u32 BE length (1 … 65,536) | msgpack of `DrillPoint`
    end    = u32 BE 0 | msgpack of `DrillEnd`

The end counts the points and is signed by the node over bind("keyset drill", BLAKE3 of everything before it, u64 BE
count): a file that was cut or thinned on its way would make a drill look better than it is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, BinaryIO, Final, TypeVar

import msgspec
from blake3 import blake3
from msgspec import Meta

from transporter.errors import DamagedData, IdentityRefused, NoKey
from transporter.keys.derive import KEYSET_DRILL, bind
from transporter.keys.key_ring import MAX_RING
from transporter.keys.keyset import PrivateKeyset
from transporter.keys.keyset_open import MAX_SLOTS, key_of, slots_of
from transporter.keys.node_key import PUBLIC_LENGTH, SIGNATURE_LENGTH, NodeKey, is_signed
from transporter.keys.wrap import MAX_WRAPPED, point_context

_MAGIC: Final = b"TKDR\x01"
_LENGTH: Final = struct.Struct(">I")
_COUNT: Final = struct.Struct(">Q")
MAX_RECORD: Final = 64 << 10
"""Bytes: sixteen slots have 20,000."""

T = TypeVar("T")
_Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Name = Annotated[str, Meta(min_length=1, max_length=255)]


class DrillPoint(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the escrow needs of a point: where it belongs, its keysets' slots, and what proves a key.

    ``place``: where it lies, as the node calls it; for people.
    """

    place: _Name
    tenant: _Name
    repository_id: _Id
    job: _Name
    point: _Id
    slots: Annotated[list[Annotated[bytes, Meta(max_length=1024)]], Meta(max_length=MAX_SLOTS)]
    ring_length: Annotated[int, Meta(ge=1, le=MAX_RING)]
    ring_first: Annotated[bytes, Meta(max_length=MAX_WRAPPED)]


class DrillEnd(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who made the file, and how many points are in it."""

    count: Annotated[int, Meta(ge=0)]
    made_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    node: Annotated[bytes, Meta(min_length=PUBLIC_LENGTH, max_length=PUBLIC_LENGTH)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_LENGTH, max_length=SIGNATURE_LENGTH)]


class DrillWriter:
    """Writes a file, point by point."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = blake3()
        self.count = 0
        self._put(_MAGIC)

    def add(self, point: DrillPoint) -> None:
        """Add a point."""
        record = msgspec.msgpack.encode(point)
        self._put(_LENGTH.pack(len(record)) + record)
        self.count += 1

    def finish(self, node: NodeKey, now_ns: int) -> None:
        """Write the end."""
        signature = node.sign(_message(self._hash.digest(), self.count, now_ns))
        end = DrillEnd(self.count, now_ns, node.public, signature)
        self._file.write(_LENGTH.pack(0) + msgspec.msgpack.encode(end))

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)


@dataclass(frozen=True)
class Drilled:
    """Of one point: ``problem`` is empty where the keyset opens it."""

    point: DrillPoint
    problem: str


def read_drill(file: BinaryIO) -> Iterator[DrillPoint | DrillEnd]:
    """Yield the points of a file, and its end, once it is proved. Nothing is kept. Raises DamagedData."""
    seen = blake3()
    count = 0
    if _read(file, len(_MAGIC), seen) != _MAGIC:
        raise DamagedData("this is no file of a keyset's drill", "make it with `keyset drill-request`")
    while True:
        before = seen.digest()
        length = _LENGTH.unpack(_read(file, _LENGTH.size, seen))[0]
        if length > MAX_RECORD:
            raise _damaged()
        if not length:
            break
        point = _decoded(_read(file, length, seen), DrillPoint)
        # They are shown on the escrow's terminal.
        if not all(each.isprintable() for each in (point.place, point.tenant, point.job)):
            raise _damaged()
        yield point
        count += 1
    end = _decoded(file.read(MAX_RECORD), DrillEnd)
    if end.count != count or not is_signed(end.node, _message(before, count, end.made_ns), end.signature):
        raise _damaged()
    yield end


def drill_point(point: DrillPoint, keyset: PrivateKeyset, may_open: Callable[[bytes], bool]) -> Drilled:
    """Try a keyset on a point; the key that comes out is let go at once."""
    where = point_context(point.tenant, point.repository_id, point.point)
    if not slots_of(point.slots, keyset.public.id):
        return Drilled(point, "it has no slot of this keyset")
    try:
        key_of(point.slots, keyset, where, (point.ring_length, point.ring_first), may_open)
    except (DamagedData, IdentityRefused, NoKey) as error:
        return Drilled(point, error.what)
    return Drilled(point, "")


def _message(digest: bytes, count: int, now_ns: int) -> bytes:
    return bind(KEYSET_DRILL, digest, _COUNT.pack(count), _COUNT.pack(now_ns))


def _read(file: BinaryIO, length: int, seen: blake3) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise _damaged()
    seen.update(data)
    return data


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError):  # ValueError: text that is not UTF-8
        raise _damaged() from None


def _damaged() -> DamagedData:
    return DamagedData("the file of a keyset's drill was altered or cut on its way", "send it again, as a whole")
