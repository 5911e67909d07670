"""Opening the index of a repository, and sealing it with its own hash when it is closed.

    index/seal: 8 magic "TPINDEX1", 32 BLAKE3 of chunks.db, 32 BLAKE3 of what precedes

The seal exists only while the repository is closed and its index is small. SQLite proves nothing of its file; the seal
lets a scrub (and the next open) find every flipped bit in it. A damaged index is made anew: it is a cache.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from transporter.clock import Clock
from transporter.errors import DiskFull
from transporter.repository import files, limits
from transporter.repository.compaction import finish_interrupted
from transporter.repository.errors import DamagedIndex, RepositoryBusy
from transporter.repository.index import Index
from transporter.repository.layout import Layout
from transporter.repository.lease import prune_lease
from transporter.repository.pack_file import hash_file
from transporter.repository.rebuild import rebuild_in_place
from transporter.repository.reconcile import Reconciled, reconcile
from transporter.repository.salvage import Salvaged, salvage, sweep

_MAGIC: Final = b"TPINDEX1"


@dataclass(frozen=True, slots=True)
class OpenReport:
    """What opening for writing had to put in order.

    ``index_rebuilt``: why the index was made anew; ``unfinished``: why journals still wait for salvage (empty: not so).
    """

    salvaged: Salvaged = field(default_factory=Salvaged)
    reconciled: Reconciled = field(default_factory=Reconciled)
    index_rebuilt: str = ""
    unfinished: str = ""


def open_index(layout: Layout, repository_id: bytes, clock: Clock, *, writable: bool) -> tuple[Index, OpenReport]:
    """Return the index, for writing made to agree with the packs and with all journals salvaged."""
    if not writable:
        return Index(layout.index, writable=False), OpenReport()
    with files.disk_errors("open the index"):
        reason = check_seal(layout)
        sweep(layout)
        # From here on the index may change, and an old seal would accuse it of that.
        files.unlink(layout.index_seal)
        files.sync_folder(layout.index.parent)
    reason = reason or _unusable(layout, repository_id)
    if not reason:
        try:
            return _agree(layout, repository_id, clock, Reconciled(), "")
        except DamagedIndex:
            reason = "the index was damaged"
    with prune_lease(layout.prune_lease):  # a prune in another process has the old file open
        reconciled = rebuild_in_place(layout, repository_id, clock)
    return _agree(layout, repository_id, clock, reconciled, reason)


def _agree(
    layout: Layout, repository_id: bytes, clock: Clock, reconciled: Reconciled, rebuilt: str
) -> tuple[Index, OpenReport]:
    """Open the index, make it agree with the packs (unless it was ``rebuilt``) and salvage the journals."""
    index = Index(layout.index, writable=True)
    salvaged, unfinished = Salvaged(), ""
    try:
        if not rebuilt:
            with files.disk_errors("compare the index with the packs"):
                reconciled = reconcile(layout, index, clock)
        _finish_prune(layout, index)
        salvaged = salvage(layout, index, repository_id, lambda: ())
        unfinished = salvaged.left
    except DiskFull as error:
        # What is committed can be restored from a full disk; the journals wait for room.
        unfinished = str(error)
    except BaseException:
        index.close()
        raise
    return index, OpenReport(salvaged, reconciled, rebuilt, unfinished)


def _finish_prune(layout: Layout, index: Index) -> None:
    """Put in order what a prune left that was cut short, unless one goes on in another process."""
    try:
        lease = prune_lease(layout.prune_lease)
    except RepositoryBusy:
        return
    with lease:
        finish_interrupted(layout, index)


def _unusable(layout: Layout, repository_id: bytes) -> str:
    if not layout.index.exists():
        return "there was no index"
    try:
        index = Index(layout.index, writable=True)
        try:
            mine = index.belongs_to(repository_id)
        finally:
            index.close()
    except DamagedIndex:
        return "the index was damaged"
    return "" if mine else "the index was of another repository or version"


def seal_index(layout: Layout) -> None:
    """Write the seal of a closed index, if that is cheap and there is room; without it a scrub proves a little less."""
    try:
        size = layout.index.stat().st_size
        log = layout.index.with_name(layout.index.name + "-wal")
        if size > limits.SEALED_INDEX or log.exists():
            return
        content = _MAGIC + _hash(layout)
        seal = content + blake3(content).digest()
        files.publish(layout.journal / "seal.tmp", layout.index_seal, layout.root, (seal,))
        if log.exists():
            # A prune in another process has opened the index since: it took the seal away before this one was here.
            files.unlink(layout.index_seal)
    except OSError:
        return


def check_seal(layout: Layout) -> str:
    """Return what a seal says against the index ("": nothing, or there is no seal)."""
    try:
        raw = layout.index_seal.read_bytes()
    except FileNotFoundError:
        return ""
    if len(raw) != 72 or raw[:8] != _MAGIC or blake3(raw[:40]).digest() != raw[40:]:
        return "the index's seal is damaged"
    sound = layout.index.exists() and _hash(layout) == raw[8:40]
    # A writer that opened since took the seal away, and may have changed the index while it was read here.
    return "" if sound or not layout.index_seal.exists() else "the index is not what it was when it was sealed"


def _hash(layout: Layout) -> bytes:
    fd = os.open(layout.index, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return hash_file(fd)
    finally:
        os.close(fd)
