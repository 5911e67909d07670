"""The messages of a transform: a restore point takes another's place, with its content and new keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from protocol import limits
from protocol.fields import Bytes16, Bytes32, ListOf, Name, Sized
from protocol.message import Message


@dataclass(frozen=True, slots=True)
class FoldPoint(Message):
    """Put ``point`` in the place of ``replaces``: the same content, the same place in the order of commits.

    The head is the payload, with ``slots``; both are empty where the provider seals: then it puts the point together
    itself, under its own password of that name (empty: sealed at rest, or not at all).
    """

    KIND: ClassVar[int] = 94
    PAYLOAD: ClassVar[int] = limits.MAX_HEAD
    repository: Name
    job: Name
    replaces: Bytes16
    point: Bytes16
    password: Name = ""
    slots: Annotated[list[bytes], ListOf(Sized(0, limits.MAX_SLOT), limits.MAX_SLOTS)] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PointFolded(Message):
    """Answer to FoldPoint: the new point is durable, and the old one is removed."""

    KIND: ClassVar[int] = 95
    hash: Bytes32


TRANSFORM_MESSAGES: tuple[type[Message], ...] = (FoldPoint, PointFolded)
