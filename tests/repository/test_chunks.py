from __future__ import annotations

import threading

import pytest

from transporter.clock import ManualClock
from transporter.errors import DamagedData, JobFailed, UsageError
from transporter.repository import ChunkMissing, ChunkRecord, Repository

DOMAIN, OTHER = b"D" * 16, b"E" * 16
KEY, KEY_2 = b"K" * 32, b"L" * 32


def content(found: ChunkRecord) -> tuple[bytes, bytes, int, int, bytes]:
    return found.chunk_id, found.key_id, found.codec, found.plain_length, bytes(found.stored)


def test_a_chunk_is_known_and_read_before_and_after_its_pack_is_published(repository, record):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    assert repository.have(DOMAIN, [record(1).chunk_id, record(2).chunk_id]) == [(KEY,), ()]
    assert content(repository.read(DOMAIN, record(1).chunk_id, [KEY])) == content(record(1))
    assert writer.sync() == [record(1).chunk_id]
    assert writer.sync() == []
    assert writer.seal() == []
    assert repository.have(DOMAIN, [record(1).chunk_id]) == [(KEY,)]
    assert content(repository.read(DOMAIN, record(1).chunk_id, None)) == content(record(1))
    writer.close()


def test_nothing_is_seen_from_another_domain(repository, record):
    with repository_writer(repository, OTHER, "u") as other:
        other.append(record(2))
    writer = repository.writer(DOMAIN, "t")
    for sealed in (False, True):
        if sealed:
            writer.seal()
        else:
            writer.append(record(1))
        assert repository.have(OTHER, [record(1).chunk_id, record(2).chunk_id]) == [(), (KEY,)]
        assert repository.have(DOMAIN, [record(1).chunk_id, record(2).chunk_id]) == [(KEY,), ()]
        with pytest.raises(ChunkMissing):
            repository.read(OTHER, record(1).chunk_id, None)
        assert list(repository.read_many(OTHER, [record(1).chunk_id], on_problem=lambda *_: None)) == []
    writer.close()


def test_one_chunk_under_two_keys(repository, record):
    for key in (KEY, KEY_2):
        with repository_writer(repository) as writer:
            writer.append(record(1, key))
    assert sorted(repository.have(DOMAIN, [record(1).chunk_id])[0]) == [KEY, KEY_2]
    assert repository.read(DOMAIN, record(1).chunk_id, [KEY_2]).key_id == KEY_2
    with pytest.raises(ChunkMissing):
        repository.read(DOMAIN, record(1).chunk_id, [b"M" * 32])


class repository_writer:
    def __init__(self, repository: Repository, domain: bytes = DOMAIN, tenant: str = "t") -> None:
        self.writer = repository.writer(domain, tenant)

    def __enter__(self):
        return self.writer

    def __exit__(self, *_: object) -> None:
        self.writer.close()


@pytest.mark.usefixtures("small_packs")
def test_packs_roll_over_and_every_record_is_found(repository, record, place):
    with repository_writer(repository) as writer:
        for number in range(50):
            writer.append(record(number))
        ids = writer.seal()
    assert sorted(ids) == [record(n).chunk_id for n in range(50)]
    assert repository.statistics().packs >= 8
    assert not list((place / "journal").iterdir())
    found = {r.chunk_id: content(r) for r in repository.read_many(DOMAIN, ids, [KEY])}
    assert found == {record(n).chunk_id: content(record(n)) for n in range(50)}
    assert repository.scrub().clean


def test_a_pack_is_closed_at_its_number_of_records(repository, record, monkeypatch):
    monkeypatch.setattr("transporter.repository.limits.PACK_RECORDS", 3)
    with repository_writer(repository) as writer:
        for number in range(10):
            writer.append(record(number))
    assert repository.statistics().packs == 4


def test_read_many_goes_in_the_order_of_the_disk(repository, record):
    with repository_writer(repository) as writer:
        for number in (5, 3, 9, 1):
            writer.append(record(number))
    ids = [record(number).chunk_id for number in (1, 3, 5, 9)]
    assert [r.chunk_id for r in repository.read_many(DOMAIN, ids)] == [record(n).chunk_id for n in (5, 3, 9, 1)]


def test_read_many_reads_what_is_not_yet_published_and_reports_what_is_not_there(repository, record):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    writer.seal()
    writer.append(record(2))
    problems: list[bytes] = []
    ids = [record(n).chunk_id for n in (1, 2, 3)]
    found = list(repository.read_many(DOMAIN, ids, [KEY], on_problem=lambda i, e: problems.append(i)))
    assert sorted(r.chunk_id for r in found) == ids[:2]
    assert problems == [ids[2]]
    with pytest.raises(ChunkMissing):
        list(repository.read_many(DOMAIN, ids, [KEY]))
    writer.close()


def test_a_damaged_record_is_never_returned(repository, record, place):
    with repository_writer(repository) as writer:
        writer.append(record(1))
    pack = next((place / "packs").glob("*/*"))
    raw = bytearray(pack.read_bytes())
    raw[200] ^= 1
    pack.write_bytes(raw)
    with pytest.raises(DamagedData):
        repository.read(DOMAIN, record(1).chunk_id, None)


def test_a_sound_record_under_another_key_is_taken_when_one_is_damaged(repository, record, place):
    for key in (KEY, KEY_2):
        with repository_writer(repository) as writer:
            writer.append(record(1, key))
        if key == KEY:
            pack = next((place / "packs").glob("*/*"))
            raw = bytearray(pack.read_bytes())
            raw[200] ^= 1
            pack.write_bytes(raw)
    assert repository.read(DOMAIN, record(1).chunk_id, [KEY, KEY_2]).key_id == KEY_2


