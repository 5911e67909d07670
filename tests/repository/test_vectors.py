"""A repository that an earlier build wrote, checked in byte for byte: it must open, scrub clean and read, for ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from transporter.clock import ManualClock
from transporter.errors import DamagedData, UnsupportedFormat
from transporter.repository import Repository
from transporter.repository.point_head import decode_head, encode_head

VECTORS = Path(__file__).parents[1] / "vectors" / "repository-v1"
LATER = VECTORS.with_name("repository-v1-later")


@pytest.fixture
def frozen(place: Path) -> Path:
    return Path(shutil.copytree(VECTORS / "repository", place))


def test_the_frozen_repository_opens_scrubs_clean_and_reads(frozen):
    expected = json.loads((VECTORS / "expected.json").read_text())
    domain, point = bytes.fromhex(expected["domain"]), bytes.fromhex(expected["point"])
    where = (expected["tenant"], expected["job"], point)
    with Repository.open(frozen, ManualClock()) as repository:
        report = repository.scrub()
        assert report.clean
        assert (report.packs, report.records, report.points, report.slots) == (3, 10, 1, 1)
        assert repository.quota == expected["quota"]
        for chunk in expected["chunks"]:
            found = repository.read(domain, bytes.fromhex(chunk["id"]), [bytes.fromhex(chunk["key"])])
            assert (found.codec, found.plain_length) == (chunk["codec"], chunk["plain"])
            assert bytes(found.stored).hex() == chunk["stored"]
        assert [chunk_id.hex() for chunk_id in repository.read_needs(*where)] == [c["id"] for c in expected["chunks"]]
        assert repository.point_hash(*where).hex() == expected["point_hash"]
        head = repository.read_head(*where)
        assert head.hex() == expected["head"]
        assert encode_head(decode_head(head)) == head
        assert {k.hex(): v.hex() for k, v in repository.slots(point).items()} == expected["slots"]
        assert [(u.tenant, u.records) for u in repository.statistics().tenants] == [(expected["tenant"], 10)]


def test_the_frozen_repository_takes_new_packs_beside_the_old(frozen, record):
    with Repository.open(frozen, ManualClock()) as repository:
        writer = repository.writer(b"D" * 16, "t")
        writer.append(record(1))
        writer.close()
        assert repository.scrub().clean


@pytest.mark.parametrize(
    ("file", "offset", "error"),
    [("format", 11, UnsupportedFormat), ("format", 20, DamagedData), ("format", 0, DamagedData)],
)
def test_the_frozen_repository_is_refused_when_its_format_is_another(frozen, file, offset, error):
    raw = bytearray((frozen / file).read_bytes())
    raw[offset] ^= 2
    (frozen / file).write_bytes(raw)
    with pytest.raises(error):
        Repository.open(frozen, ManualClock())


def test_the_frozen_repository_of_later_has_its_index_of_files_its_old_slot_and_what_it_lost(place):
    """A head of version 2, a slot that was replaced, a pack set aside, a scrub that was half done."""
    frozen = Path(shutil.copytree(LATER / "repository", place))
    expected = json.loads((LATER / "expected.json").read_text())
    point = bytes.fromhex(expected["point"])
    where = (expected["tenant"], expected["job"], point)
    with Repository.open(frozen, ManualClock()) as repository:
        assert repository.scrub().clean
        head = repository.read_head(*where)
        assert head.hex() == expected["head"]
        assert encode_head(decode_head(head)) == head and decode_head(head).fsi
        assert repository.point_hash(*where).hex() == expected["point_hash"]
        assert {k.hex(): v.hex() for k, v in repository.slots(point).items()} == expected["slots"]
        assert [slot.hex() for slot in repository.replaced_slots(point)] == expected["replaced"]
        lost = list(repository.lost_chunks())
        assert [chunk.chunk_id.hex() for _tenant, chunk in lost] == expected["lost"]
        assert lost[0][1].head[0] == 1 and len(lost[0][1].tail) == 16
        assert repository.scrub_state().read().cursor != bytes(32)
        (job,) = repository.jobs()
        assert (job.points, job.logical_bytes) == (1, 12345)
