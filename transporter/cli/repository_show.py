"""What ``transporter repository show`` tells: how much lies in a repository, and whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transporter.quantities import show_size

if TYPE_CHECKING:
    from pathlib import Path

    from transporter.cli.terminal import Terminal
    from transporter.config import RepositoryConfig
    from transporter.repository import Repository


def facts(name: str, place: Path, settings: RepositoryConfig, store: Repository) -> dict[str, Any]:
    """Return everything as plain values; sizes in bytes, times in ns since 1970 (0: never)."""
    sums = store.statistics()
    jobs = store.jobs()
    logical = sum(job.logical_bytes for job in jobs)
    stored = sums.pack_bytes + sums.point_bytes
    scrubbed = store.scrub_state().read()
    return {
        "repository": name,
        "path": str(place),
        "quota": settings.quota,
        "encrypted_at_rest": store.encrypted,
        "packs": sums.packs,
        "chunks": sums.records,
        "points": sums.points,
        "logical": logical,
        "stored": stored,
        "deduplication": round(logical / stored, 2) if stored else None,
        "free": sums.free_bytes,
        "lost_chunks": sum(1 for _ in store.lost_chunks()),
        "scrubbed_ns": scrubbed.finished_ns,
        "scrub_under_way": scrubbed.begun_at is not None,
        "tenants": [
            {"tenant": tenant.tenant, "packs": tenant.packs, "chunks": tenant.records, "stored": tenant.bytes}
            for tenant in sums.tenants
        ],
        "jobs": [
            {
                "tenant": job.tenant,
                "job": job.job,
                "points": job.points,
                "logical": job.logical_bytes,
                "oldest_ns": job.first_ns,
                "newest_ns": job.last_ns,
            }
            for job in jobs
        ],
    }


def show(terminal: Terminal, found: dict[str, Any]) -> None:
    """Print it for people."""
    from transporter.cli.job import show_time

    quota = f", quota {show_size(found['quota'])} a tenant" if found["quota"] is not None else ""
    terminal.result(f"repository {found['repository']} in {found['path']}{quota}")
    ratio = f": {found['deduplication']} times as much" if found["deduplication"] else ""
    terminal.result(
        f"  {found['points']:,} points hold {show_size(found['logical'])}, stored {show_size(found['stored'])} in"
        f" {found['packs']:,} packs{ratio}; {show_size(found['free'])} free"
    )
    scrubbed = f"last proved {show_time(found['scrubbed_ns'])}" if found["scrubbed_ns"] else "never proved as a whole"
    lost = f"; {found['lost_chunks']:,} chunks are lost" if found["lost_chunks"] else ""
    terminal.result(f"  {scrubbed}{', a scrub is under way' if found['scrub_under_way'] else ''}{lost}")
    if found["tenants"]:
        rows = [[row["tenant"], f"{row['chunks']:,}", show_size(row["stored"])] for row in found["tenants"]]
        terminal.table(["tenant", "chunks", "stored"], rows)
    if found["jobs"]:
        cells = [
            [
                row["tenant"],
                row["job"],
                f"{row['points']:,}",
                show_size(row["logical"]),
                show_time(row["newest_ns"]) if row["newest_ns"] else "–",
            ]
            for row in found["jobs"]
        ]
        terminal.table(["tenant", "job", "points", "logical", "newest"], cells)
