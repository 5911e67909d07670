"""Entries looked up in any order: against a plain model of the tree, and what is no tree."""

from __future__ import annotations

import os
from contextlib import closing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter.errors import DamagedData
from transporter.workloads.entry import CONTINUATION, MORE, Entry, pack_extents, pack_holes, path_key
from transporter.workloads.restore_path import DryWalk
from transporter.workloads.tree_attributes import AttributeReader
from transporter.workloads.tree_index import TreeIndexBuilder

ID = b"i" * 32
NAMES = st.sampled_from([b"a", b"a-b", b"a.b", b"b", b"\xff", b"a\n", b"zz", b" ", b"n" * 255])
PATHS = st.lists(NAMES, min_size=1, max_size=5).map(b"/".join)


def build(folder, roots, entries):
    builder = TreeIndexBuilder(folder, roots)
    try:
        builder.add(entries)
        return builder.finish()
    except BaseException:
        builder.close()
        raise


def file(path, data=b"x", **fields):
    fields = {"size": len(data), "packed_extents": pack_extents([(ID, 0, len(data))] if data else []), **fields}
    return Entry(path, "f", **fields)


def tree_of(roots, leaves):
    """The entries of a tree with these leaves, and of all folders on the way to them, in path order."""
    kinds = dict.fromkeys(roots, "d")
    for leaf in leaves:
        for root in roots:
            parts = leaf.split(b"/")
            for depth in range(1, len(parts)):
                kinds[root + b"/" + b"/".join(parts[:depth])] = "d"
    for leaf in leaves:
        for root in roots:
            kinds.setdefault(root + b"/" + leaf, "f")
    ordered = sorted(kinds, key=path_key)
    return [Entry(path, "d") if kinds[path] == "d" else file(path, path) for path in ordered]


def numbers_by_path(index):
    return {index.path(number): number for number in range(index.first_stored, index.count)}


@settings(max_examples=60, deadline=None)
@given(leaves=st.sets(PATHS, max_size=25), two=st.booleans(), absent=PATHS)
def test_every_entry_is_found_where_it_is_and_nowhere_else(tmp_path_factory, leaves, two, absent):
    roots = [b"srv/one", b"srv/two"] if two else [b"srv/one"]
    entries = tree_of(roots, leaves)
    with build(tmp_path_factory.mktemp("index"), roots, entries) as index:
        assert [index.path(n) for n in range(index.first_stored, index.count)] == [entry.path for entry in entries]
        numbers = numbers_by_path(index)
        for entry in entries:
            number = numbers[entry.path]
            assert index.entry(number) == entry
            assert index.find(entry.path) == index.find(b"/" + entry.path) == number
            below = [path for path in numbers if path.rpartition(b"/")[0] == entry.path]
            assert [index.path(child) for child in index.children(number)] == sorted(below)
            for path in below:
                assert index.child(number, path.rpartition(b"/")[2]) == numbers[path]
                assert index.parent(numbers[path]) == number
            assert index.folders_in(number) == sum(index.entry(numbers[path]).kind == "d" for path in below)
            # From any child on, as the kernel asks that has read the others.
            children = list(index.children(number))
            for at, child in enumerate(children):
                assert list(index.children(number, index.end(child))) == (
                    children[at + 1 :] if at + 1 < len(children) else []
                )
            assert index.child(number, b"not there") is None
        if b"srv/one/" + absent not in numbers:
            assert index.find(b"srv/one/" + absent) is None
        elif not two:
            # Also as one names it who thinks of the folder of the job.
            assert index.find(absent) == numbers[b"srv/one/" + absent]


