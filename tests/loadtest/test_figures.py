from __future__ import annotations

import pytest

from loadtest.figures import FIGURES, MIB, OURS, Memory, Speed, Stored, TimeShare, judge, speed_ratio, summarize
from loadtest.measure import Sample, Usage


def sample(peer, work="tree-first", seconds=1.0, *, number=0, peak=50 * MIB, stored=None):
    return Sample(peer, work, number, seconds, Usage(1.0, peak), Usage(2.0, peak // 2), stored)


def test_times_are_medians_and_peaks_are_the_largest():
    rows = [sample("borg", seconds=value, peak=value * MIB) for value in (9, 1, 2)]
    row = summarize(rows)["borg", "tree-first"]
    assert (row.seconds, row.fastest, row.slowest, row.runs) == (2, 1, 9, 3)
    assert (row.source_peak, row.target_peak) == (9 * MIB, 9 * MIB // 2)
    assert (row.source_cpu, row.target_cpu) == (1.0, 2.0)


def test_summaries_keep_works_and_peers_apart():
    rows = [sample("borg"), sample("borg", "tree-again"), sample("restic")]
    assert set(summarize(rows)) == {("borg", "tree-first"), ("borg", "tree-again"), ("restic", "tree-first")}


def test_unknown_sizes_stay_unknown():
    assert summarize([sample("borg")])["borg", "tree-first"].stored is None
    assert summarize([sample("borg", stored=3), sample("borg")])["borg", "tree-first"].stored == 3


def test_a_ratio_above_one_means_ours_is_faster():
    summaries = summarize([sample(OURS, seconds=2), sample("restic", seconds=9)])
    assert speed_ratio(summaries, "tree-first", "restic") == pytest.approx(4.5)
    assert speed_ratio(summaries, "tree-first", "borg") is None


@pytest.mark.parametrize(("seconds", "reached"), [(2.0, True), (2.01, False)])
def test_speed_is_reached_at_exactly_the_factor(seconds, reached):
    summaries = summarize([sample(OURS, seconds=seconds), sample("restic", seconds=8)])
    assert Speed("tree-first", "restic", 4).judge(summaries).reached is reached


@pytest.mark.parametrize(("seconds", "reached"), [(2.0, True), (2.01, False)])
def test_a_share_of_time_is_reached_at_exactly_the_share(seconds, reached):
    summaries = summarize([sample(OURS, seconds=seconds), sample("borg", seconds=5)])
    assert TimeShare("tree-first", "borg", 0.4).judge(summaries).reached is reached


def test_memory_looks_at_every_work_of_ours_and_at_nobody_elses():
    figure = Memory("source", lambda row: row.source_peak)
    rows = [sample(OURS, peak=160 * MIB), sample("restic", peak=900 * MIB)]
    assert figure.judge(summarize(rows)).reached is True
    rows.append(sample(OURS, "tree-restore", peak=160 * MIB + 1))
    verdict = figure.judge(summarize(rows))
    assert verdict.reached is False
    assert "tree-restore" in verdict.measured


@pytest.mark.parametrize(("stored", "reached"), [(400, True), (401, False)])
def test_stored_size_is_compared_with_the_rivals(stored, reached):
    summaries = summarize([sample(OURS, stored=stored), sample("borg", stored=400)])
    assert Stored("tree-first", "borg").judge(summaries).reached is reached


def test_what_was_not_measured_is_neither_reached_nor_missed():
    verdicts = judge(summarize([sample("restic")]))
    assert len(verdicts) == len(FIGURES)
    assert {verdict.reached for verdict in verdicts} == {None}
