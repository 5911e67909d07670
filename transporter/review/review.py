"""All of it, worst first."""

from __future__ import annotations

from transporter.clock import Clock
from transporter.config import Config
from transporter.home import Home
from transporter.review.files import review_copies_of_home, review_private_files, review_repositories
from transporter.review.finding import Finding
from transporter.review.installation import read_installation
from transporter.review.jobs import review_jobs
from transporter.review.keys import review_keys


def review(home: Home, config: Config, clock: Clock) -> list[Finding]:
    """Return what is found. Raises what opening the databases does, unless that files are open to others."""
    found = list(review_private_files(home))
    if not any(each.code == "readable-by-others" for each in found):
        # Else the databases refuse to be opened; and first things come first.
        installation = read_installation(home, config, clock)
        for part in (review_jobs, review_keys, review_repositories, review_copies_of_home):
            found.extend(part(installation))
    return sorted(found, key=lambda each: (-each.severity, each.code, each.subject))
