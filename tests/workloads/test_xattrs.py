from __future__ import annotations

import errno
import os

import pytest


@pytest.mark.parametrize(("number", "noted"), [(errno.EACCES, True), (errno.EIO, True), (errno.ENODATA, False)])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_an_attribute_that_is_listed_and_cannot_be_read_is_a_gap(tree, backup, monkeypatch, number, noted, kind):
    """One that vanished between the two is none."""
    tree.joinpath("here").mkdir()
    tree.joinpath("here", "file").write_bytes(b"content")
    tree.joinpath("here", "folder").mkdir()
    tree.joinpath("here", "link").symlink_to("file")

    def here(target):
        path = os.readlink(f"/proc/self/fd/{target}").encode() if isinstance(target, int) else target
        return path.endswith(b"/" + kind.encode())

    def getxattr(target, name, **_how):
        if name == "user.secret":
            raise OSError(number, os.strerror(number))
        return b"value"

    monkeypatch.setattr(os, "listxattr", lambda target, **_how: ["user.open", "user.secret"] if here(target) else [])
    monkeypatch.setattr(os, "getxattr", getxattr)
    copy = backup(tree / "here")
    assert copy.entry(kind).xattrs == {b"user.open": b"value"}
    assert [(note.code, note.gap, b"user.secret" in note.text.encode()) for note in copy.notes] == [
        ("xattrs-dropped", True, True)
    ] * noted
