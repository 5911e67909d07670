"""Where things lie in a repository, and how names become folder names."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from transporter.errors import UsageError
from transporter.repository import limits

FOLDERS: Final = (
    *("packs", "points", "slots", "tombstones", "leases", "journal", "index"),
    *("pins", "locks", "recycled"),
)
_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
PACK_FOLDER: Final = re.compile(r"[0-9a-f]{2}")
PACK_NAME: Final = re.compile(r"[0-9a-f]{64}")
ID_NAME: Final = re.compile(r"[0-9a-f]{32}")
RECYCLED_NAME: Final = re.compile(r"([0-9a-f]{32})\.([0-9]{1,19})")


@lru_cache(maxsize=1024)
def folder_name(name: str) -> str:
    """Return ``name`` (a tenant, a job) as a folder name that can never lead out of its folder.

    UTF-8, every byte but letters, digits, ``-``, ``_`` and inner dots percent-encoded.
    """
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise UsageError("a name has characters that are not Unicode text", "choose another name") from None
    coded = "".join(chr(b) if b in _PLAIN and not (i == 0 and b == 0x2E) else f"%{b:02X}" for i, b in enumerate(raw))
    if not raw or len(coded) > limits.NAME_LENGTH:
        raise UsageError("a name is empty or too long", f"use 1 to {limits.NAME_LENGTH // 3} letters and digits")
    return coded


def name_of(folder: str) -> str | None:
    """Return the name that `folder_name` made ``folder`` of, or None if none did."""
    try:
        name = unquote_to_bytes(folder).decode()
        return name if folder_name(name) == folder else None
    except (UnicodeDecodeError, UsageError):
        return None


def own_name(tenant: str, job: str, point_id: bytes) -> bytes:
    """Return the name, 16 bytes, of what belongs to a point whose id was another point's before it came."""
    parts = (tenant.encode(), job.encode(), point_id)
    text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.blake2b(text, digest_size=16, person=b"transporter/own1").digest()


class Layout:
    """Paths of one repository."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.format = root / "format"
        self.packs = root / "packs"
        self.points = root / "points"
        self.slots = root / "slots"
        self._slots = str(self.slots)
        self._points = str(root / "points")
        self._journal = str(root / "journal")
        self.journal = root / "journal"
        self.index = root / "index" / "chunks.db"
        self.index_seal = root / "index" / "seal"
        self.leases = root / "leases"
        self.lease = self.leases / "writer"
        self.prune_lease = self.leases / "prune"
        self.recycled = root / "recycled"
        self.quarantine = root / "quarantine"
        self.pins = root / "pins"
        self.locks = root / "locks"
        self.tombstones = root / "tombstones"
        self.keeping_lease = root / "leases" / "keeping"
        self.prune_lease = root / "leases" / "prune"
        self.clock = root / "leases" / "clock"
        self.scrub_state = root / "index" / "scrub"

    def pack(self, name: bytes) -> Path:
        """Return where the pack of that hash lies."""
        text = name.hex()
        return self.packs / text[:2] / text

    def lost(self, pack: bytes) -> Path:
        """Return where the list of what was lost with a pack lies (lost.py)."""
        return self.quarantine / f"{pack.hex()}.lost"

    def job(self, tenant: str, job: str) -> Path:
        """Return the folder of a job's restore points."""
        return self.points / f"{folder_name(tenant)}/{folder_name(job)}"

    def point(self, tenant: str, job: str, point_id: bytes) -> Path:
        """Return where a restore point lies; UsageError unless the id has 16 bytes."""
        return Path(self.point_name(tenant, job, point_id))

    def point_name(self, tenant: str, job: str, point_id: bytes) -> str:
        """As `point`, in a form that costs little (files.py)."""
        if len(point_id) != 16:
            raise UsageError("a point id has 16 bytes")
        return f"{self._points}/{folder_name(tenant)}/{folder_name(job)}/{point_id.hex()}"

    def recycled_job(self, tenant: str, job: str) -> Path:
        """Return the folder of what was removed of a job."""
        return self.recycled / f"{folder_name(tenant)}/{folder_name(job)}"

    def recycled_point(self, tenant: str, job: str, point_id: bytes, until_ns: int) -> Path:
        """Return where a removed point lies until ``until_ns``."""
        return self.recycled_job(tenant, job) / f"{point_id.hex()}.{until_ns}"

    def belongings(self, tenant: str, job: str, point_id: bytes) -> bytes:
        """Return the name, 16 bytes, under which slots, pin, lock and tombstone of a point lie.

        Its id; or `own_name`, if something had a folder of slots of that id when it was committed: another tenant may
        take an id that it knows, and must reach nothing by that.
        """
        own = own_name(tenant, job, point_id)
        return own if os.path.isdir(self.slots_of(own)) else point_id

    def temporary(self, random: bytes) -> str:
        """Return a name for a file that is being written: the next open for writing removes what a crash left."""
        return f"{self._journal}/{random.hex()}.tmp"

    def slot(self, point_id: bytes, slot_id: bytes) -> Path:
        """Return where a slot lies; UsageError unless both ids have 16 bytes."""
        return Path(self.slot_name(point_id, slot_id))

    def slot_name(self, point_id: bytes, slot_id: bytes) -> str:
        """As `slot`, in a form that costs little (files.py)."""
        if len(slot_id) != 16:
            raise UsageError("point ids and slot ids have 16 bytes")
        return f"{self.slots_of(point_id)}/{slot_id.hex()}"

    def slots_of(self, point_id: bytes) -> str:
        """Return the folder of a point's slots; UsageError unless the id has 16 bytes."""
        if len(point_id) != 16:
            raise UsageError("point ids and slot ids have 16 bytes")
        return f"{self._slots}/{point_id.hex()}"
