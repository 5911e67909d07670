from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree
from pathlib import Path

import pytest

from loadtest import report
from loadtest.corpus import Corpora
from loadtest.figures import OURS, summarize
from loadtest.measure import Sample, Usage
from loadtest.plot import draw


@pytest.fixture
def result():
    samples = [
        Sample(peer, work, number, seconds + number, Usage(1.5, 2**26), Usage(0.5, 2**25), 10**6, 2 * 10**6)
        for peer, seconds in ((OURS, 1.0), ("restic", 4.0), ("tar|lz4|ssh", 3.0))
        for work in ("image-first", "tree-again")
        for number in range(3)
    ]
    corpora = Corpora(Path("/secret/place/tree"), Path("/secret/place/image"), "linux", 3, 4 * 10**6, 8 * 10**6)
    machine = {"processor": "a processor"}
    return report.Result(machine, corpora, samples, {"borg": ["borg"]}, {"restic": "over sftp"}, True, 3)


def test_the_page_names_what_was_not_installed_and_judges(result):
    page = report.markdown(result)
    assert "borg (needs borg)" in page
    assert "| image-first: speed against restic | ≥ 2.5 × | 2.50 × | reached |" in page
    assert "| image-first: speed against borg | ≥ 3 × | not measured | – |" in page


def test_the_page_lists_the_fastest_first_with_its_rate(result):
    lines = report.work_table(result, summarize(result.samples), "image-first").splitlines()
    assert [line.split(" | ")[0].strip("| *") for line in lines[2:]] == [OURS, "tar\\|lz4\\|ssh", "restic"]
    assert "| 2.00 | 1.00-3.00 | 4 |" in lines[2]  # 8 MB in 2 s


def test_every_row_has_as_many_cells_as_the_head(result):
    lines = report.work_table(result, summarize(result.samples), "tree-again").splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_nothing_written_names_a_place_of_this_machine(result, tmp_path):
    report.write(result, tmp_path)
    for path in tmp_path.iterdir():
        assert "/secret" not in path.read_text(), path.name


def test_a_quick_run_judges_nothing(result):
    page = report.markdown(dataclasses.replace(result, comparable=False))
    assert "Figures to reach" not in page
    assert "says nothing about speed" in page


def test_raw_numbers_keep_every_sample(result, tmp_path):
    report.write(result, tmp_path)
    raw = json.loads((tmp_path / "bench.json").read_text())
    assert len(raw["samples"]) == len(result.samples)
    assert raw["samples"][0]["source"] == {"cpu": 1.5, "peak": 2**26}


def test_the_plot_is_well_formed_and_the_same_for_the_same_numbers(result, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        assert draw(summarize(result.samples), report.TITLES, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    xml.etree.ElementTree.fromstring(text)
    assert text == (tmp_path / "b.svg").read_text()
