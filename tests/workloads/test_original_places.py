"""In place to where everything was: several roots, files among them, and files with a name in each."""

from __future__ import annotations

import os
import shutil

import pytest
from blake3 import blake3

from transporter.errors import DamagedData, UsageError
from transporter.workloads.entry import UNTRUSTED, Entry
from transporter.workloads.original_places import OriginalPlaces
from transporter.workloads.selection import Selection
from transporter.workloads.tree_restore import TreeWriter


def restore(copy, *, selection=None, **how):
    selection = selection or Selection()

    def open_one(output, roots, links, serial):
        return TreeWriter(
            output,
            "p",
            roots,
            selection=selection,
            links=links,
            others=False,
            order="o" + serial,
            in_place=True,
            id_of=lambda data: blake3(data).digest(),
            **how,
        )

    writer = OriginalPlaces(copy.roots, selection, open_one)
    try:
        for group in [*writer.place(copy.entries), *writer.end()]:
            writer.write_group(group, memoryview(copy.chunks[group.chunk_id]))
        writer.finish()
        writer.publish()
    finally:
        writer.abort()
    return writer


@pytest.fixture
def places(tree, tmp_path, backup):
    """Two folders and two files in one more folder, a file with a name in each; and a copy of all."""
    for name in ("one", "two", "etc"):
        (tree / name).mkdir()
        (tree / name / "file").write_bytes(name.encode() * 1000)
    (tree / "etc" / "conf").write_bytes(b"c" * 100)
    os.link(tree / "one" / "file", tree / "two" / "twin")
    os.link(tree / "one" / "file", tree / "two" / "third")
    copy = backup(tree / "one", tree / "two", tree / "etc" / "file", tree / "etc" / "conf")
    for entry in copy.entries:
        entry.flags &= ~UNTRUSTED
    shutil.copytree(tree, tmp_path / "before", symlinks=True)
    return tree, copy, tmp_path / "before"


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_each_root_goes_to_its_place(places):
    tree, copy, before = places
    assert (restore(copy).take_notes(), contents(tree)) == ([], contents(before))
    (tree / "one" / "file").unlink()
    (tree / "one" / "more").write_bytes(b"m")
    (tree / "two" / "twin").unlink()
    (tree / "etc" / "conf").write_bytes(b"changed")
    (tree / "etc" / "other").write_bytes(b"nobody asked")
    done = restore(copy, delete=True)
    assert done.take_notes() == []
    assert contents(tree) == {**contents(before), "etc/other": b"nobody asked"}
    assert len({(tree / name).stat().st_ino for name in ("one/file", "two/twin", "two/third")}) == 1
    assert (done.files, done.unchanged) == (6, 2)  # two/file and etc/file


def test_a_place_that_is_gone_is_made(places):
    tree, copy, before = places
    shutil.rmtree(tree / "two")
    shutil.rmtree(tree / "etc")
    restore(copy)
    assert contents(tree) == contents(before)
    assert len({(tree / name).stat().st_ino for name in ("one/file", "two/twin", "two/third")}) == 1


def test_what_is_asked_for_may_be_in_any_of_them(places):
    tree, copy, _before = places
    (tree / "etc" / "conf").unlink()
    (tree / "two" / "file").unlink()
    done = restore(copy, selection=Selection(["conf", "nope"]))
    assert [note.path for note in done.take_notes()] == [b"nope"]
    assert (tree / "etc" / "conf").exists() and not (tree / "two" / "file").exists()
    with pytest.raises(UsageError, match="nothing"):
        restore(copy, selection=Selection(["nope"]))


def test_a_failure_leaves_nothing(places):
    tree, copy, _before = places
    (tree / "one" / "file").write_bytes(b"changed")
    now = contents(tree)
    copy.entries.append(Entry(b"zzz", "f"))
    with pytest.raises(DamagedData):
        restore(copy)
    assert contents(tree) == now
    assert list(tree.rglob(".transporter*")) == []
