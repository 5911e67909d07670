"""Restores to a stream and onto a device over a real link, and restores that were interrupted."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import tarfile
from dataclasses import replace

import pytest
import trio
from msgspec import structs
from test_healed import lose_the_longest_chunk
from world import contents

from transporter.errors import DamagedData, DiskFull, LinkLost, UsageError
from transporter.events import Note, RangeLost
from transporter.jobs.restore import RestoreOrder, run_restore
from transporter.jobs.tree_writing import TreeWriting
from transporter.workloads.write_messages import Wish


async def streamed(node, **how) -> bytes:
    """What a restore to a stream writes; its last event is in ``streamed.done``."""
    wish = Wish(**how)
    read, write = os.pipe()
    order = RestoreOrder("docs", "latest", "", [], False, "", b"", "", wish, write)
    parts = []

    async def restore():
        try:
            streamed.done = await run_restore(node.context, order)
        finally:
            os.close(write)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(restore)
        while part := await trio.to_thread.run_sync(os.read, read, 1 << 20):
            parts.append(part)
    os.close(read)
    return b"".join(parts)


async def test_one_file_and_a_tree_as_streams(world):
    node = world.source
    await node.backup()
    assert await streamed(node, include=["large"]) == (node.tree / "large").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(await streamed(node, tar=True))) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}
    assert found == contents(node.tree)
    assert streamed.done.files == len(found)


async def test_a_stream_to_a_full_disk_says_where(world):
    node = world.source
    await node.backup()
    with open("/dev/full", "wb") as full, pytest.raises(DiskFull, match="no room left for /dev/full"):
        order = RestoreOrder("docs", "latest", "", [], False, "", b"", "", Wish(tar=True), full.fileno())
        await run_restore(node.context, order)


async def test_a_restore_to_a_full_disk_says_where(world, monkeypatch, tmp_path):
    node = world.source
    await node.backup()
    monkeypatch.setattr(
        "transporter.jobs.tree_writing.failure_to_error", lambda _failed: OSError(errno.ENOSPC, "No space left")
    )
    # In the way: the writer fails.
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(DiskFull, match=f"no room left for {tmp_path}/out"):
        await run_restore(node.context, RestoreOrder("docs", "latest", str(tmp_path / "out"), [], False, "", b"", ""))


async def test_a_stream_with_damage_is_cut_or_has_zeros(world):
    node = world.source
    (node.tree / "huge").write_bytes(bytes(range(256)) * 40_000)
    await node.backup()
    lose_the_longest_chunk(world)
    whole = (node.tree / "huge").read_bytes()
    with pytest.RaisesGroup(DamagedData, flatten_subgroups=True, allow_unwrapped=True):
        await streamed(node, include=["huge"])
    data = bytearray(await streamed(node, include=["huge"], keep_going=True))
    assert streamed.done.files_damaged == 1 and len(data) == len(whole)
    for lost in node.seen(RangeLost):
        assert data[lost.offset : lost.offset + lost.length] == bytes(lost.length)
        data[lost.offset : lost.offset + lost.length] = whole[lost.offset : lost.offset + lost.length]
    assert data == whole


async def test_an_interrupted_restore_goes_on_with_what_it_has(world, monkeypatch):
    node = world.source
    await node.backup()
    place = world.folder / "again"
    order = RestoreOrder("docs", "latest", str(place), [], False, "", b"", "")
    real = TreeWriting.finish

    async def broken(self):
        await real(self)
        raise LinkLost("the line is gone", "try again")

    with monkeypatch.context() as patch:
        patch.setattr(TreeWriting, "finish", broken)
        with pytest.raises(LinkLost):
            await run_restore(node.context, order)
    (left,) = os.listdir(place)
    assert left.startswith(".transporter-restore-")
    done = await run_restore(node.context, order)
    assert (done.chunks, done.bytes_written) == (0, 0)
    assert contents(place) == contents(node.tree)
    assert [note for note in node.seen(Note) if "goes on with what" in note.text]


async def test_an_error_of_another_kind_leaves_nothing(world, monkeypatch):
    node = world.source
    await node.backup()
    order = RestoreOrder("docs", "latest", str(world.folder / "none"), [], False, "", b"", "")

    async def broken(_self):
        raise DamagedData("no", "no")

    monkeypatch.setattr(TreeWriting, "finish", broken)
    with pytest.raises(DamagedData):
        await run_restore(node.context, order)
    assert not (world.folder / "none").exists()


@pytest.fixture
def loop(world):
    file = world.folder / "disk"
    file.write_bytes(b"")
    os.truncate(file, 4 << 20)
    done = subprocess.run(["losetup", "-f", "--show", file], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no loop device")
    yield done.stdout.strip()
    subprocess.run(["losetup", "-d", done.stdout.strip()], check=True)


async def test_an_image_onto_a_device(world, loop):
    node = world.source
    image = world.folder / "image"
    image.write_bytes(os.urandom(2 << 20) + bytes(1 << 20) + os.urandom(4096))
    jobs = {**node.config.jobs, "docs": structs.replace(node.config.jobs["docs"], paths=[str(image)], workload="image")}
    node.config = structs.replace(node.config, jobs=jobs)
    await node.backup()
    order = RestoreOrder("docs", "latest", loop, [], True, "", b"", "", Wish(onto=True))
    assert (await run_restore(node.context, order)).chunks == 3
    with open(loop, "r+b") as device:
        assert device.read()[: image.stat().st_size] == image.read_bytes()
        device.seek(1 << 20)
        device.write(b"changed")
    assert (await run_restore(node.context, order)).chunks == 1
    with pytest.raises(UsageError, match="would be overwritten"):
        await run_restore(node.context, replace(order, overwrite=False))
    assert await streamed(node) == image.read_bytes()
