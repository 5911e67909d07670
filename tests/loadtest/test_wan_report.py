"""The bench over the lines: its figures, its report, its choice of data and of contenders."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from loadtest.__main__ import parse_wan
from loadtest.corpus import Corpora
from loadtest.figures import MIB, OURS
from loadtest.measure import BenchError, Sample, Usage
from loadtest.wan import bench, figures, iperf, report, subset
from loadtest.wan.figures import AgainstBest, AtMost, GoodputShare, Measured, against_best, judge
from loadtest.wan.line import End
from loadtest.wan.peers import SystemCongestion


def sample(peer, work="tree-first", seconds=1.0, *, number=0, sent=None, job_seconds=None, peak=50 * MIB):
    ends = (Usage(1.0, peak), Usage(1.0, peak))
    return Sample(peer, work, number, seconds, *ends, None, sent, 0.0, job_seconds)


def counted(up, down, peak):
    way = {"delivered_bytes": up, "peak_second": peak, "lost": 3, "overflowed": 1}
    return {"up": way, "down": way | {"delivered_bytes": down, "peak_second": 0}}


@pytest.fixture
def measured():
    samples = [
        sample(peer, work, seconds, number=number, sent=80_000_000, job_seconds=8.0)
        for peer, seconds in ((OURS, 8.0), ("rsync -z", 64.0), ("restic", 80.0))
        for work in report.WAN_WORKS
        for number in range(3)
    ]
    traffic = [bench.on_the_line(row, counted(90_000_000, 1_000_000, 12_000_000)) for row in samples]
    return Measured(samples, traffic, {1: [2e6], 4: [60e6], 8: [90e6, 70e6, 80e6]})


@pytest.mark.parametrize(("seconds", "reached"), [(2.0, True), (2.01, False)])
def test_the_best_of_the_peers_is_the_fastest_one(seconds, reached):
    rows = Measured([sample(OURS, seconds=seconds), sample("borg", seconds=14), sample("restic", seconds=30)])
    verdict = AgainstBest("tree-first", 7).judge(rows)
    assert verdict.reached is reached
    assert "borg" in verdict.measured


def test_only_the_rivals_that_are_named_count():
    rows = Measured([sample(OURS), sample("rsync -z", seconds=2), sample("borg", seconds=9)])
    assert against_best(rows.summaries, "tree-first", ("restic", "borg")) == (9.0, "borg")
    assert against_best(rows.summaries, "tree-again") is None


@pytest.mark.parametrize(("sent", "reached"), [(85_000_000, True), (84_900_000, False)])
def test_goodput_is_the_bytes_of_the_job_over_its_own_seconds(sent, reached):
    rows = [sample(OURS, seconds=99, sent=sent, job_seconds=8.0), sample("borg", sent=1, job_seconds=8.0)]
    verdict = GoodputShare("tree-first", 0.85, 8).judge(Measured(rows, iperf={8: [90e6, 100e6, 110e6]}))
    assert verdict.reached is reached
    assert "of 100.0 Mbit/s" in verdict.measured


@pytest.mark.parametrize(("seconds", "reached"), [(1.5, True), (1.51, False)])
def test_a_time_is_reached_at_exactly_its_bound(seconds, reached):
    assert AtMost("tree-again", 1.5).judge(Measured([sample(OURS, "tree-again", seconds)])).reached is reached


def test_what_was_not_measured_is_neither_reached_nor_missed():
    for name, wanted in figures.FIGURES.items():
        verdicts = judge(name, Measured([sample("borg")]))
        assert len(verdicts) == len(wanted)
        assert {verdict.reached for verdict in verdicts} == {None}
        assert all(verdict.title.startswith(name) for verdict in verdicts)


def result(lines, **how):
    corpora = Corpora(Path("/secret/place"), Path("/secret/place"), "subset", 16_000, 180_000_000, 0)
    how = {"runs": 3, "comparable": True, **how}
    return report.WanResult({"processor": "p"}, corpora, 67_500_000, lines, {"iperf3": ["iperf3"]}, {}, **how)


def test_the_page_judges_and_names_what_is_missing(measured, tmp_path):
    page = report.markdown(result({"cubic-100": measured}))
    assert (
        "| cubic-100, tree-first: speed against the best of the peers | ≥ 7 × | 8.00 × (rsync -z) | reached |" in page
    )
    assert "| ≥ 85% | 100% (80.0 of 80.0 Mbit/s) | reached |" in page
    assert "| cubic-100 | 2.0 | 60.0 | 80.0 | 80.0 |" in page
    assert "iperf3 (needs iperf3)" in page
    assert "67.5 MB as tar and lz4" in page
    assert "| restic | 90.00 | 1.00 | 96.0 | 6 | 2 |" in page
    assert "Figures to reach" not in report.markdown(result({"cubic-100": measured}, comparable=False))


def test_a_line_that_was_too_slow_is_said_aloud(measured):
    assert "too slow" not in report.markdown(result({"bbr-100": measured}))
    slow = Measured(measured.samples, overruns=7)
    assert "too slow for 7 packets" in report.markdown(result({"bbr-100": slow}))


def test_nothing_written_names_a_place_of_this_machine_and_every_sample_is_kept(measured, tmp_path):
    report.write(result({"cubic-100": measured, "bbr-100": measured}), tmp_path)
    for path in tmp_path.iterdir():
        assert "/secret" not in path.read_text(), path.name
    raw = json.loads((tmp_path / "bench-wan.json").read_text())
    assert len(raw["lines"]["bbr-100"]["samples"]) == len(measured.samples)
    assert raw["lines"]["bbr-100"]["line"]["congestion"] == "bbr"


def test_every_line_has_figures():
    assert set(figures.FIGURES) == set(figures.LINES)


def test_the_answer_of_iperf3_is_read():
    assert iperf.parse(json.dumps({"end": {"sum_received": {"bits_per_second": 5.5}}})) == 5.5


def test_the_subset_is_whole_folders_in_order_that_fit(tmp_path):
    tree = tmp_path / "tree"
    for folder, size in (("b/two", 100), ("b/one/deep", 100), ("a/one", 100), ("c/big", 200), ("c/one", 90)):
        (tree / folder).mkdir(parents=True)
        (tree / folder / "file").write_bytes(bytes(size))
    (tree / "b" / "two" / "link").symlink_to("file")
    subset.make_subset(tree, tmp_path / "subset", 300, first="b")
    found = sorted(path.relative_to(tmp_path / "subset").as_posix() for path in (tmp_path / "subset").rglob("file"))
    assert found == ["b/one/deep/file", "b/two/file", "c/one/file"]
    assert (tmp_path / "subset/b/two/link").is_symlink()
    with pytest.raises(BenchError, match="too small"):
        subset.make_subset(tree, tmp_path / "more", 2000)


def test_the_command_line_chooses_lines_works_and_contenders(monkeypatch):
    options = parse_wan(["--lines", "bbr-100", "--works", "tree-again", "--only", "rsync", "--runs", "2"])
    assert (options.lines, options.works, options.runs) == (("bbr-100",), ("tree-again",), 2)
    assert parse_wan([]).lines == tuple(figures.LINES)
    monkeypatch.setattr(iperf, "installed", lambda: True)
    peers, with_iperf, _ = bench.choose(parse_wan(["--only", "transporter"]))
    assert ([peer.name for peer in peers], with_iperf) == ([OURS, figures.PROXIED], False)
    assert bench.choose(parse_wan(["--only", "iperf3"]))[:2] == ([], True)
    monkeypatch.setattr(iperf, "installed", lambda: False)
    _, with_iperf, missing = bench.choose(parse_wan([]))
    assert not with_iperf
    assert missing["iperf3"] == ["iperf3"]
    with pytest.raises(BenchError, match="no contender is called so"):
        bench.choose(parse_wan(["--only", "nobody"]))


@pytest.mark.parametrize("known", [True, False])
def test_congestion_control_is_left_to_the_system_where_the_build_knows_the_key(tmp_path, monkeypatch, known):
    contender = SystemCongestion(tmp_path, None, None)
    (tmp_path / "A").mkdir()
    path = tmp_path / "A" / "config.toml"
    path.write_text('[node]\nname = "office"\n')

    def check(home, *arguments):
        assert (home, arguments) == ("A", ("check-config",))
        assert tomllib.loads(path.read_text())["link"] == {"congestion": "system"}
        if not known:
            raise BenchError("unknown section [link]")

    monkeypatch.setattr(contender, "_call", check)
    contender.configure("A")
    assert ("link" in tomllib.loads(path.read_text())) is known


def test_commands_and_addresses_are_those_of_the_ends(tmp_path):
    near = End("near-space", "198.18.0.1", "tun0")
    far = End("far-space", "198.18.0.2", "tun1")
    site = bench.site_of(SimpleNamespace(near=near, far=far))
    contender = SystemCongestion(tmp_path, None, None, site)
    assert contender._line("A", "serve")[:4] == ["ip", "netns", "exec", "near-space"]
    assert contender._line("B", "serve")[:4] == ["ip", "netns", "exec", "far-space"]
    assert (site.source_address, site.target_address) == ("198.18.0.1", "198.18.0.2")
