"""Every bound of the protocol, each with its reason. docs/protocol.md repeats this table; a test compares the two.

A number here may be raised in a later version, never by a peer.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

VERSION_MIN = 1
VERSION_MAX = 1

# --- frames --------------------------------------------------------------------------------------------------

# The length word and the fixed part of a body: u8 kind, u16 header length.
LENGTH_WORD = 4
BODY_PREFIX = 3
TAG = 16

# u16 on the wire. A header is fields, not content: content goes into payloads.
MAX_HEADER = 0xFFFF

# On a line where one connection carries 200 kB/s this is a third of a second: so long a slow one may hold up a chunk.
PIECE = 64 * KIB
# Where connections are fast a piece may have up to 4 steps: it costs both ends the same, long or short.
MAX_PIECE = 4 * PIECE

# The longest chunk of the workloads is 4 MiB; 64 KiB beside it hold any header, seal overhead and tag.
# A frame is one allocation, made before its tag is checked: this is what an attacker on the line can make us allocate.
MAX_CHUNK_PAYLOAD = 4 * MIB + 32 * KIB
MAX_DATA_FRAME = 4 * MIB + 64 * KIB

# A sealed point head of 16 MiB lists some 400,000 manifest chunks: a tree of several hundred million files.
MAX_HEAD = 16 * MIB
MAX_CONTROL_MESSAGE = 16 * MIB + 64 * KIB

# Everything else on the control connection: one batch of ids is 128 KiB, a page of points some 100 KiB.
MAX_SMALL_PAYLOAD = 1 * MIB

# What may come before the peer is known (Hello) or is known to be paired (Pair): a name and numbers.
MAX_HELLO_MESSAGE = 4 * KIB

# --- ids and fields ------------------------------------------------------------------------------------------

ID = 32
KEY = 32
SESSION_ID = 16
POINT_ID = 16
DOMAIN = 16
SALT = 24
BINDING = 32
NONCE = 12
COMMITMENT = 32
MAC = 32
SLOT_ID = 16
TICKET = 32

# 4096 ids are 128 KiB: at 100 ms of delay and 64 batches under way this asks for 2.6 million chunks a second.
MAX_IDS = 4096
# A reply names a key id by one byte, 0 means unknown.
MAX_KEY_IDS = 255

# A form of a stored chunk: its id, and the id of the key that it is sealed under.
FORM = 64
# A chunk gets another form only where a job has lost the keys of its parent: once in years.
MAX_FORMS = 16
# For one question: 1 GiB of ordinary chunks a round trip, and an answer of 525 KB at most.
MAX_FORMS_AT_ONCE = 1024
# A mandate: a public key, a signature, names, and id and hash of each point.
MAX_MANDATE = 8192
# 48 bytes each in a mandate.
MAX_MANDATE_POINTS = 100

# A name is shown on a terminal, stored in a catalog and becomes part of a file name (255 bytes at most there).
MAX_NAME = 200
# A sentence for a person.
MAX_TEXT = 2000
# Short words of the protocol: codes of errors, purposes, kinds.
MAX_WORD = 64
# A password slot takes some 200 bytes, an RSA-4096 slot 600; 16 passwords and keysets open one point.
MAX_SLOT = 2 * KIB
MAX_SLOTS = 16
# Points whose slots are asked for or replaced together: with the most and the longest slots 8 MiB, and a round trip.
MAX_POINTS_AT_ONCE = 256
# A claim about a lost chunk: two ids, codec, length, counter, tag.
LOST_CLAIM = 93
# Claims in one answer: what a damaged pack of ordinary chunks had, many times over; later runs ask for the others.
MAX_LOST = 4096
# Repositories that one invitation opens.
MAX_REPOSITORIES = 100

MAX_CHANNELS = 32
# A ticket is used at once: by a node that is told of it over a line with seconds of delay, at the worst.
TICKET_SECONDS = 15
MAX_PLAIN_LENGTH = 4 * MIB
U8 = (1 << 8) - 1
U16 = (1 << 16) - 1
U32 = (1 << 32) - 1
# msgpack's u64, SQLite's i64: the smaller of the two.
MAX_COUNT = (1 << 63) - 1

# --- msgpack -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a msgpack value may be made of; checked before any of it is built.

    ``total`` bytes, ``items`` values of any kind in the whole of it, ``depth`` levels of arrays and maps, and the
    lengths of each array, map (in pairs), string and binary.
    """

    total: int
    items: int
    depth: int
    array: int
    map: int
    string: int
    binary: int


# A header is one flat map; lists of key ids or slots are its deepest part. One more level is left to later versions.
# 1024 items take less than 100 KiB as Python objects.
HEADER_BOUNDS = Bounds(
    total=MAX_HEADER, items=1024, depth=3, array=MAX_KEY_IDS, map=64, string=MAX_TEXT, binary=MAX_HEADER
)  # fmt: skip

# A payload of rows (points, status). 262,144 items take some 25 MiB as Python objects.
ROWS_BOUNDS = Bounds(
    total=MAX_HEAD, items=1 << 18, depth=6, array=1 << 16, map=256, string=16 * KIB, binary=64 * KIB
)  # fmt: skip

# --- keys ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RekeyLimits:
    """When a direction of a data channel must go on to its next epoch, counted in that epoch.

    ``frames``: sealed frames, ``sealed_bytes``: bytes of their bodies. Both ends must use the same.
    """

    frames: int
    sealed_bytes: int

    def __post_init__(self) -> None:
        # The Rekey frame is the last of its epoch; there must be room for one frame before it.
        if self.frames < 2 or self.sealed_bytes < 1:
            raise ValueError("an epoch needs room for two frames")


# 64 GiB are 2^32 AES blocks under one key: an attacker's advantage stays below 2^-64. 2^32 frames: NIST SP 800-38D's
# bound for one key, although our nonces are counters and would allow more.
REKEY = RekeyLimits(frames=1 << 32, sealed_bytes=64 * GIB)
# An epoch is a u32 in the derivation: 2^32 epochs of 64 GiB are 256 EiB on one channel.
MAX_EPOCH = U32
