"""Writes the frozen vectors of heads of restore points, versions 1 and 2, from the tables of docs/repository-format.md.

Independent on purpose: it imports nothing of the transporter, and writes msgpack by itself. A file changes only
together with a new version.

    python tests/vectors/heads/make.py          writes heads.json beside itself
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

Case = dict[str, Any]
METAKEY = hashlib.sha256(b"vector metakey").digest()
FIELDS = (
    *("version", "point_id", "tenant", "job", "kind", "created_ns", "parent", "parent_hash", "zone", "encrypted"),
    *("domain", "cryptograms", "manifest", "fsi", "needs_hash", "statistics", "workload", "chunk_id_key", "mac"),
)


def pack(value: object) -> bytes:
    """Return msgpack in its shortest form."""
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        if value < 0:
            return bytes((256 + value,)) if value >= -32 else b"\xd3" + value.to_bytes(8, "big", signed=True)
        if value < 128:
            return bytes((value,))
        size = next(size for size in (1, 2, 4, 8) if value < 256**size)
        return bytes((0xCC + (1, 2, 4, 8).index(size),)) + value.to_bytes(size, "big")
    if isinstance(value, bytes):
        return _long(0xC4, len(value)) + value
    if isinstance(value, str):
        raw = value.encode()
        return (bytes((0xA0 + len(raw),)) if len(raw) < 32 else _long(0xD9, len(raw))) + raw
    if isinstance(value, dict):
        items = b"".join(pack(key) + pack(each) for key, each in value.items())
        return (bytes((0x80 + len(value),)) if len(value) < 16 else b"\xde" + len(value).to_bytes(2, "big")) + items
    assert isinstance(value, list | tuple)
    items = b"".join(map(pack, value))
    return (bytes((0x90 + len(value),)) if len(value) < 16 else b"\xdc" + len(value).to_bytes(2, "big")) + items


def _long(first: int, length: int) -> bytes:
    size = 1 if length < 256 else 2
    return bytes((first + size - 1,)) + length.to_bytes(size, "big")


def hkdf(secret: bytes, label: bytes) -> bytes:
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), label + b"\x01", "sha256")


def mac(head: dict[str, Any]) -> bytes:
    return hmac.digest(hkdf(METAKEY, b"transporter-pair v1 metakey point mac"), pack(head | {"mac": b""}), "sha256")


def head(**other: Any) -> dict[str, Any]:
    """Return the fields of a head in their order; ``fsi`` makes it one of version 2."""
    fields: dict[str, Any] = {
        "version": 2 if "fsi" in other else 1,
        "point_id": b"frozen point 002",
        "tenant": "tenant/ä",
        "job": "daily",
        "kind": "incremental",
        "created_ns": 1_700_000_000_123_456_789,
        "parent": b"frozen point 001",
        "parent_hash": hashlib.sha256(b"parent").digest(),
        "zone": "source",
        "encrypted": True,
        "domain": b"frozen domain 01",
        "cryptograms": [b"wrapped", b"w" * 130],
        "manifest": [(hashlib.sha256(b"m%d" % number).digest(), 4 << 20) for number in range(20)],
        "needs_hash": hashlib.sha256(b"needs").digest(),
        "statistics": {"files": 3, "bytes_read": 1 << 33},
        "workload": "tree",
        "chunk_id_key": b"",
        "mac": b"",
    }
    fields |= other
    made = {name: fields[name] for name in FIELDS if name in fields} | {
        name: value for name, value in fields.items() if name not in FIELDS
    }
    return made | {"mac": mac(made)} if made["encrypted"] and "mac" not in other else made


INDEX = [(hashlib.sha256(b"f%d" % number).digest(), 90_000 + number) for number in range(2)]


def cases() -> list[Case]:
    def case(name: str, expect: str, raw: bytes, fields: dict[str, Any] | None = None) -> Case:
        row: Case = {"name": name, "expect": expect, "head": raw.hex(), "metakey": METAKEY.hex()}
        return row | {"fields": plain(fields)} if fields is not None else row

    def good(name: str, fields: dict[str, Any]) -> Case:
        return case(name, "ok", pack(fields), fields)

    second = head(fsi=INDEX)
    order = [*second]
    swapped = {name: second[name] for name in [*order[:-2], order[-1], order[-2]]}
    long_form = pack(second).replace(b"\xa7version\x02", b"\xa7version\xcc\x02")
    return [
        good("version 2", second),
        good("version 2, an index of nothing", head(fsi=[])),
        good(
            "version 2, not sealed",
            head(fsi=INDEX, encrypted=False, zone="none", cryptograms=[], chunk_id_key=b"c" * 32),
        ),
        good("version 1", head()),
        case("version 1 with an index", "DamagedData", pack(head(fsi=INDEX, version=1))),
        case("version 2 without an index", "DamagedData", pack(head(version=2))),
        case("version 3", "UnsupportedFormat", pack(head(fsi=INDEX, version=3))),
        case("the index elsewhere", "DamagedData", pack({**head(), "version": 2, "fsi": INDEX})),
        case("two fields exchanged", "DamagedData", pack(swapped)),
        case("an integer in a longer form", "DamagedData", long_form),
        case("a field more", "DamagedData", pack(head(fsi=INDEX, more=1))),
        case("a chunk id of 31 bytes", "DamagedData", pack(head(fsi=[(b"i" * 31, 1)]))),
        case("a block over 4 MiB", "DamagedData", pack(head(fsi=[(b"i" * 32, (4 << 20) + 1)]))),
        case("a block of three values", "DamagedData", pack(head(fsi=[(b"i" * 32, 1, 1)]))),
        case("an index that is none", "DamagedData", pack(head(fsi=b""))),
        case("one byte more", "DamagedData", pack(second) + b"\0"),
        case("cut short", "DamagedData", pack(second)[:-1]),
    ]


def plain(value: Any) -> Any:
    """Return a value as JSON has it: bytes as {"hex": …}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def build() -> dict[str, list[Case]]:
    """Return file name → cases."""
    return {"heads.json": cases()}


if __name__ == "__main__":
    for name, made in build().items():
        Path(__file__).with_name(name).write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
