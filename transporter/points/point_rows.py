"""What a repository says of its restore points to whoever lists them: rows of plain values, without a key."""

from __future__ import annotations

from contextlib import suppress

from transporter.errors import DamagedData
from transporter.repository import PointRef, Repository
from transporter.repository.point_head import decode_head

DAMAGED = "damaged"
"""The kind of a point that cannot be read any more."""


def point_rows(store: Repository, refs: list[PointRef]) -> list[dict[str, object]]:
    """Return a row for each point: what its head says, and what the repository knows itself.

    ``hash``: of the point where it was made, also of a copy; ``copied_ns`` and ``origin`` (the repository where it was
    made): of copies alone.
    """
    candidates = store.keeping.candidates(refs[0].tenant, refs[0].job, refs) if refs else []
    return [
        {**_row(store, ref), **_pin(store, ref, kept.pinned), "locked_until_ns": kept.locked_until_ns}
        for ref, kept in zip(refs, candidates, strict=True)
    ]


def _pin(store: Repository, ref: PointRef, reason: str | None) -> dict[str, object]:
    """Return what is told of a pin: why, who set it in the first place, and when; of a damaged one only that it is."""
    row: dict[str, object] = {"pinned": reason}
    if reason is not None:
        with suppress(DamagedData):
            pin = store.keeping.pin_of(store.belongings(ref.tenant, ref.job, ref.point_id))
            if pin is not None:
                row |= {"pinned_by": pin.first_by, "pinned_ns": pin.at_ns}
    return row


def _row(store: Repository, ref: PointRef) -> dict[str, object]:
    try:
        head = decode_head(store.read_head(ref.tenant, ref.job, ref.point_id))
    except DamagedData:
        # One damaged point must not hide the sound ones.
        named = {"point": ref.point_id, "job": ref.job, "kind": DAMAGED, "created_ns": ref.committed_ns}
        return {**named, "hash": ref.hash}
    row: dict[str, object] = {
        "point": ref.point_id,
        "job": ref.job,
        "kind": head.kind,
        "created_ns": head.created_ns,
        "zone": head.zone,
        "encrypted": head.encrypted,
        "parent": head.parent,
        "workload": head.workload,
        "bytes": head.statistics.get("bytes", 0),
        "files": head.statistics.get("files", 0),
        "skipped": head.statistics.get("skipped", 0),
        "committed_ns": ref.committed_ns,
        "domain": ref.domain,
        "hash": ref.hash,
    }
    if ref.origin is not None:
        row |= {"hash": ref.origin.hash, "origin": ref.origin.repository_id, "copied_ns": ref.origin.copied_ns}
        row |= {"resealed": True} if ref.origin.resealed else {}
    return row