def test_several_roots_lie_in_a_folder_of_our_own_under_their_names(tmp_path):
    roots = [b"etc/app", b"srv/app", b"srv/notes"]
    entries = [Entry(b"etc/app", "d"), file(b"etc/app/f"), Entry(b"srv/app", "d"), file(b"srv/notes")]
    with build(tmp_path, roots, entries) as index:
        top = {index.name(n, index.path(n)): n for n in index.children(0)}
        assert list(top) == [b"etc_app", b"srv_app", b"notes"]
        assert {name: index.child(0, name) for name in top} == top
        assert index.entry(0).kind == "d" and index.folders_in(0) == 2
        assert index.path(index.child(top[b"etc_app"], b"f")) == b"etc/app/f"
        assert index.end(0) == index.count == 5


def test_a_root_that_is_a_file_lies_in_a_folder(tmp_path):
    with build(tmp_path, [b"dev/disk.img"], [file(b"dev/disk.img")]) as index:
        assert [index.name(n, index.path(n)) for n in index.children(0)] == [b"disk.img"]


def test_the_root_of_the_whole_file_system(tmp_path):
    with build(tmp_path, [b""], [Entry(b"", "d"), Entry(b"etc", "d"), file(b"etc/f")]) as index:
        assert [index.path(n) for n in index.children(0)] == [b"etc"]
        assert index.path(index.child(1, b"f")) == b"etc/f"
        assert index.find(b"/etc/f") == 2


def test_no_entries_are_an_empty_folder(tmp_path):
    with build(tmp_path, [b"srv/gone"], []) as index:
        assert list(index.children(0)) == [] and index.child(0, b"x") is None


def test_a_continued_file_has_the_size_of_its_last_record(tmp_path):
    first = file(b"r/f", flags=MORE, size=99, packed_extents=pack_extents([(ID, 0, 10)]), nlink=2)
    second = Entry(
        b"r/f",
        "f",
        CONTINUATION | MORE,
        99,
        packed_extents=pack_extents([(ID, 1, 4)]),
        packed_holes=pack_holes([(10, 6)]),
    )
    last = Entry(b"r/f", "f", CONTINUATION, 23, packed_extents=pack_extents([(ID, 2, 3)]))
    again = Entry(b"r/g", "f", size=23, link=b"r/f", nlink=2)
    with build(tmp_path, [b"r"], [Entry(b"r", "d"), first, second, last, again]) as index:
        assert index.count == 3
        assert index.entry(1).size == 23
        assert [start for start, *_ in index.places(1)] == [0, 10, 20]
        assert [index.record_at(*place[1:]) for place in index.places(1)] == [first, second, last]
        assert index.hole_bytes(1, index.entry(1)) == 6
        assert index.places(0) is None
        assert (index.first_name(2), index.names_of(1)) == (1, 2)
        found = AttributeReader().read(index, 2)
        assert (found.number, found.size, found.nlink, found.blocks) == (1, 23, 2, 1)


def test_an_awkward_tree_reads_as_it_stands_on_the_disk(tmp_path, tree, backup):
    (tree / "one").write_bytes(b"1" * 5000)
    os.link(tree / "one", tree / "two")
    (tree / "sub").mkdir(0o750)
    (tree / "link").symlink_to("one")
    os.link(tree / "link", tree / "link 2", follow_symlinks=False)
    with open(tree / "sparse", "wb") as sparse:
        sparse.seek(1 << 20)
        sparse.write(b"end")
    os.mkfifo(tree / "fifo")
    copy = backup(tree)
    with build(tmp_path, copy.roots, copy.entries) as index:
        reader = AttributeReader()
        inodes = {}
        for number in range(1, index.count):
            found, state = reader.read(index, number), os.lstat(b"/" + index.path(number))
            assert (found.mode, found.uid, found.gid) == (state.st_mode, state.st_uid, state.st_gid)
            assert (found.mtime_ns, found.nlink) == (state.st_mtime_ns, state.st_nlink)
            if found.mode & 0o170000 != 0o040000:
                assert found.size == state.st_size
            assert inodes.setdefault(found.number, state.st_ino) == state.st_ino
        sparse_number = index.find(b"sparse")
        assert reader.read(index, sparse_number).blocks < 2048
        assert len(inodes) == index.count - 3


