"""The cache of the last manifest: whatever becomes of the file, nothing but its entries ever comes out."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transporter.workloads import cached_manifest
from transporter.workloads.cached_manifest import CachedManifest
from transporter.workloads.entry import CONTINUATION, MORE, UNTRUSTED, Entry
from transporter.workloads.manifest import encode_records


def entries(count=200):
    rng = random.Random(9)
    return [Entry(b"r/%06d" % i, "f", size=i, packed_extents=rng.randbytes(40)) for i in range(count)]


def add(writer, item):
    distrusted = [item.path] if item.flags & UNTRUSTED and item.flags & CONTINUATION else []
    for records in encode_records([item]):
        writer.add(records, distrusted)


def write(path, items, identity=b"me"):
    with CachedManifest(path).writer(identity) as writer:
        for item in items:
            add(writer, item)
        writer.commit()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(cached_manifest, "BLOCK_SIZE", 1000)


def test_round_trip(tmp_path):
    path = tmp_path / "cache"
    write(path, entries())
    assert list(CachedManifest(path).read(b"me")) == entries()
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["cache"]
    write(path, [])
    assert list(CachedManifest(path).read(b"me")) == []


def test_another_identity_or_none(tmp_path):
    path = tmp_path / "cache"
    assert CachedManifest(path).read(b"me") is None
    write(path, entries())
    for identity in (b"", b"m", b"me2", b"ME"):
        assert CachedManifest(path).read(identity) is None
    CachedManifest(path).remove()
    CachedManifest(path).remove()
    assert CachedManifest(path).read(b"me") is None


def test_without_commit_the_old_one_stays(tmp_path):
    path = tmp_path / "cache"
    write(path, entries(3))
    with CachedManifest(path).writer(b"you") as writer:
        add(writer, entries(1)[0])
    assert list(CachedManifest(path).read(b"me")) == entries(3)
    assert os.listdir(tmp_path) == ["cache"]


def test_distrust_known_at_the_end_reaches_the_first_record(tmp_path):
    path = tmp_path / "cache"
    items = [
        Entry(b"a", "f"), Entry(b"b", "f", MORE), Entry(b"b", "f", CONTINUATION | MORE),
        Entry(b"b", "f", CONTINUATION | UNTRUSTED), Entry(b"c", "f"),
    ]  # fmt: skip
    write(path, items)
    found = list(CachedManifest(path).read(b"me"))
    assert [bool(e.flags & UNTRUSTED) for e in found] == [False, True, True, True, False]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damage_only_ever_shortens(tmp_path, data):
    path = tmp_path / "cache"
    write(path, entries(60))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    found = CachedManifest(path).read(b"me")
    if found is not None:
        got = list(found)
        assert got == entries(60)[: len(got)]


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    left = tmp_path / "manifest.4711.new"
    left.write_bytes(b"half")
    (tmp_path / "manifest").write_bytes(b"kept")
    CachedManifest(tmp_path / "manifest").writer(b"identity").discard()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest"]
