"""Writes the frozen vectors of blocks of the file-system index, from the table of docs/repository-format.md.

Independent on purpose: it imports nothing of the transporter. A file changes only together with a new version.

    python tests/vectors/fsi/make.py          writes blocks.json and borders.json beside itself
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blake3 import blake3

Case = dict[str, Any]
Row = tuple[bytes, int, int, str]

ROWS: list[Row] = [
    (b"srv", 0, 1_700_000_000_000_000_000, "d"),
    (b"srv/a", 1, -1, "f"),
    (b"srv/a b", 2**63 - 1, 2**63 - 1, "f"),
    (b"srv/\xff", 0x0102030405060708, -(2**63), "f"),
    ("srv/ä".encode(), 0, 0, "l"),
    (b"srv/p", 0, 1, "p"),
    (b"srv/c", 0, 256, "c"),
    (b"srv/z", 0, 65_536, "b"),
]


def crc32(data: bytes, start: int) -> int:
    """ISO 3309's, bit by bit; ``start`` is what was computed of what came before."""
    value = start ^ 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _bit in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def planes(numbers: list[bytes]) -> bytes:
    return b"".join(bytes(number[plane] for number in numbers) for plane in range(8))


def block(rows: list[Row], magic: bytes = b"FSI1", count: int | None = None, behind: bytes = b"") -> bytes:
    paths = b"".join(path + b"\0" for path, *_rest in rows)
    return b"".join(
        (
            magic,
            (len(rows) if count is None else count).to_bytes(4, "big"),
            len(paths).to_bytes(4, "big"),
            planes([size.to_bytes(8, "big") for _path, size, *_rest in rows]),
            planes([time.to_bytes(8, "big", signed=True) for *_rest, time, _kind in rows]),
            "".join(kind for *_rest, kind in rows).encode(),
            paths,
            behind,
        )
    )


def block_cases() -> list[Case]:
    good = block(ROWS)

    def case(name: str, expect: str, raw: bytes, rows: list[Row] | None = None) -> Case:
        row: Case = {"name": name, "expect": expect, "block": raw.hex()}
        if rows is not None:
            row["rows"] = [[path.hex(), size, time, kind] for path, size, time, kind in rows]
        return row

    def with_row(*row: Any) -> bytes:
        return block([ROWS[0], row])

    many: list[Row] = [(b"%04d" % number, number, number << 20, "f") for number in range(300)]
    return [
        case("all types, the least and the greatest numbers", "ok", good, ROWS),
        case("one entry", "ok", block(ROWS[:1]), ROWS[:1]),
        case("an empty path", "ok", block([(b"", 3, 4, "f")]), [(b"", 3, 4, "f")]),
        case("300 entries", "ok", block(many), many),
        case("a later version", "UnsupportedFormat", block(ROWS, magic=b"FSI2")),
        case("another magic", "DamagedData", block(ROWS, magic=b"FSJ1")),
        case("no entry", "DamagedData", block([])),
        case("one entry more than it says", "DamagedData", block(ROWS, count=7)),
        case("one entry fewer than it says", "DamagedData", block(ROWS, count=9)),
        case("a size of 2^63", "DamagedData", with_row(b"srv/x", 2**63, 0, "f")),
        case("a type that there is not", "DamagedData", with_row(b"srv/x", 0, 0, "s")),
        case("a path with a NUL in it", "DamagedData", with_row(b"srv/x\0y", 0, 0, "f")),
        case("one byte more", "DamagedData", block(ROWS, behind=b"\0")),
        case("cut short", "DamagedData", good[:-1]),
        case("cut within its header", "DamagedData", good[:11]),
    ]


def border_cases() -> list[Case]:
    """Where blocks end, for paths srv/0 … srv/4999 that are one entry each."""

    def case(name: str, chunk_id_key: bytes) -> Case:
        text = b"borders of the file-system index"
        seed = int.from_bytes(blake3(text, key=chunk_id_key).digest()[:4], "big")
        ends = [at + 1 for at in range(5000) if crc32(b"srv/%d" % at, seed) < 2**32 // 1024]
        return {"name": name, "chunk_id_key": chunk_id_key.hex(), "seed": seed, "ends": ends}

    return [case("of one domain", bytes(range(32))), case("of another", bytes(range(1, 33)))]


def build() -> dict[str, list[Case]]:
    """Return file name → cases."""
    return {"blocks.json": block_cases(), "borders.json": border_cases()}


if __name__ == "__main__":
    for name, made in build().items():
        Path(__file__).with_name(name).write_text(json.dumps(made, indent=1) + "\n")
