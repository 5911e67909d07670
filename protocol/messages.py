"""The messages of version 1. A kind number is never reused; new fields have defaults, so that older peers still fit.

Each is frozen and checked against the bounds in its annotations, both when it is sent and when it arrives. Fields named
by ``IN_PAYLOAD`` travel as the raw payload (lists of ids: too long for a header); the others in the msgpack header.
Requests and their replies stand together. "Initiator" is the side that started the session, "provider" the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final

from protocol import limits
from protocol.copy_messages import (
    COPY_MESSAGES,
    CommitCopy,
    CopiedTo,
    CopyHead,
    CopyTo,
    Digests,
    FetchForms,
    Forms,
    GetCopy,
    GetDigests,
    GetForms,
    GetNeeds,
    Mandate,
    Mandated,
    NeedsPart,
)
from protocol.fields import (
    U8,
    U16,
    U32,
    Between,
    Bool,
    Bytes16,
    Bytes16OrEmpty,
    Bytes32,
    Bytes32OrEmpty,
    Count,
    CountOrNone,
    Ids,
    ListOf,
    Name,
    OneOf,
    Sentence,
    Sized,
    Text,
    Word,
)
from protocol.keeping_messages import KEEPING_MESSAGES
from protocol.lost_messages import GetLost, Lost
from protocol.message import Message
from protocol.point_messages import (
    GetPoint,
    GetSlots,
    ListPoints,
    PointHead,
    Points,
    PutSlots,
    Slots,
    SlotsPut,
)
from protocol.transform_messages import TRANSFORM_MESSAGES

# Defined elsewhere, and had from here by everybody.
__all__ = [
    "CommitCopy",
    "CopiedTo",
    "CopyHead",
    "CopyTo",
    "Digests",
    "FetchForms",
    "Forms",
    "GetCopy",
    "GetDigests",
    "GetForms",
    "GetLost",
    "GetNeeds",
    "GetPoint",
    "GetSlots",
    "ListPoints",
    "Lost",
    "Mandate",
    "Mandated",
    "Message",
    "NeedsPart",
    "PointHead",
    "Points",
    "PutSlots",
    "Slots",
    "SlotsPut",
]

ZONES: Final = frozenset({"source", "target", "none"})
PURPOSES: Final = frozenset({"backup", "recovery", "copy-in", "copy-out", "copy-seal"})
# Chunk.flags
METADATA: Final = 1
# Beside METADATA: of the file-system index, which is sealed under a key of its own.
FSI: Final = 2


# --- control connection: 1 … 99 ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """First message each way: the versions this side speaks, both ends included, and who it says it is (shown only)."""

    KIND: ClassVar[int] = 1
    version_min: U16
    version_max: U16
    name: Name
    agent: Name


@dataclass(frozen=True, slots=True)
class Pair(Message):
    """Join by an invitation. ``proof``: 32 bytes that only a holder of the invitation can make for this TLS session.

    ``reverse``: the inviting node shall dial this one, at ``address``, or through the proxy host whose pin is ``via``.
    ``offer``: a repository of the joining node that the inviting one may use.
    """

    KIND: ClassVar[int] = 2
    proof: Bytes32 = field(repr=False)
    name: Name
    reverse: Bool = False
    address: Name = ""
    via: Bytes32OrEmpty = b""
    offer: Name = ""


@dataclass(frozen=True, slots=True)
class Paired(Message):
    """Answer to Pair: the peer's name, the repositories that are open to this node and the tenant it now is."""

    KIND: ClassVar[int] = 3
    name: Name
    repositories: Annotated[list[str], ListOf(Text(limits.MAX_NAME), limits.MAX_REPOSITORIES)]
    tenant: Name


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """A heartbeat."""

    KIND: ClassVar[int] = 4
    token: Count


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """Answer to Ping, with its token."""

    KIND: ClassVar[int] = 5
    token: Count


