"""The tables of the index, version 2: the first one with doomed chunks. Any other version is made anew."""

from __future__ import annotations

from typing import Final

INDEX_VERSION: Final = 2

# What `prune` has in mind for a pack.
IN_USE: Final = 0
CHOSEN: Final = 1  # to go or to be rewritten: chunks that nobody needs have lost their places here, none gets one
REMOVED: Final = 2  # no chunk has its place here any more; the file goes, or is gone

# chunks.doomed: 0, or the epoch of the prune that found that no restore point needs the chunk.
# packs.no: never given twice (AUTOINCREMENT), as sessions remember the newest one of their beginning.
# epochs: when a prune had doomed all that it found.
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (repository BLOB NOT NULL, version INTEGER NOT NULL, era BLOB NOT NULL,
    epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS epochs (no INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS domains (no INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS keys (no INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS tenants (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    packs INTEGER NOT NULL, records INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS packs (no INTEGER PRIMARY KEY AUTOINCREMENT, name BLOB NOT NULL UNIQUE,
    tenant INTEGER NOT NULL, records INTEGER NOT NULL, bytes INTEGER NOT NULL, state INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS folders (name TEXT PRIMARY KEY, mtime_ns INTEGER NOT NULL, checked_ns INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chunks (domain INTEGER NOT NULL, chunk BLOB NOT NULL, key INTEGER NOT NULL,
    pack INTEGER NOT NULL, offset INTEGER NOT NULL, stored INTEGER NOT NULL, plain INTEGER NOT NULL,
    codec INTEGER NOT NULL, doomed INTEGER NOT NULL,
    PRIMARY KEY (domain, chunk, key)) WITHOUT ROWID;
"""
