"""Every bound of the repository in one place, each with its reason."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

FORMAT_VERSION: Final = 1

# A pack is closed once its records reach this: few enough files for 1 PB (16 million), small enough to copy, compact
# and re-hash at once.
PACK_TARGET: Final = 64 * MIB
# ... or this many records. Bounds the footer (1.7 MB) and what a live writer keeps in memory when every chunk is tiny.
PACK_RECORDS: Final = 16_384
# Full packs that wait for their fsync while the next one is written. More would only let a slow disk fill the memory.
FULL_PACKS: Final = 2

# A chunk's plain length is ≤ 4 MiB; stored: lz4 may grow it by 0.4 % and a sealed chunk adds 57 bytes.
PLAIN_LENGTH: Final = 4 * MIB
STORED_LENGTH: Final = PLAIN_LENGTH + 64 * KIB

# A head is held in memory and sent as one control message (16 MiB + 64 KiB there).
HEAD_LENGTH: Final = 16 * MIB
# Wrapped keys with KDF parameters; an RSA-4096 slot is 0.5 KiB. Read whole before anything is authenticated.
SLOT_LENGTH: Final = 64 * KIB
# One slot for each password or keyset that opens a point.
SLOTS_PER_POINT: Final = 64

# Replaced slots of one point that are kept at once: as many changes of a password in the time that they are kept for.
REPLACED_PER_POINT: Final = 8

# A name of a folder may have 255 bytes on every file system that matters; percent-encoding may triple a name.
NAME_LENGTH: Final = 255

# Ids looked up by one SQL statement: larger batches gain nothing, and old SQLite allows 999 variables.
LOOKUP_BATCH: Final = 512
# Pack files kept open for reading; sessions restore from many packs at once, and 1,024 descriptors is a common limit.
OPEN_PACKS: Final = 32
# What is read at once when files are hashed from end to end.
READ_SIZE: Final = 1 * MIB
# Page caches of SQLite: bounded whatever the index's size (10^9 chunks are ≈ 100 GB of index).
WRITER_CACHE: Final = 8 * MIB
READER_CACHE: Final = 4 * MIB
# Idle read connections kept for the next caller.
READER_POOL: Final = 4
# An index up to this size is sealed with its own hash when the repository is closed (a hash of 64 MiB takes 15 ms).
SEALED_INDEX: Final = 64 * MIB

# Findings of one kind that a scrub report spells out; the rest is only counted.
REPORTED: Final = 1_000
