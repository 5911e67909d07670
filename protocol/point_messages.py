"""The messages about restore points that are there: which, their heads, and the slots that open them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from protocol import limits
from protocol.fields import Bool, Bytes16, Count, ListOf, Name, Sized
from protocol.message import Message


@dataclass(frozen=True, slots=True)
class ListPoints(Message):
    """Which restore points are there? An empty ``job`` asks for those of all jobs."""

    KIND: ClassVar[int] = 26
    repository: Name
    job: Name = ""


@dataclass(frozen=True, slots=True)
class Points(Message):
    """Answer to ListPoints: a msgpack list of rows as payload (`codec.ROWS_BOUNDS`). ``more``: another one follows."""

    KIND: ClassVar[int] = 27
    PAYLOAD: ClassVar[int] = limits.MAX_HEAD
    more: Bool


@dataclass(frozen=True, slots=True)
class GetPoint(Message):
    """Send the head of this point."""

    KIND: ClassVar[int] = 28
    repository: Name
    job: Name
    point: Bytes16


@dataclass(frozen=True, slots=True)
class PointHead(Message):
    """Answer to GetPoint: the slots, and the head as payload."""

    KIND: ClassVar[int] = 29
    PAYLOAD: ClassVar[int] = limits.MAX_HEAD
    point: Bytes16
    slots: Annotated[list[bytes], ListOf(Sized(0, limits.MAX_SLOT), limits.MAX_SLOTS)]


@dataclass(frozen=True, slots=True)
class GetSlots(Message):
    """Which slots do these points of a job have? At most `limits.MAX_POINTS_AT_ONCE` ids."""

    KIND: ClassVar[int] = 45
    PAYLOAD: ClassVar[int] = limits.MAX_POINTS_AT_ONCE * limits.POINT_ID
    IN_PAYLOAD: ClassVar[str | None] = "points"
    repository: Name
    job: Name
    points: Annotated[bytes, Sized(limits.POINT_ID, limits.MAX_POINTS_AT_ONCE * limits.POINT_ID, step=limits.POINT_ID)]


@dataclass(frozen=True, slots=True)
class Slots(Message):
    """Answer to GetSlots: rows ``[point, [[slot id, slot], …], keys in its ring, the first of them, wrapped]``.

    A msgpack list as payload (`ROWS_BOUNDS`). A point that is not there, or not sound, has no row. ``repository_id``
    and ``tenant`` are the place that the points' keys are bound to.
    """

    KIND: ClassVar[int] = 46
    PAYLOAD: ClassVar[int] = limits.MAX_HEAD
    repository_id: Bytes16
    tenant: Name


@dataclass(frozen=True, slots=True)
class PutSlots(Message):
    """Store slots, and put away those that they replace: rows ``[point, slot id, slot, [old slot id, …]]``.

    A msgpack list as payload (`ROWS_BOUNDS`), for at most `limits.MAX_POINTS_AT_ONCE` points of one job.
    """

    KIND: ClassVar[int] = 47
    PAYLOAD: ClassVar[int] = limits.MAX_HEAD
    repository: Name
    job: Name


@dataclass(frozen=True, slots=True)
class SlotsPut(Message):
    """Answer to PutSlots: all of it is durable. Until ``kept_until_ns`` the old slots can be brought back; 0: never."""

    KIND: ClassVar[int] = 48
    kept_until_ns: Count = 0
