"""The messages about what becomes of restore points: the chain of a job, removal, pins, the recycle bin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from protocol import limits
from protocol.fields import Bool, Bytes16, Count, Name, Sentence, Sized
from protocol.message import Message


@dataclass(frozen=True, slots=True)
class GetChain(Message):
    """Which points does a job have, by their ids and hashes alone? From the ``first`` (counted from 0) on."""

    KIND: ClassVar[int] = 65
    repository: Name
    job: Name
    first: Count = 0


@dataclass(frozen=True, slots=True)
class Chain(Message):
    """Answer to GetChain: a msgpack list of rows as payload (`ROWS_BOUNDS`), oldest first, the recycle bin's last.

    ``total``: rows in all. ``now_ns``: the time that locks and retention go by. ``recycle``: seconds that a removed
    point is kept. ``may_remove``: this node may remove points. ``doubt``: why the clock there is not believed, and
    nothing removed by it; else empty.
    """

    KIND: ClassVar[int] = 66
    PAYLOAD: ClassVar[int] = limits.MAX_HEAD
    total: Count
    now_ns: Count
    recycle: Count = 0
    may_remove: Bool = False
    doubt: Sentence = ""


@dataclass(frozen=True, slots=True)
class RemovePoints(Message):
    """Remove these points of a job. ``force``: also those that this node has pinned."""

    KIND: ClassVar[int] = 67
    PAYLOAD: ClassVar[int] = limits.MAX_POINTS_AT_ONCE * limits.POINT_ID
    IN_PAYLOAD: ClassVar[str | None] = "points"
    repository: Name
    job: Name
    points: Annotated[bytes, Sized(limits.POINT_ID, limits.MAX_POINTS_AT_ONCE * limits.POINT_ID, step=limits.POINT_ID)]
    force: Bool = False


@dataclass(frozen=True, slots=True)
class PointsRemoved(Message):
    """Answer to RemovePoints: rows ``[point, until_ns, refused]``, a msgpack list as payload (`ROWS_BOUNDS`).

    ``until_ns``: in the recycle bin until then, 0: gone. ``refused``: why the point stays, "" if it does not.
    """

    KIND: ClassVar[int] = 68
    PAYLOAD: ClassVar[int] = limits.MAX_SMALL_PAYLOAD


@dataclass(frozen=True, slots=True)
class PinPoint(Message):
    """Have retention keep a point, for a ``reason``; without one: no more.

    ``copied``: only if it has no pin, because it is pinned where it was copied from, by ``by`` (empty: the provider
    there) at ``at_ns``.
    """

    KIND: ClassVar[int] = 69
    repository: Name
    job: Name
    point: Bytes16
    reason: Sentence = ""
    copied: Bool = False
    by: Name = ""
    at_ns: Count = 0


@dataclass(frozen=True, slots=True)
class PointPinned(Message):
    """Answer to PinPoint. ``was``: it was pinned before."""

    KIND: ClassVar[int] = 70
    was: Bool = False


@dataclass(frozen=True, slots=True)
class UndeletePoint(Message):
    """Take a point out of the recycle bin."""

    KIND: ClassVar[int] = 71
    repository: Name
    job: Name
    point: Bytes16


@dataclass(frozen=True, slots=True)
class PointUndeleted(Message):
    """Answer to UndeletePoint: it is there again."""

    KIND: ClassVar[int] = 72


KEEPING_MESSAGES: tuple[type[Message], ...] = (
    GetChain, Chain, RemovePoints, PointsRemoved, PinPoint, PointPinned, UndeletePoint, PointUndeleted,
)  # fmt: skip
