"""What an import refuses: anything that was altered, cut, pieced together, or does not fit; and it leaves nothing."""

from __future__ import annotations

import io
import random
import sqlite3
from contextlib import closing

import msgspec
import pytest
from blake3 import blake3
from bundle_world import PASSWORD, Node, imported, nothing_left, resealed, whole

from transporter.bundle import export
from transporter.bundle.reading import Bundle
from transporter.bundle.stream import HEADER_LENGTH, SEGMENT, TAG, read_header
from transporter.errors import (
    DamagedData,
    WrongPassword,
)


def test_any_altered_byte_is_refused_and_leaves_nothing(bundle, elsewhere):
    data = bundle.read_bytes()
    chosen = random.Random(7).sample(range(len(data)), 150)
    edges = [at + d for at in range(HEADER_LENGTH, len(data), SEGMENT + TAG) for d in (-1, 0, 1)]
    for at in sorted({*chosen, *edges, *range(0, HEADER_LENGTH, 3), len(data) - 1}):
        altered = bytearray(data)
        altered[at] ^= 1 << at % 8
        bundle.write_bytes(altered)
        with pytest.raises(DamagedData):
            imported(bundle, elsewhere / "A")
        assert nothing_left(elsewhere), at


def test_any_cut_is_refused_and_leaves_nothing(bundle, elsewhere):
    data = bundle.read_bytes()
    edges = {at + d for at in range(HEADER_LENGTH, len(data), SEGMENT + TAG) for d in (-1, 0, 1, TAG)}
    assert len(data) > HEADER_LENGTH + SEGMENT, "there must be an edge in the middle"
    for length in sorted({*edges, 0, 1, 50, len(data) - 1, *random.Random(8).sample(range(len(data)), 40)}):
        bundle.write_bytes(data[:length])
        with pytest.raises(DamagedData):
            imported(bundle, elsewhere / "A")
        assert nothing_left(elsewhere), length
    bundle.write_bytes(data + b"\0")
    with pytest.raises(DamagedData):
        imported(bundle, elsewhere / "A")


def test_replayed_segments_are_refused(bundle, elsewhere):
    data = bundle.read_bytes()
    header, body = data[:HEADER_LENGTH], data[HEADER_LENGTH:]
    parts = [body[at : at + SEGMENT + TAG] for at in range(0, len(body), SEGMENT + TAG)]
    for wrong in ([parts[0], *parts], [*parts, parts[-1]], parts[1:], parts[::-1], [*parts[:-1], parts[0], parts[-1]]):
        bundle.write_bytes(header + b"".join(wrong))
        with pytest.raises(DamagedData):
            imported(bundle, elsewhere / "A")
        assert nothing_left(elsewhere)


def test_the_wrong_password_is_refused(bundle, elsewhere):
    with pytest.raises(WrongPassword):
        imported(bundle, elsewhere / "A", password=b"correct horse battery staple")
    assert nothing_left(elsewhere)


def rebuilt(data: bytes, name: str, content: bytes) -> bytes:
    """A bundle whose member ``name`` is another, with everything that can be made to fit made to fit."""
    plain = whole(data)
    length = int.from_bytes(plain[:4], "big")
    manifest, rest = msgspec.msgpack.decode(plain[4 : 4 + length]), plain[4 + length :]
    contents = {}
    for member in manifest["members"]:
        contents[member["name"]], rest = rest[: member["length"]], rest[member["length"] :]
    contents[name] = content
    for member in manifest["members"]:
        if member["name"] == name:
            member.update(length=len(content), blake3=blake3(content).digest())
    body = msgspec.msgpack.encode(manifest)
    return resealed(data, [len(body).to_bytes(4, "big") + body, *contents.values()])


def changed_database(data: bytes, statement: str) -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.deserialize(data)
        database.execute("PRAGMA journal_mode = MEMORY")
        database.execute(statement)
        return database.serialize()


def member(data: bytes, name: str) -> bytes:
    found = bytearray()
    file = io.BytesIO(data)
    opened = Bundle(file, read_header(file)).unlock(PASSWORD)
    opened.each(lambda each: found.extend if each.name == name else len)
    return bytes(found)


def test_rebuilding_a_bundle_is_what_these_tests_take_it_for(bundle, elsewhere):
    data = bundle.read_bytes()
    bundle.write_bytes(rebuilt(data, "config.toml", member(data, "config.toml")))
    imported(bundle, elsewhere / "A")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("config.toml", lambda data: b"[node]\nname = 'another'\n"),
        ("config.toml", lambda data: data + b"\n[nonsense]\n"),
        ("config.toml", lambda data: b"\xff" + data),
        ("config.toml", lambda data: b"x = " + b"[" * 5000),
        ("identity.key", lambda data: b"no key"),
        ("master", lambda data: bytes(32)),
        ("master", lambda data: data[:-1]),
        ("keys.db", lambda data: data[:4096]),
        ("keys.db", lambda data: b""),
        ("keys.db", lambda data: changed_database(data, "DELETE FROM meta WHERE name = 'audit'")),
        ("keys.db", lambda data: changed_database(data, "UPDATE passwords SET sealed = zeroblob(129)")),
        ("keys.db", lambda data: changed_database(data, "CREATE VIEW v AS SELECT 1")),
        (
            "catalog.db",
            lambda data: changed_database(data, "CREATE TRIGGER t DELETE ON peers BEGIN SELECT 1; END"),
        ),
        ("catalog.db", lambda data: data[: len(data) // 2]),
        ("audit.log", lambda data: data[: data.index(b"\n") + 1]),
        ("audit.log", lambda data: data.replace(b"office", b"0ffice", 1)),
        ("audit.log", lambda data: b""),
    ],
)
def test_members_that_do_not_fit_are_refused(bundle, elsewhere, name, make):
    """By who has the password: the outer form is sound, and what is inside is not."""
    data = bundle.read_bytes()
    bundle.write_bytes(rebuilt(data, name, make(member(data, name))))
    with pytest.raises(DamagedData):
        imported(bundle, elsewhere / "A")
    assert nothing_left(elsewhere)


@pytest.mark.parametrize("wrong", ["cut off", "altered"])
def test_a_trail_that_is_wrong_behind_the_export_is_refused(node, tmp_path, elsewhere, monkeypatch, wrong):
    """Others may enter something between the entry of the export and the copies."""
    really = export.take_snapshot

    def later(home, text, keys, **how):
        keys.record("another.deed", of="office")
        keys.record("one.more")
        return really(home, text, keys, **how)

    monkeypatch.setattr(export, "take_snapshot", later)
    node.export(tmp_path / "b")
    data = (tmp_path / "b").read_bytes()
    trail = member(data, "audit.log")
    imported(tmp_path / "b", elsewhere / "sound")
    bad = (
        trail[: trail[:-1].rindex(b"\n") + 1] if wrong == "cut off" else trail.replace(b"another.deed", b"an0ther.deed")
    )
    (tmp_path / "b").write_bytes(rebuilt(data, "audit.log", bad))
    with pytest.raises(DamagedData, match="audit trail"):
        imported(tmp_path / "b", elsewhere / "A")
    assert nothing_left(elsewhere, "sound")


def test_an_identity_of_another_node_is_refused(bundle, elsewhere, tmp_path):
    (tmp_path / "other").mkdir()
    other = Node(tmp_path / "other" / "home")
    data = bundle.read_bytes()
    bundle.write_bytes(rebuilt(data, "identity.key", other.home.identity_key.read_bytes()))
    with pytest.raises(DamagedData, match="identity"):
        imported(bundle, elsewhere / "A")
