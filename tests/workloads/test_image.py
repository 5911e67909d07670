"""Images: only blocks with data in them are read and stored, and what comes back is equal and as sparse."""

from __future__ import annotations

import hashlib
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transporter.errors import JobFailed, UsageError
from transporter.workloads import image
from transporter.workloads.entry import CONTINUATION, MORE, PAGED
from transporter.workloads.image import BLOCK_LENGTH, ImageManifest, ImageReader, is_zero
from transporter.workloads.tree_restore import TreeWriter


def back_up(path, buffer_length=4 << 20):
    reader = ImageReader(os.fsencode(path))
    manifest = ImageManifest(reader.entry())
    buffer = memoryview(bytearray(buffer_length))
    chunks, entries = {}, []
    while blocks := reader.next_blocks(buffer):
        for offset, length, at in blocks:
            assert offset % BLOCK_LENGTH == 0
            data = bytes(buffer[at : at + length])
            chunk_id = hashlib.sha256(data).digest()
            chunks[chunk_id] = data
            manifest.add(chunk_id, offset, length)
        entries += manifest.take_ready()
    assert reader.finished
    manifest.finish()
    entries += manifest.take_ready()
    reader.close()
    return reader, entries, chunks


def restore(reader, entries, chunks, output):
    with TreeWriter(output, "p", reader.roots) as writer:
        for group in writer.plan(iter(entries)):
            assert group.large or len(chunks[group.chunk_id]) < BLOCK_LENGTH
            writer.write_group(group, memoryview(chunks[group.chunk_id]))
        writer.finish()
        writer.publish()
    assert writer.take_notes() == []


@pytest.fixture
def disk(tmp_path):
    rng = random.Random(8)
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.write(rng.randbytes(3_000_000))
        file.write(bytes(5_000_000))  # zeros that occupy room
        file.seek(20 << 20)
        file.write(rng.randbytes(5000))
        file.seek((30 << 20) + 123_456)
        file.write(b"end")
        file.truncate((33 << 20) + 1)
        os.fsync(file.fileno())
    return path


def test_round_trip(disk, tmp_path):
    reader, entries, chunks = back_up(disk)
    assert reader.bytes_read <= 6 << 20
    assert reader.bytes_total == (33 << 20) + 1
    restore(reader, entries, chunks, tmp_path / "out")
    restored = tmp_path / "out" / "disk.img"
    assert restored.read_bytes() == disk.read_bytes()
    assert restored.stat().st_blocks <= disk.stat().st_blocks
    assert restored.stat().st_mtime_ns == disk.stat().st_mtime_ns
    restored_again = back_up(restored)
    assert restored_again[2].keys() == chunks.keys()


def test_records_are_split(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(image, "MAX_RECORD_EXTENTS", 2)
    reader, entries, chunks = back_up(disk, BLOCK_LENGTH)
    assert [e.flags & (MORE | CONTINUATION | PAGED) for e in entries] == [
        MORE | PAGED, MORE | CONTINUATION | PAGED, CONTINUATION | PAGED,
    ]  # fmt: skip
    restore(reader, entries, chunks, tmp_path / "out")
    assert (tmp_path / "out" / "disk.img").read_bytes() == disk.read_bytes()


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
@pytest.mark.parametrize("fill", [b"\0", b"x"])
def test_small_images(tmp_path, size, fill):
    path = tmp_path / "i"
    path.write_bytes(fill * size)
    reader, entries, chunks = back_up(path)
    assert sum(map(len, chunks.values())) <= (0 if fill == b"\0" else size)
    restore(reader, entries, chunks, tmp_path / "out")
    assert (tmp_path / "out" / "i").read_bytes() == fill * size


def test_an_image_that_becomes_shorter_fails_the_job(disk):
    reader = ImageReader(os.fsencode(disk))
    os.truncate(disk, 10)
    with pytest.raises(JobFailed, match="shorter"):
        reader.next_blocks(memoryview(bytearray(4 << 20)))
    reader.close()


def test_an_image_that_changes_is_noted(disk):
    reader = ImageReader(os.fsencode(disk))
    assert reader.take_notes() == []
    disk.write_bytes(b"other")
    assert [n.code for n in reader.take_notes()] == ["changed"]
    reader.close()


def test_what_is_no_image(tmp_path):
    for path in (tmp_path, tmp_path / "missing", "/dev/null"):
        with pytest.raises(UsageError):
            ImageReader(os.fsencode(path))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 200_000), st.lists(st.integers(0, 199_999), max_size=2))
def test_is_zero(length, places):
    data = bytearray(length)
    for place in places:
        if place < length:
            data[place] = 1
    assert is_zero(memoryview(data)) == (not any(data))
