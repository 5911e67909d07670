"""`ls`, `find`, `diff` and `cat` by their commands: with the daemon and without it, in every form."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from e2e_node import PASSWORD, ended, sealed
from e2e_trees import small_tree


@pytest.fixture
def copied(new_pair, tmp_path):
    pair = new_pair()
    tree = small_tree(tmp_path / "tree")
    (tree / os.fsdecode(b"odd\xff\n")).write_text("odd")
    (tree / "link").symlink_to("big.bin")
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    (tree / "new").write_text("new")
    (tree / "folder-0" / "file-00.txt").write_text("changed")
    pair.source.job("run", "docs")
    return pair, tree


def rows(done):
    return [line for line in done.objects if "event" not in line]


def names(done):
    return [line["path"].rpartition("/")[2] for line in rows(done)]


def raw(node, *arguments, options=()):
    command = node.command(*arguments, options=options)
    process = node.start(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_lines_with_the_daemon_and_without_it_are_the_same(copied):
    pair, tree = copied
    first, second = (row["point"] for row in pair.source.points("docs"))
    asked = (
        ("ls", "docs"),
        ("ls", "docs", "latest", "folder-0", "-l"),
        ("ls", "docs", "latest", "-R"),
        ("find", "docs", "latest", "file-0?.txt", "new", "--size", "<1M"),
        ("diff", "docs", first),
        ("diff", "docs", first, second, "folder-0"),
    )
    forms = (("--json",), ("--quiet",), ())
    without = [[pair.source.ok(*words, options=form).out for form in forms] for words in asked]
    content = raw(pair.source, "cat", "docs", "latest", "big.bin").stdout
    pair.source.serve()
    for words, outputs in zip(asked, without, strict=True):
        for form, output in zip(forms, outputs, strict=True):
            again = pair.source.ok(*words, options=form).out
            # Only the port that a peer is dialled at may stand there, and it does not change.
            assert again == output, words
    assert raw(pair.source, "cat", "docs", "latest", "big.bin").stdout == content == (tree / "big.bin").read_bytes()


def test_listings_in_every_form(copied):
    pair, tree = copied
    done = pair.source.ok("ls", "docs")
    listing = {line["path"].rpartition("/")[2]: line for line in rows(done)}
    assert list(listing) == ["big.bin", *(f"folder-{n}" for n in range(4)), "link", "new", "odd\\xff\\n"]
    big, odd, state = listing["big.bin"], listing["odd\\xff\\n"], (tree / "big.bin").stat()
    assert (big["type"], big["size"], big["mtime_ns"]) == ("f", state.st_size, state.st_mtime_ns)
    assert (big["mode"], big["uid"], big["gid"]) == (f"{state.st_mode & 0o7777:04o}", state.st_uid, state.st_gid)
    assert bytes.fromhex(odd["path_hex"]) == os.fsencode(tree)[1:] + b"/odd\xff\n" and "path_hex" not in big
    assert listing["link"]["target"] == "big.bin"
    lines = pair.source.ok("ls", "docs", "-l", options=()).out.splitlines()
    assert lines[0].startswith("-rw") and lines[0].endswith("tree/big.bin") and f"{state.st_size:,}" in lines[0]
    assert lines[5].startswith("lrwxrwxrwx") and lines[5].endswith("link -> big.bin")
    assert pair.source.ok("ls", "docs", "-l", options=("--quiet",)).out.splitlines()[0].endswith("tree/big.bin")
    assert pair.source("ls", "docs", "latest", "nope").failed["code"] == "usage"
    assert pair.source("ls", "nobody").status == 3
    assert pair.source("ls", "docs", "latest", "--from", "nowhere").status == 2


def test_findings_and_differences(copied):
    pair, _tree = copied
    first, _second = (row["point"] for row in pair.source.points("docs"))
    assert names(pair.source.ok("find", "docs", first, "new", "big*")) == ["big.bin"]
    assert names(pair.source.ok("find", "docs", "latest", "new", "big*")) == ["big.bin", "new"]
    assert "nothing found" in pair.source.ok("find", "docs", first, "new", options=()).err
    for wrong in (("--size", "big"), ("--type", "x"), ("--modified-after", "yesterday")):
        assert pair.source("find", "docs", "latest", "*", *wrong).status == 2, wrong
    done = pair.source.ok("diff", "docs", first)
    assert {name: (line["change"], line.get("what")) for name, line in zip(names(done), rows(done), strict=True)} == {
        "file-00.txt": ("changed", ["content", "time"]),
        "new": ("added", None),
    }
    text = pair.source.ok("diff", "docs", first, options=())
    assert [line[:2] for line in text.out.splitlines()] == ["M ", "+ "]
    assert "1 added, 0 removed, 1 changed" in text.err


def test_nothing_but_the_file_is_on_stdout_of_cat(copied):
    pair, tree = copied
    data = (tree / "big.bin").read_bytes()
    for options in ((), ("--json",), ("--quiet",)):
        done = raw(pair.source, "cat", "docs", "latest", "big.bin", options=options)
        assert (done.returncode, done.stdout) == (0, data)
        for line in done.stderr.splitlines():
            assert options == ("--json",) and json.loads(line)["event"] == "link_up"
    assert raw(pair.source, "cat", "docs", "latest", b"odd\xff\n".decode("utf-8", "surrogateescape")).stdout == b"odd"
    for path, what in (("link", b"a symbolic link to 'big.bin'"), ("folder-0", b"a folder"), ("nope", b"holds no")):
        done = raw(pair.source, "cat", "docs", "latest", path, options=("--json",))
        assert (done.returncode, done.stdout) == (2, b"") and what in done.stderr
        assert [json.loads(line)["code"] for line in done.stderr.splitlines() if b'"job_failed"' in line] == ["usage"]


def test_readers_that_go_away_end_the_command(copied):
    pair, _tree = copied
    for daemon in (False, True):
        if daemon:
            pair.source.serve()
        for words in (("cat", "docs", "latest", "big.bin"), ("ls", "docs", "latest", "-R")):
            process = pair.source.spawn(*words)
            assert process.stdout is not None and process.stdout.read(10)
            process.stdout.close()
            process.stdout = None
            done = ended(process)
            assert done.status in (0, 1)
            assert "Traceback" not in done.err and "interrupted" not in done.err, "nothing that calls for another run"


def test_the_password_of_a_point_that_this_home_does_not_open(copied):
    pair, tree = copied
    here = ("--from", "main")
    assert pair.target("ls", "docs", *here).failed["code"] == "no-key"
    file = pair.folder / "typed"
    file.write_text("wrong")
    assert pair.target("ls", "docs", *here, "--password-file", file).failed["code"] == "wrong-password"
    file.write_bytes(PASSWORD)
    assert "big.bin" in names(pair.target.ok("ls", "docs", *here, "--password-file", file))
    done = raw(pair.target, "cat", "docs", "latest", "new", *here, "--password-file", str(file))
    assert done.stdout == b"new"
    assert tree.name not in pair.target("ls", "docs", *here).out
