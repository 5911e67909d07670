"""Of jobs: are they sealed, do they run, and are there copies enough (3-2-1-1-0)?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from pipeline.trust_zone import Zone
from transporter.config import Config, JobConfig
from transporter.review.finding import Finding, Severity
from transporter.review.installation import Installation

STALE_DAYS: Final = 8
"""A weekly job that missed its day."""

COPIED_DAYS: Final = 40
"""A monthly copy that is some days late: where no newer point of a job lies, nobody copies it there any more."""

UNPROVED_DAYS: Final = 90
"""A quarter: what nobody restored, verified or drilled for so long is a hope and no backup."""


def review_jobs(home: Installation) -> Iterator[Finding]:
    """Yield what is found."""
    for name, job in home.config.jobs.items():
        yield from _sealed(name, job)
        yield from _runs(home, name)
    yield from _copies(home)
    yield from _proved(home)


def _sealed(name: str, job: JobConfig) -> Iterator[Finding]:
    zone = Zone(job.encrypt)
    if zone is Zone.NONE:
        yield Finding(
            "job-not-encrypted",
            Severity.SERIOUS,
            f"job {name}",
            f"its backup lies in {job.to} so that whoever runs or steals that machine can read it",
            "make a new job with --encrypt source",
        )
    elif zone is Zone.TARGET:
        yield Finding(
            "job-encrypted-by-target",
            Severity.NOTE,
            f"job {name}",
            f"{job.peer} seals it, and can read it as long as it has the password",
            "if that machine is not yours alone: a new job with --encrypt source",
        )


def _runs(home: Installation, name: str) -> Iterator[Finding]:
    ended = home.last.get((name, "backup"), 0)
    if not ended:
        yield Finding(
            "job-never-ran", Severity.SERIOUS, f"job {name}", "it never ended well", f"run it: transporter run {name}"
        )
    elif home.days_since(ended) >= STALE_DAYS:
        yield Finding(
            "job-stale",
            Severity.WARNING,
            f"job {name}",
            f"it last ended well {home.days_since(ended)} days ago",
            f"`transporter job list` says why; put `transporter run {name}` into a timer",
        )


def _copies(home: Installation) -> Iterator[Finding]:
    """3 copies (with the original) on 2 machines besides it: one repository alone is a single disk's life away."""
    places: dict[tuple[str, ...], set[str]] = defaultdict(set)
    names: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, job in home.config.jobs.items():
        data = (job.workload, *sorted(job.paths))
        places[data] |= {job.peer, *_copied_to(home.config, name, job), *_known_at(home, name)}
        names[data].append(name)
    for data, peers in places.items():
        if len(peers) < 2:
            yield Finding(
                "copies-missing",
                Severity.WARNING,
                f"job {names[data][0]}",
                f"no [copies.NAME] takes its data further than to {next(iter(peers))}, and this home knows of no "
                f"restore point of the last {COPIED_DAYS} days at another node; three copies on two kinds of machine, "
                "one of them offline or unchangeable, is what survives",
                "copy its points on, by [copies.NAME] in config.toml; or add a job with the same paths to another peer",
            )


def _copied_to(config: Config, name: str, job: JobConfig) -> set[str]:
    """Return the nodes that backup copy jobs of this home copy a job's points to ("": this one)."""
    copies = [copy for copy in config.copies.values() if copy.source == job.to and name in (copy.jobs or [name])]
    return {copy.to.rpartition("/")[0] for copy in copies}


def _known_at(home: Installation, name: str) -> set[str]:
    """Return the nodes where points of a job are known to lie that are not old, whoever had them copied there."""
    return {
        destination.partition("/")[0]
        for (destination, job), newest in home.newest.items()
        if job == name and home.days_since(newest) < COPIED_DAYS
    }


def _proved(home: Installation) -> Iterator[Finding]:
    for name, job in home.config.jobs.items():
        proofs = [home.last.get((name, how), 0) for how in ("verify", "restore")]
        if not max(proofs) or home.days_since(max(proofs)) >= UNPROVED_DAYS:
            yield Finding(
                "never-proved" if not max(proofs) else "not-proved-lately",
                Severity.WARNING,
                f"job {name}",
                "nobody has read its restore points back for three months or ever",
                f"transporter verify {name} latest --from {job.to}; better: restore something",
            )
    sealed = [name for name, job in home.config.jobs.items() if Zone(job.encrypt) is Zone.SOURCE]
    drilled = home.last.get(("", "drill"), 0)
    if sealed and (not drilled or home.days_since(drilled) >= UNPROVED_DAYS):
        yield Finding(
            "no-drill",
            Severity.WARNING,
            "keys",
            "nobody has tried for three months or ever whether every restore point opens",
            "transporter drill; best from a timer",
        )
