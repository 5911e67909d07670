"""Sections of the page: each bench puts in its own, and none takes away another's."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import pytest

from loadtest import copies, mount, report, repository_figures, restoring, scrub, sections
from loadtest.__main__ import parse
from loadtest.corpus import Corpora
from loadtest.figures import OURS, Verdict
from loadtest.measure import BenchError, Sample, Usage
from loadtest.repositories import HAVE_SIZES, PRUNE_SIZES, Row

GOOD = Verdict("a figure", "≥ 2 ×", "3 ×", True)
BAD = Verdict("a figure", "≥ 2 ×", "1 ×", False)


def page(out: Path) -> str:
    return (out / sections.PAGE).read_text()


def test_a_section_says_what_must_be_what_was_seen_and_whether_it_holds(tmp_path):
    sections.put(tmp_path, "copy", [GOOD])
    assert "| a figure | ≥ 2 × | 3 × | reached |" in page(tmp_path)
    sections.put(tmp_path, "copy", [BAD])
    assert "| a figure | ≥ 2 × | 1 × | **missed** |" in page(tmp_path)
    assert page(tmp_path).count("## Copies") == 1 and "reached" not in page(tmp_path)


def test_sections_keep_their_order_and_what_others_wrote(tmp_path):
    (tmp_path / sections.PAGE).write_text("# Benchmarks\n\nof contenders\n")
    for name in ("restore", "copy", "scrub"):
        sections.put(tmp_path, name, [GOOD])
    sections.put(tmp_path, "copy", [BAD])
    heads = [line for line in page(tmp_path).splitlines() if line.startswith("#")]
    assert heads == ["# Benchmarks", "## Copies", "## Scrub", "## Restores in place"]
    assert "of contenders" in page(tmp_path) and page(tmp_path).count("reached") == 2


def test_the_bench_with_contenders_leaves_the_sections(tmp_path):
    sections.put(tmp_path, "mount", [GOOD])
    corpora = Corpora(Path("tree"), Path("image"), "linux", 3, 4, 8)
    samples = [Sample(OURS, "tree-again", 0, 1.0, Usage(1.0, 1), Usage(1.0, 1), 1, 1)]
    report.write(report.Result({}, corpora, samples, {}, {}, True, 1), tmp_path)
    assert page(tmp_path).startswith("# Benchmarks") and "## Method" in page(tmp_path)
    assert page(tmp_path).rstrip().endswith("<!-- end: mount -->")


def test_a_quick_run_judges_nothing_of_a_section(tmp_path):
    sections.put(tmp_path, "copy", [BAD], quick=True)
    assert "missed" not in page(tmp_path) and sections.QUICK in page(tmp_path)


def test_one_that_cannot_run_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    ran = []

    def bench(section):
        def run(arguments):
            ran.append((section.name, arguments))
            if section.name == "mount":
                raise BenchError("there is no FUSE here")
            return 0

        return run

    monkeypatch.setattr(sections.Section, "bench", bench)
    names = [section.name for section in sections.SECTIONS]
    assert sections.run_all(names, tmp_path, None, tmp_path / "cache", quick=True) == 1
    assert [name for name, _ in ran] == names
    assert all("--quick" in arguments for _, arguments in ran)
    assert "not measured: there is no FUSE here" in page(tmp_path)
    assert sections.run_all(["copy"], tmp_path, None, tmp_path, quick=False) == 0


def test_each_section_names_a_bench_that_takes_what_is_given(capsys):
    for section in sections.SECTIONS:
        with pytest.raises(SystemExit):
            section.bench()(["--help"])
        said = capsys.readouterr().out
        assert all(option in said for option in ("--quick", "--out", "--work")), section.name


def test_all_sections_follow_unless_a_part_is_asked_for():
    everything = tuple(section.name for section in sections.SECTIONS)
    assert parse([]).sections == everything
    assert parse(["--quick"]).sections == everything
    assert parse(["--only", "restic"]).sections == parse(["--works", "tree-again"]).sections == ()
    assert parse(["--works", "tree-again", "--sections", "copy"]).sections == ("copy",)
    assert parse(["--sections", "none"]).sections == ("none",)


def test_what_each_bench_says_of_its_figures():
    row = copies.Row
    (copied,) = copies.verdicts([row(copies.FIRST, 100, (2.0,), (1.0,)), row(copies.COPY, 100, (1.8,), (1.0,))])
    assert (copied.measured, copied.reached) == ("1.11 ×", False)
    shape, judged = scrub.SHAPES[1], scrub.SHAPES[0]
    rows = [scrub.Row(each, 1, 1, 1, [100.0], [70.0], [1.0], 200 << 20) for each in (shape, judged)]
    assert [verdict.reached for verdict in scrub.verdicts(rows)] == [True, False]
    # The quickest whole restore counts: others may have met a disk that was busy with what was removed before.
    rounds = [restoring.Round({"full": full, "one percent": 2.0}, {}, {}) for full in (10.0, 60.0, 40.0)]
    slow = [restoring.Round({"full": full, "one percent": 2.0}, {}, {}) for full in (4.0, 60.0, 40.0)]
    restored, missed = restoring.verdicts([restoring.Measured("a", rounds), restoring.Measured("b", slow)])
    assert (restored.must, restored.measured, restored.reached) == ("≤ 0.25", "0.20", True)
    assert (missed.measured, missed.reached) == ("0.50", False)
    read, other = mount.Row("sequential read, 1", "150 MB/s", 1, 1, 1, 1, False), mount.Row("x", "", 1, 1, 1, 1)
    (mounted,) = mount.verdicts([read, other])
    assert (mounted.must, mounted.measured, mounted.reached) == ("≥ 200 MB/s", "150 MB/s", False)


def rows_of(work, sizes, cpu):
    return [Row(work, size, 400_000, cpu(size), cpu(size), 60 << 20, 1.0) for size in sizes]


def test_what_grows_faster_than_n_log_n_is_missed():
    def growth(cpu):
        found = repository_figures.verdicts(rows_of("prune", PRUNE_SIZES, cpu), [], [], lambda _row: True)
        return [each for each in found if "processor time" in each.title]

    (linear,) = growth(lambda size: size / 1e5)
    assert linear.reached and "from 100,000 to 1,000,000" in linear.title
    assert growth(repository_figures.n_log_n)[0].reached
    assert growth(lambda size: size**1.5)[0].reached is False


def test_the_figures_of_repositories():
    rows = [*rows_of("have", HAVE_SIZES, lambda _size: 2.0), *rows_of("prune", PRUNE_SIZES, lambda _size: 50.0)]
    alone = [Row("store", 1, 100, 1.0, 1.0, 1, 1.0)]
    together = [Row("store", 1, 100, 2.0, 1.0, 1, 1.0)]
    found = repository_figures.verdicts(rows, alone, together, lambda _row: True)
    shown = {each.title: each for each in found}
    assert shown["have, 10,000,000 chunks"].measured == "200,000 ids a second, 60 MiB"
    assert shown["prune, 1,000,000 chunks"].must == "≤ 60 s, ≤ 160 MiB"
    lost = shown["a backup beside a prune loses"]
    assert (lost.measured, lost.reached) == ("50%", False)


def test_the_plot_of_cost_against_size_is_well_formed_and_the_same_for_the_same_numbers(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [*rows_of("have", HAVE_SIZES, lambda size: 2.0), *rows_of("prune", PRUNE_SIZES, lambda size: size / 1e5)]
    for name in ("a.svg", "b.svg"):
        assert repository_figures.draw(rows, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    xml.etree.ElementTree.fromstring(text)
    assert text == (tmp_path / "b.svg").read_text() and "n log n" in text
