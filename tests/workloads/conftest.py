"""A backup and a restore in memory: what the pipelines do, without threads, links and repositories."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from transporter.workloads.entry import Entry
from transporter.workloads.manifest_builder import ManifestBuilder
from transporter.workloads.notes import Note
from transporter.workloads.tree_restore import TreeWriter
from transporter.workloads.tree_scan import TreeScanner


@pytest.fixture
def tmp_path(on_disk):
    """The trees of these tests lie on a disk: what its file system keeps, and how, is what they are about."""
    return on_disk


@dataclass
class Copy:
    """A point in memory."""

    roots: list[bytes]
    entries: list[Entry]
    chunks: dict[bytes, bytes]
    notes: list[Note]
    scanner: TreeScanner
    read: int = 0
    codes: list[str] = field(default_factory=list)

    def entry(self, name: bytes | str) -> Entry:
        """The one entry with that last component."""
        (found,) = [e for e in self.entries if e.path.rpartition(b"/")[2] == os.fsencode(name)]
        return found

    def content(self, name: bytes | str) -> bytes:
        """The data (without holes) of a file, out of its chunks."""
        name = os.fsencode(name)
        records = [e for e in self.entries if e.path.rpartition(b"/")[2] == name]
        return b"".join(self.chunks[i][a : a + n] for e in records for i, a, n in e.extents)


def drain(scanner, chunk_length=1 << 16, buffer_length=1 << 18) -> Copy:
    """Run a source to its end, cutting the stream into chunks of one length."""
    builder = ManifestBuilder()
    chunks: dict[bytes, bytes] = {}
    buffer = memoryview(bytearray(buffer_length))
    entries: list[Entry] = []
    offset = 0
    rest = b""
    while True:
        count = scanner.fill(buffer)
        builder.add_pending(scanner.take_entries())
        rest += buffer[:count]
        last = count == 0 and scanner.finished
        while len(rest) >= chunk_length or (last and rest):
            data, rest = rest[:chunk_length], rest[chunk_length:]
            chunk_id = hashlib.sha256(data).digest()
            chunks[chunk_id] = data
            builder.chunk_cut(chunk_id, offset, len(data))
            offset += len(data)
        entries += builder.take_ready()
        if last:
            break
    assert builder.pending_count == 0
    notes = scanner.take_notes()
    return Copy(scanner.roots, entries, chunks, notes, scanner, offset, [n.code for n in notes])


@pytest.fixture
def drain_source():
    """``drain_source(source, chunk_length, buffer_length)`` returns a copy."""
    return drain


@pytest.fixture
def backup():
    """Back up roots: ``backup(root, …, previous=copy, chunk_length=…, **scanner options)``."""

    def run(*roots, previous=None, chunk_length=1 << 16, buffer_length=1 << 18, **options):
        earlier = iter([e for e in previous.entries]) if previous is not None else None
        scanner = TreeScanner([os.fsencode(r) for r in roots], earlier, **options)
        try:
            copy = drain(scanner, chunk_length, buffer_length)
        finally:
            scanner.close()
        if previous is not None:
            copy.chunks = previous.chunks | copy.chunks
        return copy

    return run


def restore_copy(copy, output, **options):
    """Restore a copy; returns the writer's notes."""
    with TreeWriter(output, "point", copy.roots, **options) as writer:
        for group in writer.plan(iter(copy.entries)):
            writer.write_group(group, memoryview(copy.chunks[group.chunk_id]))
        writer.finish()
        writer.publish()
    return writer.take_notes()


@pytest.fixture
def restore():
    """Restore: ``restore(copy, output, **writer options)`` returns notes."""
    return restore_copy


@pytest.fixture
def differences():
    """What rsync would change to make DST equal to SRC: nothing, if the restore is right."""
    if shutil.which("rsync") is None:
        pytest.skip("rsync compares the trees")

    def run(source, target) -> list[str]:
        command = ["rsync", "-aHAXn", "--checksum", "--itemize-changes", "--delete"]
        done = subprocess.run([*command, f"{source}/", f"{target}/"], capture_output=True, check=True)
        return done.stdout.decode("utf-8", "backslashreplace").splitlines()

    return run


@pytest.fixture(autouse=True)
def no_descriptor_leaks():
    """Whatever a test does: no descriptor stays open."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.fixture
def tree(tmp_path) -> Path:
    """An empty folder to fill."""
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


def run_as_nobody(act) -> object:
    """Return what ``act`` returns when user 65534 runs it: in a child, for there is no way back."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside idle worker threads of other tests
        child = os.fork()
    if not child:
        status = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writer, json.dumps(act()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(answer)


@pytest.fixture
def as_nobody():
    """``as_nobody(act)`` returns what ``act()`` returns for user 65534 (through JSON)."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    return run_as_nobody


@pytest.fixture
def reachable(tree):
    """Everybody may go down to the tree while the test runs."""
    closed = {p: p.stat().st_mode for p in [tree, *tree.parents] if not p.stat().st_mode & stat.S_IXOTH}
    for path in closed:
        path.chmod(0o755)
    yield tree
    for path, mode in closed.items():
        path.chmod(mode)