@dataclass(frozen=True, slots=True)
class Start(Message):
    """Begin a session. ``password`` names one of the provider's own passwords (zone target), else it is empty.

    ``point``: the restore point wanted (recovery) or empty. ``resume``: the point id of the run that goes on, or empty.
    ``acceleration``: chunks are shared with the initiator's other accelerated jobs; backups of zone none alone.
    ``pieces``: the line is long, so the provider, too, is to send chunks in pieces. ``head``: Started is to bring the
    head of the parent along (a backup of zone source needs its keys). ``name``: what a copy-in (or copy-seal) calls the
    chunks that it brings; those of one name are shared, within the tenant.
    """

    KIND: ClassVar[int] = 10
    purpose: Annotated[str, OneOf(PURPOSES)]
    job: Name
    repository: Name
    zone: Annotated[str, OneOf(ZONES)]
    password: Name = ""
    point: Bytes16OrEmpty = b""
    resume: Bytes16OrEmpty = b""
    kind: Word = ""
    acceleration: Bool = False
    pieces: Bool = False
    head: Bool = False
    name: Bytes16OrEmpty = b""


@dataclass(frozen=True, slots=True)
class Started(Message):
    """Answer to Start: the session and its Key A. ``quota_left`` in bytes, -1 without a quota.

    ``chunk_id_key`` is empty in zone source, ``parent`` (a point id, with the hash of its object) where there is none.
    ``domain_empty``: the provider holds no chunk of this domain, so asking for any is idle.
    ``repository_id`` and ``tenant`` are the place that the point's keys are bound to. ``slots`` and the payload: those
    of the parent, and its head, where they were asked for; without them the initiator asks by GetPoint. ``chain``:
    BLAKE3 over the ids and hashes of the job's points, by id; empty: the provider knows no GetChain. ``lost``: how many
    sealed chunks of the domain the provider has lost (at most `limits.MAX_LOST` are counted): GetLost tells which.
    """

    KIND: ClassVar[int] = 11
    PAYLOAD: ClassVar[int] = limits.MAX_HEAD
    session: Bytes16
    key_a: Bytes32 = field(repr=False)
    domain: Bytes16
    chunk_id_key: Bytes32OrEmpty = field(default=b"", repr=False)
    parent: Bytes16OrEmpty = b""
    quota_left: CountOrNone = -1
    repository_id: Bytes16OrEmpty = b""
    tenant: Name = ""
    parent_hash: Bytes32OrEmpty = b""
    domain_empty: Bool = False
    chain: Bytes32OrEmpty = b""
    slots: Annotated[list[bytes], ListOf(Sized(0, limits.MAX_SLOT), limits.MAX_SLOTS)] = field(default_factory=list)
    lost: Count = 0


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """Provider: Key B is proven, further data channels may open."""

    KIND: ClassVar[int] = 12


@dataclass(frozen=True, slots=True)
class Have(Message):
    """Which of these chunks do you have? Many batches may be under way."""

    KIND: ClassVar[int] = 13
    PAYLOAD: ClassVar[int] = limits.MAX_IDS * limits.ID
    IN_PAYLOAD: ClassVar[str | None] = "ids"
    batch: U32
    ids: Ids


@dataclass(frozen=True, slots=True)
class HaveReply(Message):
    """One byte for each id asked: 0 unknown, k stored under ``key_ids[k - 1]``."""

    KIND: ClassVar[int] = 14
    batch: U32
    known: Annotated[bytes, Sized(0, limits.MAX_IDS)]
    key_ids: Annotated[list[bytes], ListOf(Sized(limits.ID, limits.ID), limits.MAX_KEY_IDS)]


@dataclass(frozen=True, slots=True)
class Stored(Message):
    """Provider: these chunks are durable."""

    KIND: ClassVar[int] = 15
    PAYLOAD: ClassVar[int] = limits.MAX_IDS * limits.ID
    IN_PAYLOAD: ClassVar[str | None] = "chunks"
    chunks: Ids


@dataclass(frozen=True, slots=True)
class Get(Message):
    """Send these chunks, in this order; each comes as a Chunk on a data channel, or as Missing.

    A chunk may be stored under several keys. ``without``: ids of keys that the initiator has not; not those forms.
    """

    KIND: ClassVar[int] = 16
    PAYLOAD: ClassVar[int] = limits.MAX_IDS * limits.ID
    IN_PAYLOAD: ClassVar[str | None] = "ids"
    batch: U32
    ids: Ids
    without: Annotated[bytes, Sized(0, limits.MAX_KEY_IDS * limits.ID, step=limits.ID)] = b""


