"""One question that meets chunks under more keys than one answer can name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from protocol.limits import MAX_KEY_IDS
from transporter.clock import SystemClock
from transporter.jobs.commit import _trim_keys
from transporter.jobs.needs import Needs
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.points.domain import domain_of
from transporter.points.run_keys import RunKeys
from transporter.repository import ChunkRecord

CHUNKS = 2 * MAX_KEY_IDS + 90


@pytest.fixture
def old_keys(world):
    """The keys of as many old runs, each of which left one chunk with the target: chunk n lies under key n."""
    clock = SystemClock()
    tenant = world.tenant(world.source)
    keys = [SessionKey.generate(clock) for _ in range(CHUNKS)]
    writer = world.store().writer(domain_of(tenant, "docs"), tenant)
    for number, key in enumerate(keys):
        writer.append(ChunkRecord(chunk_id(number), key.key_id, 0, 100, b"stored" * 10))
    writer.close()
    return keys


def chunk_id(number: int) -> bytes:
    return number.to_bytes(32, "big")


@contextmanager
def needs_of(world, count: int) -> Iterator[Needs]:
    needs = Needs(world.folder)
    try:
        for number in range(count):
            needs.add(chunk_id(number))
        yield needs
    finally:
        needs.close()


def run_keys(old: list[SessionKey]) -> RunKeys:
    clock = SystemClock()
    keys = RunKeys(ChunkIdKey(bytes(32)), SessionKey.generate(clock), MetaKey.generate(clock))
    keys.older_session_keys = {key.key_id: key for key in old}
    return keys


async def test_a_question_that_meets_more_keys_than_a_byte_can_name_is_answered(world, old_keys):
    async with world.source.session() as session:
        known = await session.have([chunk_id(number) for number in range(CHUNKS)])
        again = await session.have([chunk_id(number) for number in range(MAX_KEY_IDS, CHUNKS - 200)])
    ids = [key.key_id for key in old_keys]
    assert known == ids[:MAX_KEY_IDS] + [None] * (CHUNKS - MAX_KEY_IDS), "the rest counts as unknown"
    assert again == ids[MAX_KEY_IDS : CHUNKS - 200], "and is known to the next question"


async def test_keys_that_are_named_already_are_named_after_the_last_one_too(world, old_keys):
    asked = [*range(MAX_KEY_IDS + 1), 0, MAX_KEY_IDS - 1]
    async with world.source.session() as session:
        known = await session.have([chunk_id(number) for number in asked])
    assert known[-3:] == [None, old_keys[0].key_id, old_keys[MAX_KEY_IDS - 1].key_id]


async def test_keys_are_trimmed_however_many_a_point_needs(world, old_keys):
    strangers = [SessionKey.generate(SystemClock()) for _ in range(5)]
    keys = run_keys(old_keys + strangers)
    with needs_of(world, CHUNKS - 10) as needs:
        async with world.source.session() as session:
            await _trim_keys(keys, session, needs)
    assert list(keys.older_session_keys) == [key.key_id for key in old_keys[:-10]]


async def test_nothing_is_trimmed_where_a_chunk_is_unknown(world, old_keys):
    keys = run_keys(old_keys)
    with needs_of(world, CHUNKS + 1) as needs:
        async with world.source.session() as session:
            await _trim_keys(keys, session, needs)
    assert len(keys.older_session_keys) == CHUNKS
