"""How the frozen repository beside this file was made. Not run by tests: what it made is what must stay readable.

python tests/vectors/repository-v1/make.py FOLDER
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

from transporter.clock import ManualClock
from transporter.repository import ChunkRecord, Repository, limits
from transporter.repository.point_head import PointHead, encode_head

DOMAIN, KEY = b"frozen domain 01", b"frozen key id".ljust(32, b".")
POINT, SLOT = b"frozen point 001", b"frozen slot 0001"


def chunk(number: int) -> ChunkRecord:
    """Return one of the chunks."""
    stored = b"\0" + hashlib.sha256(bytes([number])).digest() * (number + 1)
    key = KEY if number % 2 else bytes(32)
    return ChunkRecord(hashlib.sha256(b"id %d" % number).digest(), key, number % 2, 32 * (number + 1), stored)


def main(folder: Path) -> None:
    """Make the repository and what must be found in it."""
    limits.PACK_TARGET = 1000  # type: ignore[misc]
    place = folder / "repository"
    needs = b"".join(chunk(number).chunk_id for number in range(10))
    head = encode_head(
        PointHead(
            point_id=POINT,
            tenant="tenant/ä",
            job="daily",
            kind="full",
            created_ns=1,
            zone="source",
            encrypted=True,
            domain=DOMAIN,
            cryptograms=[b"wrapped"],
            manifest=[(chunk(0).chunk_id, 32)],
            needs_hash=b"n" * 32,
            statistics={"files": 3},
            workload="tree",
            mac=b"m" * 32,
        )
    )
    with Repository.create(place, clock=ManualClock(), quota=10_000_000) as repository:
        writer = repository.writer(DOMAIN, "tenant/ä")
        for number in range(10):
            writer.append(chunk(number))
        writer.close()
        slots = [(SLOT, b"a wrapped storage key")]
        digest = repository.commit_point("tenant/ä", "daily", POINT, head, needs, domain=DOMAIN, slots=slots)
    shutil.rmtree(place / "index")
    expected = {
        "domain": DOMAIN.hex(),
        "tenant": "tenant/ä",
        "job": "daily",
        "point": POINT.hex(),
        "point_hash": digest.hex(),
        "head": head.hex(),
        "slots": {SLOT.hex(): b"a wrapped storage key".hex()},
        "quota": 10_000_000,
        "chunks": [
            {
                "id": r.chunk_id.hex(),
                "key": r.key_id.hex(),
                "codec": r.codec,
                "plain": r.plain_length,
                "stored": bytes(r.stored).hex(),
            }
            for r in map(chunk, range(10))
        ],
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