@dataclass(frozen=True, slots=True)
class Missing(Message):
    """A chunk that was asked for cannot be sent. ``key``: of a form that was asked for, its key id."""

    KIND: ClassVar[int] = 17
    id: Bytes32
    reason: Sentence
    key: Bytes32OrEmpty = b""


@dataclass(frozen=True, slots=True)
class Flush(Message):
    """Make everything durable that was sent before this; close the packs."""

    KIND: ClassVar[int] = 18


@dataclass(frozen=True, slots=True)
class Flushed(Message):
    """Answer to Flush."""

    KIND: ClassVar[int] = 19


@dataclass(frozen=True, slots=True)
class Needs(Message):
    """Before Commit, any number of these, in order: the ids of all chunks that the point needs."""

    KIND: ClassVar[int] = 20
    PAYLOAD: ClassVar[int] = limits.MAX_IDS * limits.ID
    IN_PAYLOAD: ClassVar[str | None] = "ids"
    ids: Ids


@dataclass(frozen=True, slots=True)
class PutSlot(Message):
    """Store a slot of a point: the payload."""

    KIND: ClassVar[int] = 21
    PAYLOAD: ClassVar[int] = limits.MAX_SLOT
    point: Bytes16
    slot: Bytes16


@dataclass(frozen=True, slots=True)
class SlotStored(Message):
    """Answer to PutSlot."""

    KIND: ClassVar[int] = 22
    slot: Bytes16


@dataclass(frozen=True, slots=True)
class Commit(Message):
    """Make the point visible. Payload: its sealed head (zone source)."""

    KIND: ClassVar[int] = 23
    PAYLOAD: ClassVar[int] = limits.MAX_HEAD
    point: Bytes16


@dataclass(frozen=True, slots=True)
class CommitPlain(Message):
    """Make the point visible. Payload: its head as msgpack, for the provider to seal (zones target and none)."""

    KIND: ClassVar[int] = 24
    PAYLOAD: ClassVar[int] = limits.MAX_HEAD
    point: Bytes16


@dataclass(frozen=True, slots=True)
class Committed(Message):
    """Answer to Commit and CommitPlain: the point is visible, and this is its hash."""

    KIND: ClassVar[int] = 25
    point: Bytes16
    hash: Bytes32


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """Initiator: the session ends here, in order."""

    KIND: ClassVar[int] = 30
    reason: Sentence = ""


@dataclass(frozen=True, slots=True)
class Stopped(Message):
    """Answer to Stop: what the provider counted in this session."""

    KIND: ClassVar[int] = 31
    bytes_received: Count = 0
    chunks_received: Count = 0
    bytes_sent: Count = 0
    chunks_sent: Count = 0


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """Provider: no. ``code`` is one of the documented error codes. It ends the request, or the session it came in."""

    KIND: ClassVar[int] = 32
    code: Word
    what: Sentence
    remedy: Sentence = ""


@dataclass(frozen=True, slots=True)
class StatusRequest(Message):
    """What may I know of you?"""

    KIND: ClassVar[int] = 33


@dataclass(frozen=True, slots=True)
class StatusReply(Message):
    """Answer to StatusRequest: msgpack as payload."""

    KIND: ClassVar[int] = 34
    PAYLOAD: ClassVar[int] = limits.MAX_SMALL_PAYLOAD


@dataclass(frozen=True, slots=True)
class Progress(Message):
    """Provider: how far it is with what takes long (writing, committing). For people; nothing depends on it."""

    KIND: ClassVar[int] = 35
    activity: Word
    done: Count
    total: CountOrNone = -1


@dataclass(frozen=True, slots=True)
class Limit(Message):
    """Either side: send me no more than so many bytes a second in this session, all connections together; 0: no limit.

    Replaces what the same side asked for before.
    """

    KIND: ClassVar[int] = 36
    bytes_per_second: Count


@dataclass(frozen=True, slots=True)
class Park(Message):
    """This connection stays: say Incoming on it when somebody wants to reach me.

    ``instance``: random, of the process, so that two of one identity can be told apart.
    """

    KIND: ClassVar[int] = 40
    instance: Bytes16


@dataclass(frozen=True, slots=True)
class Parked(Message):
    """Answer to Park."""

    KIND: ClassVar[int] = 41


