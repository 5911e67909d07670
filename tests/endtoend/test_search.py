"""``transporter search`` by its command: with the daemon and without it, near and far, and into a pipe that closes."""

from __future__ import annotations

import subprocess

import pytest
from e2e_node import sealed
from e2e_trees import small_tree


@pytest.fixture
def copied(new_pair, tmp_path):
    pair = new_pair()
    tree = small_tree(tmp_path / "tree")
    for number in range(700):
        (tree / f"many-{number:04d}.odt").write_text(str(number))
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    (tree / "many-0007.odt").write_text("changed")
    pair.source.job("run", "docs")
    return pair, tree


def paths(done):
    return [line["path"].rpartition("/")[2] for line in done.objects if "path" in line]


def test_lines_with_the_daemon_and_without_it_are_the_same(copied):
    pair, tree = copied
    first, second = (row["point"] for row in pair.source.points("docs"))
    here = pair.source.ok("search", "many-*", "--job", "docs")
    assert len(paths(here)) == 701
    changed, before = [line for line in here.objects if line["path"].endswith("many-0007.odt")]
    assert (changed["point"], before["point"], changed["points"]) == (second, first, 1)
    assert changed["size"] == len("changed")
    assert {"point", "time", "job", "path", "size", "mtime", "type"} <= set(changed)
    (unchanged,) = pair.source.ok("search", "many-0008.odt").objects
    assert (unchanged["points"], unchanged["point"], unchanged["type"]) == (2, second, "f")
    assert unchanged["oldest"] < unchanged["time"]
    pair.source.serve()
    assert paths(pair.source.ok("search", "many-*", "--job", "docs")) == paths(here)
    text = pair.source.ok("search", "many-0008.odt", options=()).out
    assert "in 2 points" in text and str(tree).lstrip("/") in text
    assert pair.source.ok("search", "many-0008.odt", options=("--quiet",)).out == f"{str(tree)[1:]}/many-0008.odt\n"


def test_bounds_on_the_command_line(copied):
    pair, _tree = copied

    def search(*arguments):
        return paths(pair.source.ok("search", *arguments, "--job", "docs"))

    assert search("many-0007.odt", "--size", "=7") == ["many-0007.odt"]
    assert search("many-0007.odt", "--size", ">0", "--size", "<7") == ["many-0007.odt"]
    assert search("many-*", "--limit", "3") == ["many-0000.odt", "many-0001.odt", "many-0002.odt"]
    assert search("many-0007.odt", "--latest") == ["many-0007.odt"]
    assert len(search("many-0008.odt", "--each")) == 2
    assert search("many-*", "--modified-before", "1990-01-01") == []
    assert len(search("many-*", "--modified-after", "1d", "--point", "latest")) == 700
    assert search("many-0008.odt", "--to", "2001-01-01") == []
    assert search("folder-0", "--type", "d") == ["folder-0"]
    for wrong in (("--size", "big"), ("--type", "x"), ("--from", "yesterday"), ("--limit", "-1"), ("--at", "/x")):
        assert pair.source("search", "x", *wrong).status == 2, wrong
    assert pair.source("search", "/").status == 2
    unknown = pair.source("search", "*", "--job", "doc")
    assert unknown.status == 2 and "no restore point of job 'doc'" in unknown.err
    for first, second in (("--from", "--to"), ("--modified-after", "--modified-before")):
        turned = pair.source("search", "*", first, "2001-01-02", second, "2001-01-01")
        assert turned.status == 2 and f"{first} is later than {second}" in turned.err


def test_a_node_without_the_key_is_told_so(copied):
    pair, tree = copied
    done = pair.target("search", "*")
    assert done.status == 6
    assert done.failed["code"] == "no-key"
    assert tree.name not in done.out + done.err and "many-" not in done.out + done.err


def test_a_reader_that_goes_away_ends_the_search(copied):
    pair, _tree = copied
    for daemon in (False, True):
        if daemon:
            pair.source.serve()
        process = pair.source.start(
            pair.source.command("search", "*", "--each"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None and process.stdout.readline()
            process.stdout.close()
            assert process.wait(30) in (0, 1)
            assert process.stderr is not None and process.stderr.read() == b""
