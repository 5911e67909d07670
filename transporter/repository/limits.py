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

# Replaced slots of one point that are kept at once: as many changes of a password in the time that they are kept for,
# which is that of a lock or of `keep_at_least`: a change each month for two years. Past it changes are refused.
REPLACED_PER_POINT: Final = 24

# Why a point is pinned: a line on a terminal.
REASON_LENGTH: Final = 200
# A pin, lock, tombstone or clock mark: two names, a reason and numbers.
SMALL_FILE: Final = 4 * KIB
# The clock may have gone ahead so far since it was last believed; more, and nothing is deleted until somebody confirms.
# A week: a daemon that was off for a holiday is confirmed by hand, a forged clock gains that much and no more.
CLOCK_JUMP_NS: Final = 7 * 86400 * 10**9
# How exactly the mark follows the clock: coarse, since each step is an fsync, and a lock outlasts it by that at worst.
CLOCK_STEP_NS: Final = 3600 * 10**9

# A name of a folder may have 255 bytes on every file system that matters; percent-encoding may triple a name.
NAME_LENGTH: Final = 255

# Ids looked up by one SQL statement: larger batches gain nothing, and SQLite (since 3.32) allows 32,766 variables.
LOOKUP_BATCH: Final = 2048
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
# Chunks that points lack and that a scrub remembers for a copy to supply, some 300 bytes each; another scrub goes on.
MISSING: Final = 100_000
# Segments of needs tables that a scrub remembers to have looked at, 150 bytes each: the same ones are in point after
# point. A segment ends behind an id that begins with so many zero bits: 1,024 ids on average.
SCRUB_SEGMENTS: Final = 250_000
SEGMENT_BITS: Final = 10
# ... and has at most so many ids, whatever they are.
SEGMENT_IDS: Final = 16_384

# -- prune ------------------------------------------------------------------------------------------------------------

# A prune keeps what is doomed for so long, in seconds: an interrupted run is gone on with within a day, as a rule.
GRACE_SECONDS: Final = 24 * 3600.0
# Packs of which less than this share is needed are rewritten: a quarter of the room at most is wasted, and a byte is
# moved few times in its life.
COMPACT_BELOW: Final = 0.75
# Segments of needs tables that a prune remembers, twice: 70 bytes each. Two points of 16 million chunks.
SEEN_SEGMENTS: Final = 250_000
# Prefixes of ids that are sorted in memory at once: some 10 MiB as Python's integers.
SORTED_AT_ONCE: Final = 131_072
# Sorted runs that are read beside each other: 16 KiB each.
MERGED_RUNS: Final = 64
# Rows of the index in one unit of a prune's work: some ten milliseconds, for which a writer beside it waits.
PRUNE_BATCH: Final = 8_192
# Packs that lose their names in one unit.
PACKS_AT_ONCE: Final = 64