def test_an_index_that_points_to_another_sound_record_never_makes_it_the_wrong_chunk(repository, record):
    with repository_writer(repository) as writer:
        for number in (1, 2):
            writer.append(record(number))
    with repository._index.transaction() as connection:
        rows = connection.execute("SELECT offset FROM chunks ORDER BY offset").fetchall()
        connection.execute("UPDATE chunks SET offset = ? WHERE chunk = ?", (*rows[1], record(1).chunk_id))
    with pytest.raises(DamagedData):
        repository.read(DOMAIN, record(1).chunk_id)


def test_a_record_sent_twice_is_written_once_and_acknowledged_twice(repository, record):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    assert writer.sync() == [record(1).chunk_id]
    writer.append(record(1))
    assert writer.sync() == [record(1).chunk_id]
    writer.close()
    assert repository.statistics().records == 1


def test_a_chunk_in_two_packs_keeps_its_first_place_and_scrub_is_content(repository, record):
    for _ in range(2):
        with repository_writer(repository) as writer:
            writer.append(record(1))
            writer.append(record(2))
            writer.append(record(3 + _))
    assert repository.scrub().clean


@pytest.mark.parametrize(
    "bad",
    [
        ChunkRecord(b"short", KEY, 1, 1, b"x"),
        ChunkRecord(b"i" * 32, b"short", 1, 1, b"x"),
        ChunkRecord(b"i" * 32, KEY, 256, 1, b"x"),
        ChunkRecord(b"i" * 32, KEY, 1, (4 << 20) + 1, b"x"),
        ChunkRecord(b"i" * 32, KEY, 1, -1, b"x"),
        ChunkRecord(b"i" * 32, KEY, 1, 1, b""),
        ChunkRecord(b"i" * 32, KEY, 1, 1, bytes((4 << 20) + 65537)),
    ],
)
def test_records_out_of_range_are_refused(repository, bad):
    writer = repository.writer(DOMAIN, "t")
    with pytest.raises(ValueError, match="range"):
        writer.append(bad)
    writer.close()
    assert repository.statistics().packs == 0


def test_a_closed_writer_refuses(repository, record):
    writer = repository.writer(DOMAIN, "t")
    writer.close()
    writer.close()
    for use in (lambda: writer.append(record(1)), writer.sync, writer.seal):
        with pytest.raises(JobFailed):
            use()


def test_what_an_abandoned_writer_had_is_there_for_the_next(repository, record):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    writer.abandon()
    assert repository.have(DOMAIN, [record(1).chunk_id]) == [()]
    with repository_writer(repository):
        assert repository.have(DOMAIN, [record(1).chunk_id]) == [(KEY,)]


def test_salvage_leaves_live_writers_alone(repository, record):
    live = repository.writer(DOMAIN, "t")
    live.append(record(1))
    repository.salvage()
    live.append(record(2))
    live.close()
    assert repository.have(DOMAIN, [record(1).chunk_id, record(2).chunk_id]) == [(KEY,), (KEY,)]
    assert repository.statistics().packs == 1


@pytest.mark.usefixtures("small_packs")
def test_threads_append_sync_and_look_up_at_once(repository, record, clock):
    """A chunk that was appended is known at every moment after, also while its pack is being published."""
    known: list[int] = []
    acknowledged: list[bytes] = []
    lost: list[int] = []
    done = threading.Event()
    writer = repository.writer(DOMAIN, "t")

    def look() -> None:
        while not done.is_set():
            numbers = known[-20:]
            for number, keys in zip(
                numbers, repository.have(DOMAIN, [record(n).chunk_id for n in numbers]), strict=True
            ):
                if not keys:
                    lost.append(number)
            if numbers:
                repository.read(DOMAIN, record(numbers[0]).chunk_id, None)

    def sync() -> None:
        while not done.is_set():
            acknowledged.extend(writer.sync())

    threads = [threading.Thread(target=look), threading.Thread(target=sync)]
    for thread in threads:
        thread.start()
    for number in range(300):
        writer.append(record(number))
        known.append(number)
    done.set()
    for thread in threads:
        thread.join()
    acknowledged.extend(writer.close())
    assert not lost
    assert sorted(acknowledged) == [record(n).chunk_id for n in range(300)]
    assert repository.scrub().clean


def test_a_domain_has_16_bytes_and_a_tenant_a_name(repository):
    for domain, tenant in ((b"", "t"), (DOMAIN, ""), (DOMAIN, "x" * 300), (DOMAIN, "\ud800")):
        with pytest.raises(UsageError):
            repository.writer(domain, tenant)


def test_a_repository_open_for_reading_writes_nothing(repository, record, place):
    with repository_writer(repository) as writer:
        writer.append(record(1))
    repository.commit_point("t", "j", bytes(16), b"head", record(1).chunk_id, domain=DOMAIN)
    repository.close()
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with Repository.open(place, ManualClock(), writable=False) as reading:
        assert reading.have(DOMAIN, [record(1).chunk_id]) == [(KEY,)]
        assert content(reading.read(DOMAIN, record(1).chunk_id)) == content(record(1))
        assert reading.read_head("t", "j", bytes(16)) == b"head"
        assert reading.scrub().clean
        for use in (
            lambda: reading.writer(DOMAIN, "t"),
            lambda: reading.put_slot(bytes(16), bytes(16), b"x"),
            lambda: reading.commit_point("t", "j", bytes(16), b"h", b"", domain=DOMAIN),
            reading.salvage,
            reading.rebuild_index,
        ):
            with pytest.raises(UsageError):
                use()
    after = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert {path: raw for path, raw in after.items() if path.suffix not in (".db-shm", ".db-wal")} == before
    assert not any(raw for path, raw in after.items() if path.suffix == ".db-wal")
