from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.errors import DamagedData, UsageError
from transporter.repository import ChunkMissing, PointExists, PointMissing, Repository
from transporter.repository.layout import folder_name, name_of

DOMAIN = b"D" * 16


def store(repository, record, *numbers: int) -> bytes:
    writer = repository.writer(DOMAIN, "t")
    for number in numbers:
        writer.append(record(number))
    writer.close()
    return b"".join(record(number).chunk_id for number in numbers)


def test_a_committed_point_is_listed_and_read(repository, record):
    needs = store(repository, record, 1, 2, 3)
    digest = repository.commit_point("t", "job", b"p" * 16, b"head", needs, domain=DOMAIN)
    (ref,) = repository.points("t")
    assert (ref.tenant, ref.job, ref.point_id, ref.domain, ref.hash) == ("t", "job", b"p" * 16, DOMAIN, digest)
    assert repository.point_hash("t", "job", b"p" * 16) == digest
    assert repository.read_head("t", "job", b"p" * 16) == b"head"
    assert b"".join(repository.read_needs("t", "job", b"p" * 16)) == needs
    assert repository.points("t", "other") == []
    assert repository.points("other") == []


def test_a_point_that_is_there_is_never_overwritten(repository, record):
    needs = store(repository, record, 1)
    repository.commit_point("t", "job", b"p" * 16, b"head", needs, domain=DOMAIN)
    with pytest.raises(PointExists):
        repository.commit_point("t", "job", b"p" * 16, b"other", needs, domain=DOMAIN)
    assert repository.read_head("t", "job", b"p" * 16) == b"head"


def test_a_point_whose_chunks_are_not_stored_is_refused_and_leaves_nothing(repository, record, place):
    needs = store(repository, record, 1) + record(2).chunk_id + record(3).chunk_id
    with pytest.raises(ChunkMissing, match="2 chunks"):
        repository.commit_point("t", "job", b"p" * 16, b"head", needs, domain=DOMAIN)
    with pytest.raises(ChunkMissing):
        repository.commit_point("t", "job", b"p" * 16, b"head", record(1).chunk_id, domain=b"E" * 16)
    with pytest.raises(ChunkMissing):
        repository.commit_point("t", "job", b"p" * 16, b"h", record(1).chunk_id, domain=DOMAIN, key_ids=[b"other" * 8])
    assert repository.points("t") == []
    assert list((place / "journal").iterdir()) == []


def test_a_commit_publishes_what_another_live_writer_holds(repository, record):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    repository.commit_point("t", "job", b"p" * 16, b"head", record(1).chunk_id, domain=DOMAIN)
    assert writer.sync() == [record(1).chunk_id]
    writer.close()


def test_needs_may_come_in_pieces_of_any_size(repository, record):
    needs = store(repository, record, *range(300)) * 30
    pieces = (needs[start : start + 1000] for start in range(0, len(needs), 1000))
    repository.commit_point("t", "job", b"p" * 16, b"head", pieces, domain=DOMAIN)
    assert b"".join(repository.read_needs("t", "job", b"p" * 16)) == needs
    with pytest.raises(UsageError):
        repository.commit_point("t", "job", b"q" * 16, b"head", needs[:-1], domain=DOMAIN)


def test_points_are_in_the_order_of_their_commits_even_if_the_clock_goes_back(repository, clock):
    order = [bytes([n]) * 16 for n in (5, 3, 9, 1)]
    for point_id in order:
        repository.commit_point("t", "job", point_id, b"head", b"", domain=DOMAIN)
        clock.advance(-1000)
    assert [ref.point_id for ref in repository.points("t", "job")] == order


@pytest.mark.parametrize("tenant", ["..", ".", "a/b", "../../etc", "ü ☃", "a\0b", "%2e", "A" * 80])
def test_names_never_leave_their_folder(repository, place, tenant):
    repository.commit_point(tenant, "../" + tenant, b"p" * 16, b"head", b"", domain=DOMAIN)
    (ref,) = repository.points(tenant)
    assert (ref.tenant, ref.job) == (tenant, "../" + tenant)
    (path,) = (path for path in place.rglob("*") if path.name == (b"p" * 16).hex() and path.is_file())
    assert path.parent.parent.parent == place / "points"
    assert repository.scrub().clean


