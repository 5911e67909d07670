"""What the tests of prune share: jobs that write points, points that go, and what must be left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from transporter.repository import ChunkRecord, PruneHooks, PruneOptions, PruneReport, Repository

DOMAIN, KEY = b"D" * 16, b"K" * 32
NOW = PruneOptions(grace_seconds=0)
EVERYTHING = PruneOptions(grace_seconds=0, compact_below=1.0)
DAY = 86_400.0


def chunk_id(number: int) -> bytes:
    return (number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big") + number.to_bytes(24, "big")


def chunk(number: int, key: bytes = KEY) -> ChunkRecord:
    stored = number.to_bytes(4, "big") * 25
    return ChunkRecord(chunk_id(number), key, 1, 1000, stored)


def write(repository: Repository, numbers: Iterable[int], domain: bytes = DOMAIN, tenant: str = "t") -> None:
    """Store those chunks that are not there, as a run does."""
    numbers = list(numbers)
    known = repository.have(domain, [chunk_id(number) for number in numbers])
    writer = repository.writer(domain, tenant)
    for number, keys in zip(numbers, known, strict=True):
        if not keys:
            writer.append(chunk(number))
    writer.close()


def commit(
    repository: Repository, point: int, numbers: Iterable[int], domain: bytes = DOMAIN, tenant: str = "t"
) -> None:
    name = point.to_bytes(16, "big")
    needs = b"".join(chunk_id(number) for number in numbers)
    repository.commit_point(tenant, "j", name, b"head", needs, domain=domain, slots=[(name, b"slot")])


def backup(
    repository: Repository, point: int, numbers: Iterable[int], domain: bytes = DOMAIN, tenant: str = "t"
) -> None:
    numbers = list(numbers)
    write(repository, numbers, domain, tenant)
    commit(repository, point, numbers, domain, tenant)


def remove_point(place: Path, point: int, tenant: str = "t") -> None:
    """As retention does without a recycle bin."""
    name = point.to_bytes(16, "big").hex()
    os.unlink(place / "points" / tenant / "j" / name)
    shutil.rmtree(place / "slots" / name, ignore_errors=True)


def recycle_point(place: Path, point: int, tenant: str = "t") -> None:
    name = point.to_bytes(16, "big").hex()
    folder = place / "recycled" / tenant / "j"
    folder.mkdir(parents=True, exist_ok=True)
    (place / "points" / tenant / "j" / name).rename(folder / f"{name}.1800000000000000000")


def known(repository: Repository, numbers: Iterable[int], domain: bytes = DOMAIN) -> set[int]:
    """Return which chunks the index has, without asking for them."""
    numbers = list(numbers)
    found = repository._index.keys_of(domain, [chunk_id(number) for number in numbers])
    return {number for number in numbers if chunk_id(number) in found}


def on_disk(place: Path) -> set[int]:
    """Return the chunks that any pack holds, by the packs alone."""
    from transporter.repository import pack_file

    found = set()
    for path in (place / "packs").glob("*/*"):
        fd = os.open(path, os.O_RDONLY)
        try:
            found |= {int.from_bytes(entry.chunk_id[8:], "big") for entry in pack_file.read_footer(fd)}
        finally:
            os.close(fd)
    return found


def prune(repository: Repository, options: PruneOptions = NOW, hooks: PruneHooks | None = None) -> PruneReport:
    return repository.prune(options, hooks)


def check_sound(repository: Repository) -> None:
    """Every point restores, everything proves itself, nothing strange lies about."""
    for tenant in repository.tenants():
        for ref in repository.points(tenant):
            for needed in repository.read_needs(tenant, ref.job, ref.point_id):
                number = int.from_bytes(needed[8:], "big")
                assert repository.read(ref.domain, needed).stored == chunk(number).stored
    report = repository.scrub()
    assert report.clean, [*report.damage[:3], *report.repairable[:3]]
    assert not report.notes, report.notes[:3]
    assert list((repository.path / "journal").iterdir()) == []
