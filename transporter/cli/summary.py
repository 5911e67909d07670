"""The few lines a person reads when a job has ended."""

from __future__ import annotations

from transporter.events import JobFinished
from transporter.quantities import show_duration, show_rate, show_size


def summary(job: JobFinished) -> str:
    """Return what a finished job did, in two or three lines."""
    match job.operation:
        case "backup":
            lines = _backup(job)
        case "restore" if job.dry_run:
            lines = [f"nothing was written; a restore would go through {job.files:,} files"]
        case "restore":
            written = job.files - job.files_unchanged
            # In place: with those that were there the number would look as if all of them had been written.
            there = f"; {job.files_unchanged:,} files were in place already" if job.files_unchanged else ""
            lines = [
                f"restored {written:,} files, {show_size(job.bytes_written)} in {show_duration(job.seconds)}"
                f" ({show_rate(job.bytes_written, job.seconds)}); {show_size(job.bytes_received)} received{there}"
            ]
        case "verify":
            lines = [
                f"point {job.point}: {job.chunks:,} chunks opened and found sound, {show_size(job.bytes_received)}"
                f" received in {show_duration(job.seconds)}"
            ]
        case "copy":
            lines = [
                f"{job.points:,} restore points copied: {job.chunks_new:,} chunks, {show_size(job.bytes_written)} as"
                f" stored, in {show_duration(job.seconds)} ({show_rate(job.bytes_written, job.seconds)})"
            ]
        case _:
            lines = [f"{job.operation} {job.job}: done in {show_duration(job.seconds)}"]
    if job.redials:
        lines.append(f"the link was lost, and is back after {job.redials:,} attempt(s) to dial again")
    return "\n".join(lines)


def _backup(job: JobFinished) -> list[str]:
    return [
        f"point {job.point} ({job.kind}) of job {job.job} is committed: {job.files:,} files,"
        f" {show_size(job.bytes_total or job.bytes_read)}",
        f"read {show_size(job.bytes_read)}, new {show_size(job.bytes_new)}, sent {show_size(job.bytes_sent)}"
        f" over {job.streams} streams in {show_duration(job.seconds)} ({show_rate(job.bytes_read, job.seconds)});"
        f" {job.files_unchanged:,} files unchanged",
    ]
