"""What a person reads when a job has ended."""

from __future__ import annotations

import msgspec
import pytest

from transporter.cli.summary import summary
from transporter.events import JobFinished


@pytest.mark.parametrize("operation", ["backup", "restore"])
def test_gaps_are_told_by_the_note_below_their_list_alone(operation):
    done = JobFinished(job="docs", operation=operation, point="00" * 16, kind="full", files=3)
    assert summary(msgspec.structs.replace(done, files_skipped=2)) == summary(done)


def test_a_dry_run_says_that_it_wrote_nothing():
    done = JobFinished(job="docs", operation="restore", point="00" * 16, files=3, dry_run=True)
    assert summary(done) == "nothing was written; a restore would go through 3 files"


def test_a_restore_in_place_counts_apart_what_was_there_already():
    done = JobFinished(job="docs", operation="restore", point="00" * 16, files=509, seconds=1.0)
    assert summary(done).startswith("restored 509 files, 0 B in ") and "in place" not in summary(done)
    same = summary(msgspec.structs.replace(done, files_unchanged=509))
    assert same.startswith("restored 0 files, 0 B in ") and same.endswith("; 509 files were in place already")


def test_attempts_to_get_the_link_back_are_not_told_as_that_many_losses():
    done = JobFinished(job="docs", operation="verify", point="00" * 16, redials=6)
    assert summary(done).splitlines()[-1] == "the link was lost, and is back after 6 attempt(s) to dial again"
