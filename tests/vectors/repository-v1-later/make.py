"""How the frozen repository beside this file was made: what version 1 has besides what `repository-v1` holds.

A head of version 2 with a file-system index, a slot that was replaced, a damaged pack that was set aside with its list
of what was lost, and a remembered scrub. Not run by tests.

python tests/vectors/repository-v1-later/make.py FOLDER
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

from transporter.clock import ManualClock
from transporter.repository import ChunkRecord, Repository, SlotChange, limits
from transporter.repository.point_head import PointHead, encode_head
from transporter.repository.scrub_course import Course

DOMAIN, KEY = b"frozen domain 02", b"frozen key id 2".ljust(32, b".")
POINT, SLOT, NEW_SLOT = b"frozen point 002", b"frozen slot 0002", b"frozen slot 0003"
TENANT, JOB = "office-00000000", "docs"


def chunk(number: int) -> ChunkRecord:
    """Return one of the chunks."""
    stored = b"\1" + hashlib.sha256(b"later %d" % number).digest() * (number + 3)
    return ChunkRecord(hashlib.sha256(b"later id %d" % number).digest(), KEY, 1, 32 * (number + 3), stored)


def main(folder: Path) -> None:
    """Make the repository and what must be found in it."""
    limits.PACK_TARGET = 1000  # type: ignore[misc]
    place = folder / "repository"
    needs = b"".join(chunk(number).chunk_id for number in range(10))
    head = encode_head(
        PointHead(
            version=2,
            point_id=POINT,
            tenant=TENANT,
            job=JOB,
            kind="full",
            created_ns=2,
            zone="source",
            encrypted=True,
            domain=DOMAIN,
            cryptograms=[b"wrapped"],
            manifest=[(chunk(0).chunk_id, 96)],
            fsi=[(chunk(1).chunk_id, 128)],
            needs_hash=b"n" * 32,
            statistics={"files": 3, "bytes": 12345},
            workload="tree",
            mac=b"m" * 32,
        )
    )
    clock = ManualClock()
    with Repository.create(place, clock=clock) as repository:
        writer = repository.writer(DOMAIN, TENANT)
        for number in range(10):
            writer.append(chunk(number))
        writer.close()
        slots = [(SLOT, b"a wrapped storage key")]
        digest = repository.commit_point(TENANT, JOB, POINT, head, needs, domain=DOMAIN, slots=slots)
        _data, names = repository.slots_and_names(POINT)
        change = SlotChange(POINT, NEW_SLOT, b"the same key, wrapped anew", (SLOT,), names)
        repository.replace_slots(TENANT, JOB, [change], 10**9)
        damage(repository)
        lost = repository.heal(repository.scrub().damaged_packs).lost
        writer = repository.writer(DOMAIN, TENANT)
        writer.append(ChunkRecord(chunk(3).chunk_id, b"another key id".ljust(32, b"."), 1, 192, b"\1" + b"x" * 99))
        writer.close()
        course = Course(repository.scrub_state(), repository.scrubber().packs, clock, share=0.5, anew=False)
        for name in course.names():
            course.proved(name, 1, damaged=False)
        course.remember()
    state = (place / "index" / "scrub").read_bytes()
    shutil.rmtree(place / "index")
    (place / "index").mkdir()
    (place / "index" / "scrub").write_bytes(state)
    expected = {
        "tenant": TENANT,
        "job": JOB,
        "point": POINT.hex(),
        "point_hash": digest.hex(),
        "head": head.hex(),
        "lost": [chunk(3).chunk_id.hex()] if lost == 1 else [],
        "slots": {NEW_SLOT.hex(): b"the same key, wrapped anew".hex()},
        "replaced": [SLOT.hex()],
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def damage(repository: Repository) -> None:
    """Flip a bit of one chunk."""
    needle = bytes(chunk(3).stored)
    path = next(path for path in repository.path.glob("packs/*/*") if needle in path.read_bytes())
    raw = bytearray(path.read_bytes())
    raw[raw.find(needle) + 70] ^= 1
    path.write_bytes(raw)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
