"""The sealed cache of index blocks: what it saves, what it must not know, and that nothing depends on it."""

from __future__ import annotations

import os
import sqlite3
import stat

import pytest
from world import PASSWORD

from transporter.events import SearchHits
from transporter.jobs import index_cache
from transporter.jobs.index_cache import IndexCache, StoredBlock
from transporter.jobs.search import SearchOrder, search
from transporter.link.resilient import ResilientLink
from transporter.workloads.fsi_query import Query

SEALED = b"\x01" + bytes(80)


def block(number, stored=SEALED):
    return StoredBlock(number.to_bytes(32, "big"), 1, 100, stored)


def ids(*numbers):
    return [number.to_bytes(32, "big") for number in numbers]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index.db"


@pytest.fixture
def cache(path):
    made = IndexCache(path)
    yield made
    made.close()


def holds(path, *numbers):
    again = IndexCache(path)
    try:
        return again.get(ids(*numbers))
    finally:
        again.close()


class TestTheFile:
    def test_what_was_put_is_there_next_time(self, cache, path):
        cache.put(block(1))
        cache.close()
        assert holds(path, 1, 2) == [block(1)]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_what_is_not_sealed_is_never_kept(self, cache, path):
        cache.put(block(1, b"\x00" + b"name" * 40))
        cache.put(block(2, b""))
        cache.close()
        assert holds(path, 1, 2) == []
        assert b"namename" not in path.read_bytes()

    def test_it_says_when_enough_wait(self, cache, monkeypatch):
        monkeypatch.setattr(index_cache, "AT_ONCE", 150)
        assert [cache.put(block(number)) for number in range(2)] == [False, True]

    def test_the_oldest_make_room(self, path, monkeypatch):
        monkeypatch.setattr(index_cache, "CACHE_BYTES", 5 * len(SEALED))
        monkeypatch.setattr(index_cache, "KEEP_BYTES", 3 * len(SEALED))
        cache = IndexCache(path)
        for number in range(6):
            cache.put(block(number))
            cache.flush()
        cache.close()
        assert holds(path, *range(6)) == [block(number) for number in (3, 4, 5)]

    @pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\x00" + os.urandom(4096)])
    def test_a_damaged_file_is_thrown_away(self, path, content):
        path.write_bytes(content)
        broken = IndexCache(path)
        assert broken.get(ids(1)) == []
        broken.put(block(1))
        broken.close()
        again = IndexCache(path)
        again.put(block(2))
        again.close()
        assert holds(path, 2) == [block(2)]

    def test_a_table_of_another_shape(self, path):
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE blocks (chunk TEXT)")
        database.close()
        for _ in range(2):  # the first finds that it cannot be written to
            cache = IndexCache(path)
            cache.put(block(1))
            cache.close()
        assert holds(path, 1) == [block(1)]

    def test_rows_of_other_types_are_no_blocks(self, cache, path):
        cache.close()
        with sqlite3.connect(path) as database:
            database.execute("INSERT INTO blocks VALUES (?, 'x', 1.5, 7)", (ids(1)[0],))
        database.close()
        assert holds(path, 1) == []

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        nowhere = IndexCache(tmp_path / "missing" / "index.db")
        nowhere.put(block(1))
        nowhere.flush()
        assert nowhere.get(ids(1)) == []
        nowhere.close()

    def test_one_that_is_locked_is_done_without(self, path, monkeypatch):
        IndexCache(path).close()
        monkeypatch.setattr(index_cache, "BUSY_SECONDS", 0.01)
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")
            cache = IndexCache(path)
            cache.put(block(1))
            cache.close()
            other.execute("ROLLBACK")
        other.close()
        assert path.exists()


@pytest.fixture
def asked(monkeypatch):
    """Chunks that a peer is asked for."""
    seen = []
    ask = ResilientLink.ask_for

    async def counted(self, chunk_id, *rest):
        seen.append(chunk_id)
        await ask(self, chunk_id, *rest)

    monkeypatch.setattr(ResilientLink, "ask_for", counted)
    return seen


async def hits_of(node, job="docs"):
    before = len(node.seen(SearchHits))
    report = await search(node.context, SearchOrder(Query("*"), job=job))
    assert report.error() is None
    return [hit for event in node.seen(SearchHits)[before:] for hit in event.hits]


async def test_who_made_the_backup_asks_for_no_block(world, asked):
    await world.source.backup()
    assert len(await hits_of(world.source)) > 5
    assert asked == []


async def test_another_search_asks_once(world, asked):
    await world.source.backup()
    world.source.home.index_cache.unlink()
    first = await hits_of(world.source)
    count = len(asked)
    assert count
    assert await hits_of(world.source) == first
    assert len(asked) == count


async def test_no_name_lies_in_it(world):
    (world.source.tree / "a-name-that-nobody-else-has").write_text("x")
    await world.source.backup()
    await hits_of(world.source)
    content = world.source.home.index_cache.read_bytes()
    assert len(content) > 100
    for name in (b"a-name-that-nobody-else-has", b"file-0", PASSWORD):
        assert name not in content


@pytest.mark.parametrize("job", ["target", "none", "rest"])
async def test_nothing_is_kept_of_what_comes_plain(world, job):
    await world.source.backup(job)
    await hits_of(world.source, job)
    with sqlite3.connect(world.source.home.index_cache) as database:
        assert database.execute("SELECT count(*) FROM blocks").fetchall() == [(0,)]
    database.close()


@pytest.mark.parametrize("harm", ["flipped", "swapped", "cut"])
async def test_a_block_that_was_changed_here_is_asked_for_again(world, asked, harm):
    await world.source.backup()
    wanted = await hits_of(world.source)
    with sqlite3.connect(world.source.home.index_cache) as database:
        rows = database.execute("SELECT chunk, stored FROM blocks").fetchall()
        for chunk, stored in rows:
            bad = {"flipped": stored[:-1] + bytes([stored[-1] ^ 1]), "swapped": os.urandom(len(stored)), "cut": b"\x01"}
            database.execute("UPDATE blocks SET stored = ? WHERE chunk = ?", (bad[harm], chunk))
    database.close()
    assert await hits_of(world.source) == wanted
    assert len(asked) == len(rows)
