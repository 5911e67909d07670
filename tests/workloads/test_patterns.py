"""Globs, as people mean them."""

from __future__ import annotations

import pytest

from transporter.workloads.patterns import Patterns


@pytest.mark.parametrize(
    ("glob", "path", "as_exclude", "as_include"),
    [
        ("*.o", b"home/u/a/b.o", True, True),
        ("a", b"home/u/a", True, True),
        ("a", b"home/u/b/a", True, True),
        ("a/*", b"home/u/a/x/y", True, True),
        ("a/*", b"home/u/b/a/x", False, False),
        ("*/a/*", b"home/u/b/a/x", True, True),
        ("home/u/a", b"home/u/a", False, True),
        ("/home/u/a", b"home/u/a", True, True),
        ("/a", b"home/u/a", False, False),
        ("home/*", b"home/u/a", False, True),
        ("u", b"home/u", True, True),
        ("?.txt", "home/u/é.txt".encode(), True, True),
        ("?.txt", b"home/u/\xff.txt", True, True),
        (b"\xff*", b"home/u/\xff.txt", True, True),
        ("[ab]/x", b"home/u/b/x", True, True),
        ("A", b"home/u/a", False, False),
        ("x\ny", b"home/u/x\ny", True, True),
        ("dir/", b"home/u/dir", True, True),
    ],
)
def test_match(glob, path, as_exclude, as_include):
    assert Patterns([glob], stored=False).match(path, b"home/u") == as_exclude
    assert Patterns(["no such", glob], stored=True).match(path, b"home/u") == as_include


def test_the_root_of_the_file_system():
    assert Patterns(["proc"], stored=False).match(b"proc", b"")
    assert Patterns(["/proc/*"], stored=False).match(b"proc/1", b"")
    assert Patterns(["var/tmp"], stored=False).match(b"var/tmp", b"")


def test_nothing_means_nothing():
    assert not Patterns([], stored=True)
    assert not Patterns(["", "/"], stored=True)
    assert not Patterns([""], stored=True).match(b"a", b"")
