"""What is wrong with the schedules of a configuration, if anything: of scrub, prune, retention, transform and copies.

Each function returns (key, what is wrong, what to do) of the first thing that cannot work, or ``None``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from transporter.quantities import parse_rate, parse_share
from transporter.schedule import REMEDY, parse_schedule

if TYPE_CHECKING:
    from transporter.config import CopyConfig, JobConfig, RepositoryConfig

Problem = tuple[str, str, str]
RATE_REMEDY: Final = "write bits (500kbit, 20Mbit, 1Gbit), bytes (2.5MB/s, 4MiB/s) or unlimited"


def repository_tasks_problem(repository: RepositoryConfig) -> Problem | None:
    """Look at what is done for a repository at its times."""
    return (
        _unparsed("scrub", repository.scrub, parse_schedule, REMEDY)
        or _unparsed("scrub_sample", repository.scrub_sample, parse_share, 'write a share, for example "10%"')
        or _unparsed("scrub_limit", repository.scrub_limit, parse_rate, RATE_REMEDY)
        or _unparsed("prune", repository.prune, parse_schedule, REMEDY)
    )


def job_tasks_problem(job: JobConfig) -> Problem | None:
    """Look at what is done for a job at its times."""
    if job.retention and job.keep.empty:
        return "retention", "no policy says what to keep", "add keep = { last = 7, daily = 30 }, or leave retention out"
    if job.transform and bool(job.transform_keep) == bool(job.transform_before):
        return "transform", "it is not said how far to fold", "add one of transform_keep = 30, transform_before = '90d'"
    if not job.transform and (job.transform_keep or job.transform_before):
        field = "transform_keep" if job.transform_keep else "transform_before"
        return field, "it is not said when to fold", 'add transform = "monthly"'
    return _unparsed("retention", job.retention, parse_schedule, REMEDY) or _unparsed(
        "transform", job.transform, parse_schedule, REMEDY
    )


def copy_tasks_problem(copy: CopyConfig) -> Problem | None:
    """Look at when a backup copy job runs."""
    if copy.schedule and copy.continuous:
        return "schedule", "a continuous copy has no times", "leave one of the two out"
    return _unparsed("schedule", copy.schedule, parse_schedule, REMEDY)


def _unparsed(field: str, value: str, parse: Callable[[str], object], remedy: str) -> Problem | None:
    try:
        if value:
            parse(value)
    except ValueError as error:
        return field, f"{field}: {error}", remedy
    return None
