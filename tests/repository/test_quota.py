from __future__ import annotations

import pytest

from transporter.clock import ManualClock
from transporter.errors import QuotaExceeded
from transporter.repository import ChunkMissing, Repository

DOMAIN = b"D" * 16


@pytest.fixture
def limited(place, clock):
    with Repository.create(place, clock=clock, quota=3000) as made:
        yield made


def fill(repository, record, tenant: str) -> int:
    """Append until refused; return how many records went in."""
    writer = repository.writer(DOMAIN, tenant)
    number = 0
    try:
        while True:
            writer.append(record(number))
            number += 1
    except QuotaExceeded:
        return number
    finally:
        writer.close()


def test_a_tenant_meets_its_quota_before_anything_is_written_and_others_do_not(limited, record):
    assert limited.quota_left("a") == 3000
    count = fill(limited, record, "a")
    assert 5 < count < 15
    usage = {u.tenant: u.bytes for u in limited.statistics().tenants}
    assert usage["a"] <= 3000 + 300  # the header, the trailer
    assert limited.quota_left("b") == 3000
    assert fill(limited, record, "b") == count


def test_two_writers_of_a_tenant_share_its_quota(limited, record):
    first, second = limited.writer(DOMAIN, "a"), limited.writer(b"E" * 16, "a")
    with pytest.raises(QuotaExceeded):
        for number in range(20):
            first.append(record(number))
            second.append(record(number))
    total = len(first.close()) + len(second.close())
    assert 5 < total < 15


def test_what_is_refused_is_not_charged(limited, record):
    writer = limited.writer(DOMAIN, "a")
    left = limited.quota_left("a")
    with pytest.raises(QuotaExceeded):
        writer.append(record(1, size=4000))
    assert limited.quota_left("a") == left
    writer.append(record(2))
    writer.close()


def test_what_was_stored_counts_after_a_restart_and_a_rebuild(limited, record, place):
    fill(limited, record, "a")
    left = limited.quota_left("a")
    limited.rebuild_index()
    assert limited.quota_left("a") == left
    limited.close()
    with Repository.open(place, ManualClock()) as opened:
        assert opened.quota_left("a") == left
        assert fill(opened, record, "a") == 0


def test_points_count_too(limited):
    limited.commit_point("a", "j", bytes(16), b"h" * 1000, b"", domain=DOMAIN)
    assert limited.quota_left("a") < 2000
    with pytest.raises(QuotaExceeded):
        limited.commit_point("a", "j", b"x" * 16, b"h" * 2000, b"", domain=DOMAIN)
    assert len(limited.points("a")) == 1


def test_slots_count_too_and_a_refused_commit_leaves_none(limited, place):
    slots = [(bytes([number]) * 16, b"s" * 400) for number in range(4)]
    writer = limited.writer(DOMAIN, "a")
    limited.commit_point("a", "j", b"p" * 16, b"head", b"", domain=DOMAIN, slots=slots[:2])
    left = limited.quota_left("a")
    assert left < 3000 - 800
    with pytest.raises(QuotaExceeded):
        limited.commit_point("a", "j", b"q" * 16, b"head", b"", domain=DOMAIN, slots=slots)
    with pytest.raises(ChunkMissing):
        limited.commit_point("a", "j", b"r" * 16, b"head", bytes(32), domain=DOMAIN, slots=slots[:1])
    assert limited.quota_left("a") == left
    writer.close()
    assert [path.name for path in (place / "slots").iterdir()] == [(b"p" * 16).hex()]
    assert limited.slots(b"p" * 16) == dict(slots[:2])
    assert limited.quota_left("a") == left, "what is measured is what was charged"


def test_the_quota_may_be_set_and_lifted(limited, record):
    limited.set_quota(None)
    assert limited.quota_left("a") == -1
    writer = limited.writer(DOMAIN, "a")
    for number in range(50):
        writer.append(record(number))
    limited.set_quota(100)
    with pytest.raises(QuotaExceeded):
        writer.append(record(99))
    writer.close()
    assert limited.quota_left("a") == 0