@given(st.text(max_size=100))
def test_folder_names_are_safe_and_can_be_read_back(name):
    try:
        coded = folder_name(name)
    except UsageError:
        return
    assert name_of(coded) == name
    assert "/" not in coded
    assert not coded.startswith(".")


@given(st.text(max_size=30))
def test_a_folder_that_no_name_makes_is_none(coded):
    name = name_of(coded)
    assert name is None or folder_name(name) == coded


def test_heads_and_ids_have_bounds(repository):
    for head, point_id, domain in (
        (b"", bytes(16), DOMAIN),
        (bytes((16 << 20) + 1), bytes(16), DOMAIN),
        (b"h", bytes(15), DOMAIN),
        (b"h", bytes(16), b"short"),
    ):
        with pytest.raises(UsageError):
            repository.commit_point("t", "j", point_id, head, b"", domain=domain)


def test_every_flipped_bit_of_a_point_is_found_when_it_is_read(repository, record, place):
    needs = store(repository, record, 1)
    repository.commit_point("t", "j", b"p" * 16, b"head", needs, domain=DOMAIN)
    path = next((place / "points").rglob("7070*"))
    whole = path.read_bytes()
    for bit in range(0, len(whole) * 8, 3):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)
        for read in (repository.read_head, lambda *a: list(repository.read_needs(*a))):
            with pytest.raises(DamagedData):
                read("t", "j", b"p" * 16)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedData):
            repository.read_head("t", "j", b"p" * 16)
    path.write_bytes(b"")
    assert repository.points("t") == []
    assert repository.scrub().damage_count == 1


def test_a_point_moved_to_another_job_is_not_taken_for_one_of_it(repository, place):
    repository.commit_point("t", "j", b"p" * 16, b"head", b"", domain=DOMAIN)
    (place / "points/t/j").rename(place / "points/t/k")
    with pytest.raises(DamagedData):
        repository.read_head("t", "k", b"p" * 16)
    assert repository.scrub().damage_count == 1
    with pytest.raises(PointMissing):
        repository.read_head("t", "j", b"p" * 16)


# -- slots ----------------------------------------------------------------------------------------------------------


def test_slots_are_kept_apart_by_point_and_never_overwritten(repository: Repository):
    repository.put_slot(b"p" * 16, b"1" * 16, b"one")
    repository.put_slot(b"p" * 16, b"2" * 16, b"two")
    repository.put_slot(b"q" * 16, b"1" * 16, b"other")
    repository.put_slot(b"p" * 16, b"1" * 16, b"one")
    with pytest.raises(PointExists):
        repository.put_slot(b"p" * 16, b"1" * 16, b"uno")
    assert repository.slots(b"p" * 16) == {b"1" * 16: b"one", b"2" * 16: b"two"}
    assert repository.slots(b"x" * 16) == {}


def test_slots_have_bounds(repository: Repository):
    for data in (b"", bytes((64 << 10) + 1)):
        with pytest.raises(UsageError):
            repository.put_slot(bytes(16), bytes(16), data)
    with pytest.raises(UsageError):
        repository.put_slot(bytes(16), bytes(15), b"x")
    for number in range(64):
        repository.put_slot(bytes(16), bytes([number]) * 16, b"x")
    with pytest.raises(UsageError, match="64"):
        repository.put_slot(bytes(16), b"y" * 16, b"x")
    repository.put_slot(bytes(16), bytes([5]) * 16, b"x")


def test_a_damaged_slot_does_not_hide_a_sound_one(repository, place):
    repository.put_slot(b"p" * 16, b"1" * 16, b"one")
    repository.put_slot(b"p" * 16, b"2" * 16, b"two")
    first, second = sorted((place / "slots").rglob("*3?"))[-2:]
    whole = first.read_bytes()
    for bit in range(len(whole) * 8):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        first.write_bytes(raw)
        assert repository.slots(b"p" * 16) == {b"2" * 16: b"two"}
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(DamagedData):
        repository.slots(b"p" * 16)
    assert repository.scrub().damage_count == 2