HOSTILE = {
    "out of order": [Entry(b"r", "d"), file(b"r/b"), file(b"r/a")],
    "twice": [Entry(b"r", "d"), file(b"r/a"), file(b"r/a")],
    "dots": [Entry(b"r", "d"), file(b"r/..")],
    "no folder": [Entry(b"r", "d"), file(b"r/a/b")],
    "beneath a link": [Entry(b"r", "d"), Entry(b"r/l", "l", target=b"/etc"), file(b"r/l/passwd")],
    "outside the roots": [Entry(b"q", "d")],
    "a long name": [Entry(b"r", "d"), file(b"r/" + b"n" * 256)],
    "extents too short": [Entry(b"r", "d"), file(b"r/a", size=2)],
    "breaks off": [Entry(b"r", "d"), file(b"r/a", flags=MORE), file(b"r/b")],
    "ends within": [Entry(b"r", "d"), file(b"r/a", flags=MORE)],
    "a continued folder": [Entry(b"r", "d", MORE)],
    "goes on with nothing": [Entry(b"r", "d"), file(b"r/a", flags=CONTINUATION)],
}


@pytest.mark.parametrize("how", HOSTILE)
def test_what_no_restore_takes_is_refused(tmp_path, how):
    with pytest.raises(DamagedData):
        build(tmp_path, [b"r"], HOSTILE[how])


def test_a_link_to_nothing_is_refused(tmp_path):
    with pytest.raises(DamagedData, match="not in the manifest"):
        build(tmp_path, [b"r"], [Entry(b"r", "d"), Entry(b"r/l", "f", link=b"r/gone", nlink=2)])
    # Nor may a folder have a second name.
    with pytest.raises(DamagedData, match="not in the manifest"):
        build(
            tmp_path, [b"r"], [Entry(b"r", "d"), Entry(b"r/d", "d", nlink=2), Entry(b"r/l", "f", link=b"r/d", nlink=2)]
        )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            Entry,
            st.sampled_from([b"r", b"r/a", b"r/b", b"r/a/c", b"r/..", b"q"]),
            st.sampled_from("fdl"),
            st.sampled_from([0, MORE, CONTINUATION, MORE | CONTINUATION]),
        ),
        max_size=6,
    )
)
def test_it_takes_what_a_restore_takes_and_no_more(tmp_path_factory, entries):
    def restore_takes():
        walk = DryWalk([b"r"])
        for entry in entries:
            walk.take(msgspec.structs.replace(entry))
        walk.finish()

    def index_takes():
        with build(tmp_path_factory.mktemp("index"), [b"r"], entries):
            pass

    def refused(what):
        try:
            what()
        except DamagedData:
            return True
        return False

    assert refused(index_takes) == refused(restore_takes)


def test_giving_up_closes_everything(tmp_path):
    with closing(TreeIndexBuilder(tmp_path, [b"r"])) as builder:
        builder.add([Entry(b"r", "d")])


def test_rows_of_open_folders_are_corrected_when_they_were_written_already(tmp_path):
    """More entries than are gathered before rows leave memory."""
    entries = [Entry(b"r", "d"), Entry(b"r/a", "d")]
    entries += [file(b"r/a/%06d" % n) for n in range(9000)]
    entries += [Entry(b"r/a/sub", "d"), file(b"r/a/sub/x"), Entry(b"r/b", "d")]
    builder = TreeIndexBuilder(tmp_path, [b"r"])
    for at in range(0, len(entries), 500):
        builder.add(entries[at : at + 500])
    with builder.finish() as index:
        assert index.end(0) == index.count == len(entries)
        assert (index.folders_in(0), index.folders_in(1)) == (2, 1)
        assert len(list(index.children(1))) == 9001
        assert index.path(index.child(1, b"004711")) == b"r/a/004711"
        assert index.end(1) == index.count - 1