@dataclass(frozen=True, slots=True)
class Reach(Message):
    """To a proxy host: ``count`` connections to the node with the pin ``peer``, please."""

    KIND: ClassVar[int] = 42
    peer: Bytes32
    count: Annotated[int, Between(1, limits.MAX_CHANNELS)]


@dataclass(frozen=True, slots=True)
class Tickets(Message):
    """Answer to Reach: each ticket opens one connection, once, within `TICKET_SECONDS`."""

    KIND: ClassVar[int] = 43
    PAYLOAD: ClassVar[int] = limits.MAX_CHANNELS * limits.TICKET
    IN_PAYLOAD: ClassVar[str | None] = "tickets"
    tickets: Annotated[bytes, Sized(limits.TICKET, limits.MAX_CHANNELS * limits.TICKET, step=limits.TICKET)]


@dataclass(frozen=True, slots=True)
class Incoming(Message):
    """To a node that parked: dial, show these tickets, and serve what then comes as if it had dialled you.

    ``peer``: the pin of the node that wants to be served; nothing depends on it.
    """

    KIND: ClassVar[int] = 44
    PAYLOAD: ClassVar[int] = limits.MAX_CHANNELS * limits.TICKET
    IN_PAYLOAD: ClassVar[str | None] = "tickets"
    peer: Bytes32
    tickets: Annotated[bytes, Sized(limits.TICKET, limits.MAX_CHANNELS * limits.TICKET, step=limits.TICKET)]


# --- data channels: 100 … 199 --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyB(Message):
    """Initiator, channel 0, the only frame under Key A."""

    KIND: ClassVar[int] = 100
    key: Bytes32 = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyBProof(Message):
    """Acceptor, channel 0, its first frame under Key B: HMAC-SHA256 by Key B over the session and the binding."""

    KIND: ClassVar[int] = 101
    mac: Bytes32 = field(repr=False)


@dataclass(frozen=True, slots=True)
class Chunk(Message):
    """A stored chunk (the payload) and what travels beside it everywhere. ``flags``: 1 = metadata, 3 = FSI."""

    KIND: ClassVar[int] = 102
    PAYLOAD: ClassVar[int] = limits.MAX_CHUNK_PAYLOAD
    id: Bytes32
    codec: U8
    plain_length: U32
    flags: U8 = 0


@dataclass(frozen=True, slots=True)
class Piece(Message):
    """A part of a stored chunk (the payload): bytes from ``index`` × `limits.PIECE` on, of ``length`` in all.

    Whole steps of `limits.PIECE`, `limits.MAX_PIECE` at most, or what reaches to the end. The pieces of a chunk go over
    any data channels of the session, in any order, each once.
    """

    KIND: ClassVar[int] = 105
    PAYLOAD: ClassVar[int] = limits.MAX_PIECE
    id: Bytes32
    codec: U8
    plain_length: U32
    length: U32
    index: U16
    flags: U8 = 0


@dataclass(frozen=True, slots=True)
class Rekey(Message):
    """The last frame of an epoch: what follows is sealed under the next one, which has this commitment."""

    KIND: ClassVar[int] = 103
    epoch: U32
    commitment: Bytes32


@dataclass(frozen=True, slots=True)
class Fin(Message):
    """The last frame of a direction: frames sealed before it in all epochs, and the bytes of their payloads."""

    KIND: ClassVar[int] = 104
    frames: Count
    payload_bytes: Count


CONTROL_MESSAGES: Final[tuple[type[Message], ...]] = (
    Hello, Pair, Paired, Ping, Pong, Start, Started, Ready, Have, HaveReply, Stored, Get, Missing, Flush, Flushed,
    Needs, PutSlot, SlotStored, Commit, CommitPlain, Committed, ListPoints, Points, GetPoint, PointHead, Stop, Stopped,
    Refused, StatusRequest, StatusReply, Progress, Limit, Park, Parked, Reach, Tickets, Incoming, GetSlots, Slots,
    PutSlots, SlotsPut, *KEEPING_MESSAGES, *TRANSFORM_MESSAGES, *COPY_MESSAGES, GetLost, Lost,
)  # fmt: skip
DATA_MESSAGES: Final[tuple[type[Message], ...]] = (KeyB, KeyBProof, Chunk, Rekey, Fin, Piece)
