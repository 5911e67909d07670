"""The file of a keyset's drill."""

from __future__ import annotations

import io

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from transporter.clock import ManualClock
from transporter.errors import DamagedData
from transporter.keys.key_ring import KeyRing, seal_ring
from transporter.keys.keyset import generate_keyset
from transporter.keys.keyset_drill import DrillEnd, DrillPoint, DrillWriter, drill_point, read_drill
from transporter.keys.node_key import NodeKey, pin_of
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.keys.storage_key import StorageKey
from transporter.keys.wrap import point_context

KEY = StorageKey(b"k" * 32)


@pytest.fixture(scope="module")
def keyset():
    return generate_keyset("2026", ManualClock())


@pytest.fixture(scope="module")
def node():
    return NodeKey(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def point(keyset, node):
    def make(number=1, key=KEY, **changes):
        where = point_context("office", b"r" * 16, bytes([number]) * 16)
        ring = seal_ring(KEY, KeyRing(None, (SessionKey.generate(),), (MetaKey.generate(),)), where)
        facts = {
            "place": "offsite/main",
            "tenant": "office",
            "repository_id": b"r" * 16,
            "job": "docs",
            "point": bytes([number]) * 16,
            "slots": [keyset.public.make_slot(key, where, node)],
            "ring_length": len(ring),
            "ring_first": ring[0],
        }
        return DrillPoint(**facts | changes)

    return make


@pytest.fixture
def written(point, node):
    def make(*points):
        file = io.BytesIO()
        writer = DrillWriter(file)
        for each in points or (point(1), point(2), point(3)):
            writer.add(each)
        writer.finish(node, 17)
        return file.getvalue()

    return make


def test_what_is_written_is_read(point, written, node):
    points = [point(1), point(2)]
    *read, end = read_drill(io.BytesIO(written(*points)))
    assert read == points
    assert isinstance(end, DrillEnd) and (end.count, end.made_ns, end.node) == (2, 17, node.public)
    (end,) = read_drill(io.BytesIO(written_empty(node)))
    assert end.count == 0


def written_empty(node):
    file = io.BytesIO()
    DrillWriter(file).finish(node, 1)
    return file.getvalue()


def test_every_altered_byte_and_every_cut_is_found(written):
    data = written()
    for at in range(0, len(data), 11):
        with pytest.raises(DamagedData):
            list(read_drill(io.BytesIO(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])))
    for length in range(0, len(data), 13):
        with pytest.raises(DamagedData):
            list(read_drill(io.BytesIO(data[:length])))


def test_a_point_that_was_taken_out_is_missed(point, written):
    """Else whoever carries the file could have the drill find everything well."""
    first, second = point(1), point(2)
    whole, one = written(first, second), written(first)
    without = one[: one.rindex(b"\0\0\0\0")] + whole[whole.rindex(b"\0\0\0\0") :]
    with pytest.raises(DamagedData):
        list(read_drill(io.BytesIO(without)))


def test_a_name_that_plays_with_a_terminal(point, written):
    with pytest.raises(DamagedData):
        list(read_drill(io.BytesIO(written(point(job="a\x1b[2J")))))


def test_a_keyset_is_tried_on_a_point(point, keyset, node):
    own = pin_of(node.public).__eq__
    assert drill_point(point(), keyset, own).problem == ""
    for bad, words in (
        (point(slots=[]), "no slot of this keyset"),
        (point(slots=[b"junk"]), "no slot of this keyset"),
        (point(key=StorageKey(b"o" * 32)), "opens this restore point"),
        (point(tenant="another"), "altered"),
    ):
        assert words in drill_point(bad, keyset, own).problem
    assert "not registered" in drill_point(point(), keyset, lambda _maker: False).problem
