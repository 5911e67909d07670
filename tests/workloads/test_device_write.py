"""An image onto a block device: real loop devices where the machine lends any, else a file stands in for the device."""

from __future__ import annotations

import os
import random
import subprocess

import pytest
from blake3 import blake3

from transporter.errors import DamagedData, UsageError
from transporter.workloads.device_write import DeviceWriter, open_device
from transporter.workloads.entry import PAGED, Entry, pack_extents, pack_holes
from transporter.workloads.image import ImageManifest, ImageReader

MIB = 1 << 20


def id_of(data) -> bytes:
    return blake3(data).digest()


class Device:
    """Something to write onto. ``real``: a loop device."""

    def __init__(self, file, size):
        self.file = file
        file.write_bytes(b"")
        os.truncate(file, size)
        done = subprocess.run(["losetup", "-f", "--show", file], capture_output=True, text=True, check=False)
        self.real = done.returncode == 0
        self.path = done.stdout.strip() if self.real else str(file)

    def writer(self, roots, **how):
        open_it = open_device if self.real else lambda path: os.open(path, os.O_RDWR)
        return DeviceWriter(os.fsencode(self.path), roots, id_of, **{"overwrite": True, "open_it": open_it, **how})

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            return file.read()

    def end(self):
        if self.real:
            subprocess.run(["losetup", "-d", self.path], check=True)


@pytest.fixture
def device(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("block devices are root's")
    made = []

    def make(size):
        made.append(Device(tmp_path / f"device-{len(made)}", size))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def image(tmp_path):
    """An image of some blocks, its roots, its entries, and its chunks."""
    rng = random.Random(3)
    path = tmp_path / "image"
    with path.open("wb") as file:
        for number in (0, 1, 3, 6):
            file.seek(number * MIB)
            file.write(rng.randbytes(MIB))
        file.truncate(7 * MIB + 4096)
    reader = ImageReader(str(path))
    manifest, chunks = ImageManifest(reader.entry()), {}
    buffer = memoryview(bytearray(8 * MIB))
    while blocks := reader.next_blocks(buffer):
        for block in blocks:
            data = bytes(buffer[block.at : block.at + block.length])
            chunks[id_of(data)] = data
            manifest.add(id_of(data), block.offset, block.length)
    manifest.finish()
    reader.close()
    return path.read_bytes(), reader.roots, manifest.take_ready(), chunks


def write(writer, image, stop=None):
    """Write an image; return how many blocks were fetched."""
    _, _, entries, chunks = image
    fetched = 0
    try:
        for group in [*writer.place(entries), *writer.end()]:
            if fetched == stop:
                return fetched
            fetched += 1
            writer.write_group(group, memoryview(chunks[group.chunk_id]))
        writer.finish()
        writer.publish()
    finally:
        writer.abort()
    return fetched


def test_only_what_differs_is_written(device, image):
    data, roots, _, _ = image
    there = device(8 * MIB)
    writer = there.writer(roots)
    assert write(writer, image) == 4
    assert there.read() == data + bytes(8 * MIB - len(data))
    assert [note.text for note in writer.take_notes() if "larger" in note.text]
    assert write(there.writer(roots), image) == 0
    with open(there.path, "r+b") as file:
        file.seek(3 * MIB + 5)
        file.write(b"changed")
        file.seek(5 * MIB)
        file.write(b"where nothing should be")
        file.seek(len(data) + 10)
        file.write(b"beyond")
    writer = there.writer(roots)
    assert write(writer, image) == 1
    assert writer.bytes_written == 2 * MIB
    found = there.read()
    assert found[: len(data)] == data
    assert found[len(data) + 10 :].startswith(b"beyond")


def test_an_interrupted_one_goes_on(device, image):
    data, roots, _, _ = image
    there = device(8 * MIB)
    write(there.writer(roots), image, stop=3)
    assert write(there.writer(roots), image) == 1
    assert there.read()[: len(data)] == data


def test_a_device_that_is_too_small_is_not_touched(device, image):
    there = device(6 * MIB)
    before = there.read()
    with pytest.raises(UsageError, match="6,291,456 bytes, the image 7,344,128"):
        write(there.writer(image[1]), image)
    assert there.read() == before


def test_it_must_be_said_that_everything_may_be_lost(device, image):
    there = device(8 * MIB)
    with pytest.raises(UsageError, match="would be overwritten"):
        there.writer(image[1], overwrite=False)


def test_what_is_mounted_is_refused(device, image, tmp_path):
    there = device(8 * MIB)
    place = tmp_path / "mounted"
    place.mkdir()
    if not there.real or subprocess.run(["mkfs.ext4", "-q", there.path], check=False).returncode:
        pytest.skip("no loop device")
    if subprocess.run(["mount", there.path, place], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted")
    try:
        (place / "precious").write_bytes(b"p")
        with pytest.raises(UsageError, match="in use"):
            there.writer(image[1])
        assert (place / "precious").read_bytes() == b"p"
    finally:
        subprocess.run(["umount", place], check=True)
    there.writer(image[1]).abort()


def test_what_is_no_device_is_refused(tmp_path, image):
    (tmp_path / "file").write_bytes(bytes(8 * MIB))
    for path in (tmp_path / "file", tmp_path, tmp_path / "none", "/dev/null"):
        with pytest.raises(UsageError):
            DeviceWriter(os.fsencode(path), image[1], id_of, overwrite=True)


def test_lost_blocks_stay_as_they_were_and_are_named(device, image):
    data, roots, entries, chunks = image
    there = device(8 * MIB)
    writer = there.writer(roots)
    first, *others = writer.place(entries)
    writer.skip_group(first, "gone")
    for group in others:
        writer.write_group(group, memoryview(chunks[group.chunk_id]))
    writer.end()
    writer.finish()
    writer.publish()
    assert [(lost.offset, lost.length) for lost in writer.take_lost()] == [(0, MIB)]
    assert writer.damaged == 1
    assert there.read()[: len(data)] == bytes(MIB) + data[MIB:]


HOSTILE = {
    "a tree": [Entry(b"r", "d"), Entry(b"r/f", "f")],
    "two files": [Entry(b"r", "f"), Entry(b"r2", "f")],
    "hole past the end": [Entry(b"r", "f", PAGED, size=5, packed_holes=pack_holes([(0, 2**60)]))],
    "too short": [Entry(b"r", "f", PAGED, size=9, packed_extents=pack_extents([(b"i" * 32, 0, 5)]))],
    "cut": [Entry(b"r", "f", PAGED | 1, size=5, packed_extents=pack_extents([(b"i" * 32, 0, 5)]))],
    "none": [],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_manifests(device, case):
    there = device(MIB)
    writer = there.writer([b"r", b"r2"] if case == "two files" else [b"r"])
    with pytest.raises((DamagedData, UsageError)):
        writer.place(HOSTILE[case])
        writer.end()
    writer.abort()
    assert there.read() == bytes(MIB)
