"""The messages of copying restore points from repository to repository, as they lie there: nothing is opened.

A session of purpose ``copy-out`` reads points and chunks as they are stored, one of purpose ``copy-in`` stores them. A
chunk may be stored in several *forms*, each sealed under another key; the end that copies cannot know which of them a
point needs, and copies them all. A form is named by chunk id and key id (32 zero bytes: not sealed), 64 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from protocol import limits
from protocol.fields import Bool, Bytes16, Bytes32, Count, Ids, ListOf, Name, Sized
from protocol.message import Message

Forms64 = Annotated[bytes, Sized(0, limits.MAX_FORMS_AT_ONCE * limits.FORM, step=limits.FORM)]


@dataclass(frozen=True, slots=True)
class GetCopy(Message):
    """Send what a copy of this point is made of; from now on the session is about its chunks."""

    KIND: ClassVar[int] = 75
    job: Name
    point: Bytes16


@dataclass(frozen=True, slots=True)
class CopyHead(Message):
    """Answer to GetCopy: the head as payload, the slots with their ids, and where the point was made.

    ``repository_id`` and ``tenant``: what its keys are bound to; ``committed_ns`` and ``hash`` of the original;
    ``needs``: how many chunks it needs.
    """

    KIND: ClassVar[int] = 76
    PAYLOAD: ClassVar[int] = limits.MAX_HEAD
    point: Bytes16
    repository_id: Bytes16
    tenant: Name
    committed_ns: Count
    hash: Bytes32
    needs: Count
    slot_ids: Annotated[bytes, Sized(0, limits.MAX_SLOTS * limits.SLOT_ID, step=limits.SLOT_ID)] = b""
    slots: Annotated[list[bytes], ListOf(Sized(0, limits.MAX_SLOT), limits.MAX_SLOTS)] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class GetNeeds(Message):
    """Send the ids of the chunks that the point needs, from number ``start`` on."""

    KIND: ClassVar[int] = 77
    start: Count


@dataclass(frozen=True, slots=True)
class NeedsPart(Message):
    """Answer to GetNeeds: ids; none where there are no more."""

    KIND: ClassVar[int] = 78
    PAYLOAD: ClassVar[int] = limits.MAX_IDS * limits.ID
    IN_PAYLOAD: ClassVar[str | None] = "ids"
    ids: Ids


@dataclass(frozen=True, slots=True)
class GetForms(Message):
    """In which forms are these chunks stored? At most `limits.MAX_FORMS_AT_ONCE` ids."""

    KIND: ClassVar[int] = 79
    PAYLOAD: ClassVar[int] = limits.MAX_FORMS_AT_ONCE * limits.ID
    IN_PAYLOAD: ClassVar[str | None] = "ids"
    ids: Annotated[bytes, Sized(0, limits.MAX_FORMS_AT_ONCE * limits.ID, step=limits.ID)]


@dataclass(frozen=True, slots=True)
class Forms(Message):
    """Answer to GetForms. Payload: for each id u8 n (0: unknown; `limits.MAX_FORMS` at most), and n key ids."""

    KIND: ClassVar[int] = 80
    PAYLOAD: ClassVar[int] = limits.MAX_FORMS_AT_ONCE * (1 + limits.MAX_FORMS * limits.ID)


@dataclass(frozen=True, slots=True)
class GetDigests(Message):
    """Read these forms, prove them, and say the hashes that their records have in ``domain``."""

    KIND: ClassVar[int] = 81
    PAYLOAD: ClassVar[int] = limits.MAX_FORMS_AT_ONCE * limits.FORM
    IN_PAYLOAD: ClassVar[str | None] = "forms"
    domain: Bytes16
    forms: Forms64


@dataclass(frozen=True, slots=True)
class Digests(Message):
    """Answer to GetDigests: 32 bytes for each form, zeros for one that is not there whole."""

    KIND: ClassVar[int] = 82
    PAYLOAD: ClassVar[int] = limits.MAX_FORMS_AT_ONCE * limits.ID
    IN_PAYLOAD: ClassVar[str | None] = "digests"
    digests: Annotated[bytes, Sized(0, limits.MAX_FORMS_AT_ONCE * limits.ID, step=limits.ID)]


@dataclass(frozen=True, slots=True)
class FetchForms(Message):
    """Send these forms, in this order; each comes as a Chunk on a data channel, or as Missing."""

    KIND: ClassVar[int] = 83
    PAYLOAD: ClassVar[int] = limits.MAX_FORMS_AT_ONCE * limits.FORM
    IN_PAYLOAD: ClassVar[str | None] = "forms"
    forms: Forms64


@dataclass(frozen=True, slots=True)
class CommitCopy(Message):
    """Make the copy of a point visible. Needs and PutSlot came before it. Payload: the head, as it was.

    ``resealed``: sealed anew on the way, so its keys are bound to its place here; the rest says what it was.
    """

    KIND: ClassVar[int] = 84
    PAYLOAD: ClassVar[int] = limits.MAX_HEAD
    point: Bytes16
    repository_id: Bytes16
    tenant: Name
    committed_ns: Count
    hash: Bytes32
    resealed: Bool = False


@dataclass(frozen=True, slots=True)
class Mandate(Message):
    """Who sends this acts for another node on this connection, in one copy. Payload: the signed mandate."""

    KIND: ClassVar[int] = 90
    PAYLOAD: ClassVar[int] = limits.MAX_MANDATE


@dataclass(frozen=True, slots=True)
class Mandated(Message):
    """Answer to Mandate: the copy may be started."""

    KIND: ClassVar[int] = 91


@dataclass(frozen=True, slots=True)
class CopyTo(Message):
    """Copy points of ``job`` in ``repository`` to the node with the pin ``peer``. Payload: the mandate for it.

    ``bytes_per_second``: what is sent for it at most, all connections together; 0: no limit of who asks.
    """

    KIND: ClassVar[int] = 92
    PAYLOAD: ClassVar[int] = limits.MAX_MANDATE
    repository: Name
    job: Name
    peer: Bytes32
    bytes_per_second: Count = 0


@dataclass(frozen=True, slots=True)
class CopiedTo(Message):
    """Answer to CopyTo: all of the points are there, proven and committed. Sizes in bytes."""

    KIND: ClassVar[int] = 93
    points: Count
    chunks: Count
    chunks_new: Count
    bytes_new: Count
    bytes_stored: Count
    bytes_sent: Count


COPY_MESSAGES: tuple[type[Message], ...] = (
    GetCopy, CopyHead, GetNeeds, NeedsPart, GetForms, Forms, GetDigests, Digests, FetchForms, CommitCopy,
    Mandate, Mandated, CopyTo, CopiedTo,
)  # fmt: skip
