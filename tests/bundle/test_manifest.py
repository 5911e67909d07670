"""Lists of contents that no node wrote: names, sizes, orders and versions are bounded before anything is written."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from blake3 import blake3
from bundle_world import PASSWORD, imported, nothing_left, resealed, sealed, whole

from transporter.bundle.manifest import LIMITS, MAX_FILE, MAX_MANIFEST, Manifest, Member, decode_manifest
from transporter.bundle.reading import open_bundle
from transporter.bundle.stream import SEGMENT
from transporter.errors import DamagedData, UnsupportedFormat, UsageError
from transporter.keys.database_schema import SCHEMA_VERSION


def fields(**changes):
    members = [{"name": name, "length": 3, "blake3": bytes(32)} for name in LIMITS]
    known = {
        "node": "office",
        "pin": bytes(32),
        "created_ns": 1,
        "program": "0.1.0",
        "keys_version": 3,
        "catalog_version": 2,
        "members": members,
        "repositories": {"main": "/srv/main"},
        "jobs": 1,
        "peers": 1,
        "passwords": 1,
        "private_keysets": [],
        "left_out": [],
    }
    return known | changes


def members(**changes):
    """All members; ``changes`` of one of them."""
    return [
        {"name": name, "length": 3, "blake3": bytes(32)} | changes.get(name.replace(".", "_"), {}) for name in LIMITS
    ]


def encoded(**changes):
    return msgspec.msgpack.encode(fields(**changes))


def test_a_sound_one_is_read():
    manifest = decode_manifest(encoded())
    assert [member.name for member in manifest.members] == list(LIMITS)


@pytest.mark.parametrize("name", ["../config.toml", "/etc/passwd", "", "config.toml\0", "keys.db-wal", "sub/keys.db"])
def test_a_name_that_no_bundle_has(name):
    with pytest.raises(DamagedData):
        decode_manifest(encoded(members=members(config_toml={"name": name})))


@pytest.mark.parametrize("name", LIMITS)
def test_a_member_larger_than_any(name):
    for length in (LIMITS[name] + 1, 1 << 63, -1):
        with pytest.raises(DamagedData):
            decode_manifest(encoded(members=members(**{name.replace(".", "_"): {"length": length}})))


def test_members_that_are_missing_twice_there_or_in_another_order():
    all_of_them = members()
    for wrong in (all_of_them[:-1], [], [*all_of_them, all_of_them[0]], all_of_them[::-1], [all_of_them[0]] * 7):
        with pytest.raises(DamagedData):
            decode_manifest(encoded(members=wrong))


@pytest.mark.parametrize(
    "changes",
    [
        {"node": "a\nb"},
        {"node": ""},
        {"pin": bytes(31)},
        {"created_ns": -1},
        {"jobs": "1"},
        {"more": 1},
        {"members": 1},
    ],
)
def test_fields_that_are_not_as_written(changes):
    with pytest.raises(DamagedData):
        decode_manifest(encoded(**changes))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", b"\x91" * 5000, encoded() + b"\0", encoded()[:-1]])
def test_garbage(body):
    with pytest.raises(DamagedData):
        decode_manifest(body)


@pytest.mark.parametrize("field", ["keys_version", "catalog_version"])
def test_databases_of_a_newer_version(field):
    with pytest.raises(UnsupportedFormat, match="newer"):
        decode_manifest(encoded(**{field: 99}))


# --- as a whole file ---------------------------------------------------------------------------------------------


def refused(data: bytes, place: Path, kind: type[Exception] = DamagedData) -> None:
    """The bundle is refused, and leaves nothing."""
    file = place.parent / "hostile"
    file.write_bytes(data)
    with pytest.raises(kind):
        imported(file, place / "A")
    assert nothing_left(place)


def plaintext(contents: dict[str, bytes], **changes) -> bytes:
    listed = [
        {"name": name, "length": len(contents[name]), "blake3": blake3(contents[name]).digest()} for name in LIMITS
    ]
    body = encoded(**{"members": listed} | changes)
    return len(body).to_bytes(4, "big") + body + b"".join(contents[name] for name in LIMITS)


JUNK = dict.fromkeys(LIMITS, b"???") | {"master": bytes(32)}


def test_contents_that_are_none(elsewhere):
    refused(sealed([plaintext(JUNK)]), elsewhere)


def test_a_list_that_claims_to_be_long(elsewhere):
    for length in (MAX_MANIFEST + 1, (1 << 32) - 1, MAX_MANIFEST):
        refused(sealed([length.to_bytes(4, "big"), encoded()]), elsewhere)


def test_a_member_that_claims_to_be_long(elsewhere):
    claimed = members(keys_db={"length": LIMITS["keys.db"]})
    body = encoded(members=claimed)
    refused(sealed([len(body).to_bytes(4, "big"), body, bytes(3 * SEGMENT)]), elsewhere)


def test_more_behind_the_last_member(elsewhere, bundle):
    data = bundle.read_bytes()
    plain = whole(data)
    for more in (b"\0", bytes(SEGMENT), bytes(-len(plain) % SEGMENT)):
        refused(resealed(data, [plain, more]), elsewhere)
    bundle.write_bytes(resealed(data, [plain]))
    imported(bundle, elsewhere / "A")


def test_a_member_that_is_not_its_hash(elsewhere, bundle):
    data = bundle.read_bytes()
    plain = whole(data)
    at = plain.index(b"# The configuration")
    refused(resealed(data, [plain[:at], b"#", plain[at + 1 :].replace(b"The", b"tHE", 1)]), elsewhere)


def test_a_file_longer_than_any(elsewhere, tmp_path):
    file = tmp_path / "long"
    with file.open("wb") as sparse:
        sparse.truncate(MAX_FILE + 1)
    with pytest.raises(DamagedData, match="longer"), open_bundle(file):
        pass


def test_what_is_no_file(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError), open_bundle(path):
            pass


def test_the_largest_bundle_has_room_for_its_segments():
    assert sum(LIMITS.values()) + MAX_MANIFEST < MAX_FILE
    assert -(-MAX_FILE // SEGMENT) < 1 << 32


def test_the_list_tells_every_member_and_no_secret(bundle):
    with open_bundle(bundle) as file:
        manifest = file.unlock(PASSWORD).manifest
    assert isinstance(manifest, Manifest)
    assert all(isinstance(member, Member) for member in manifest.members)
    assert (manifest.node, manifest.jobs, manifest.peers, manifest.passwords) == ("office", 1, 1, 1)
    assert manifest.keys_version == SCHEMA_VERSION
