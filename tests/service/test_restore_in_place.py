"""Restores in place over a real link: what differs is fetched, and nothing else."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from world import contents

from transporter.errors import UsageError
from transporter.events import FilePlanned, FileSkipped, JobFinished
from transporter.jobs.restore import RestoreOrder, run_restore
from transporter.workloads.write_messages import Wish


async def finished(node, **how) -> JobFinished:

    order = RestoreOrder("docs", "latest", str(node.tree), [], False, "", b"", "", Wish(in_place=True))
    return await run_restore(node.context, replace(order, **how))


async def test_only_what_differs_comes_over_the_line(world):
    node = world.source
    await node.backup()
    before = contents(node.tree)
    done = await finished(node)
    assert (done.chunks, done.bytes_written, done.files_unchanged) == (0, 0, done.files)
    (node.tree / "sub" / "file-3").write_text("altered")
    with (node.tree / "large").open("r+b") as file:
        file.write(b"altered")
    (node.tree / "more").write_text("not in the point")
    done = await finished(node, wish=Wish(in_place=True, delete=True))
    assert contents(node.tree) == before
    assert 0 < done.bytes_written < sum(map(len, before.values()))
    assert done.files_unchanged == done.files - 2


async def test_every_name_of_a_file_counts_as_in_place_and_nothing_that_is_no_file(world):
    node = world.source
    os.link(node.tree / "large", node.tree / "sub" / "twin")
    for name in ("one", "other"):  # not as many as further names: one mistake must not make up for the other
        (node.tree / name).symlink_to("large")
    await node.backup()
    done = await finished(node)
    assert done.files_unchanged == done.files == len([*node.tree.rglob("*")]) - 3  # sub, and the links


async def test_forged_times_are_found_by_content(world):
    node = world.source
    await node.backup()
    before = contents(node.tree)
    out = await node.restore(output="copy")
    path = out / "large"
    state = path.stat()
    path.write_bytes(b"x" * state.st_size)
    os.utime(path, ns=(state.st_mtime_ns,) * 2)
    done = await finished(node, output=str(out))
    assert (done.bytes_written, contents(out) == before) == (0, False)
    done = await finished(node, output=str(out), wish=Wish(in_place=True, compare=True))
    assert contents(out) == before
    assert done.files_unchanged == done.files - 1


async def test_a_dry_run_only_says(world):
    node = world.source
    await node.backup()
    (node.tree / "sub" / "file-3").write_text("altered")
    (node.tree / "more").write_text("not in the point")
    before = contents(node.tree)
    done = await finished(node, wish=Wish(in_place=True, delete=True, dry_run=True))
    root = os.fsdecode(node.tree).lstrip("/")
    said = {(event.what, event.path) for event in node.seen(FilePlanned)}
    assert said == {("changed", f"{root}/sub/file-3"), ("removed", f"{root}/more")}
    assert (contents(node.tree), done.bytes_written) == (before, 0)


async def test_what_is_asked_for_and_not_there_is_a_gap(world):
    node = world.source
    await node.backup()
    done = await finished(node, output=str(world.folder / "some"), wish=Wish(paths=[b"sub/file-1", b"sub/none"]))
    assert done.files_skipped == 1
    assert [event.path for event in node.seen(FileSkipped)] == ["sub/none"]
    assert list(contents(world.folder / "some")) == ["sub/file-1"]
    with pytest.raises(UsageError, match="nothing in the restore point"):
        await finished(node, output=str(world.folder / "none"), wish=Wish(paths=[b"nope"]))
    assert not (world.folder / "none").exists()
