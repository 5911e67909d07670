from __future__ import annotations

import json

import pytest

from loadtest import corpus, roofline
from loadtest.__main__ import parse
from loadtest.bench import Options, QuietTime, choose, one_round, turns, work_folder
from loadtest.measure import BenchError, Usage
from loadtest.peers.base import Peer, Result
from loadtest.peers.ours import job_finished
from loadtest.peers.registry import CONTENDERS, ON_REQUEST
from loadtest.peers.roofline import parse as parse_roofline


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for folder in ("a/deep/er", "b", "c"):
        (root / folder).mkdir(parents=True)
        for number in range(5):
            (root / folder / f"{number}.txt").write_bytes(f"{folder} {number}\n".encode() * 30_000)
    (root / "top").write_bytes(b"top")
    (root / "link").symlink_to("top")
    return root


def test_names_select_by_beginning_and_exactly(tmp_path):
    assert {peer.name for peer in choose(Options(tmp_path))[0]} <= {peer.name for peer in CONTENDERS}
    names = [peer.name for peer in choose(Options(tmp_path, only=("transporter (source)", "roofline")))[0]]
    assert names == ["transporter (source)", "roofline"]
    everything_ours = [peer.name for peer in choose(Options(tmp_path, only=("transporter",)))[0]]
    assert len(everything_ours) == 3
    on_request = ON_REQUEST[0].name
    assert on_request not in everything_ours
    assert [peer.name for peer in choose(Options(tmp_path, only=(on_request,)))[0]] == [on_request]
    with pytest.raises(BenchError, match="no contender is called so"):
        choose(Options(tmp_path, only=("nobody",)))


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    peers, missing = choose(Options(tmp_path, only=("restic", "roofline")))
    assert [peer.name for peer in peers] == ["roofline"]
    assert "restic" in missing["restic"]


def test_everyone_comes_first_once():
    peers = [object.__new__(peer) for peer in CONTENDERS]
    able = [peer for peer in peers if "tree-again" in peer.works]
    firsts = [turns(peers, "tree-again", number)[0] for number in range(len(able))]
    assert firsts == able
    assert set(turns(peers, "tree-again", 1)) == set(able)


def test_the_command_line_needs_no_word():
    assert parse([]).runs == 3
    assert parse(["bench", "--runs", "5", "--works", "tree-again"]).works == ("tree-again",)


def test_the_image_is_the_same_every_time_and_whole_mebibytes(tree, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    corpus.make_image(tree, one)
    corpus.make_image(tree, two)
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size % corpus.MIB == 0


def test_warming_counts_every_entry_and_reads_every_byte(tree):
    entries, size = corpus.warm(tree)
    assert entries == 5 + 15 + 2
    assert size == sum(path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink())


def test_a_missing_tree_is_an_error(tmp_path):
    with pytest.raises(BenchError, match="no folder"):
        corpus.prepare(tmp_path, tmp_path / "nothing", None, quick=False)


def test_portions_cover_every_file_once(tree):
    found = [path for folder, deep in roofline.portions(tree) for path, _ in roofline.walk(folder, deep=deep)]
    expected = [str(path) for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sorted(found) == sorted(expected)


def test_the_last_event_of_a_job_is_found():
    output = 'noise\n{"event": "progress"}\n{"event": "job_finished", "bytes_sent": 7}\n'
    assert job_finished(output)["bytes_sent"] == 7
    assert job_finished("[]\nnothing") == {}


def test_the_rooflines_answer_is_read():
    end = {"cpu": 1.0, "peak": 5, "bytes": 9}
    result = parse_roofline(json.dumps({"seconds": 2.0, "lanes": 2, "source": end, "target": end}))
    assert (result.seconds, result.stored, result.source.peak) == (2.0, 9, 5)


@pytest.mark.parametrize("kind", ["image", "tree"])
def test_the_roofline_moves_every_byte(tree, tmp_path, kind):
    # lz4 is undone and AES-GCM authenticates on the way, so the check is that all plain bytes went through the sealer.
    image = tmp_path / "image"
    corpus.make_image(tree, image)

    class Counting:
        total = 0

        def send(self, plain):
            self.total += len(plain)

    numbers = iter(range(10**6))
    sealer = Counting()
    if kind == "image":
        roofline.send_image(image, lambda: next(numbers), sealer)
        assert sealer.total == image.stat().st_size
    else:
        roofline.send_tree(tree, lambda: next(numbers), sealer)
        assert sealer.total == corpus.warm(tree)[1]


class Fake(Peer):
    """Does everything at once, except what it cannot."""

    name = "fake"
    needs_ssh = False
    left = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        type(self).left = True

    def copy(self, what, source):
        if what == "image":
            raise BenchError("no image today")
        return Result(1.0, Usage(1.0, 1), Usage(1.0, 1))

    def restore(self, what, output):
        (output / "file").write_bytes(b"x")
        return Result(1.0, Usage(1.0, 1), Usage(1.0, 1))


def test_a_failed_work_is_noted_and_the_others_go_on(tree, tmp_path, capsys):
    corpora = corpus.Corpora(tree, tree / "top", "tree", 1, 1, 1)
    failures, place = [], tmp_path / "round"
    quiet = QuietTime()
    rows = list(one_round(0, [Fake], corpora, Options(tmp_path), place, None, quiet, failures))
    assert [row.work for row in rows] == ["image-restore", "tree-first", "tree-again", "tree-restore"]
    assert failures == ["fake, image-first, round 1: no image today"]
    assert Fake.left
    assert not place.exists()


def test_everything_temporary_goes_even_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), work_folder(Options(tmp_path, work=tmp_path / "work")) as folder:
        (folder / "file").write_bytes(b"x")
        raise ZeroDivisionError
    assert not folder.exists()
