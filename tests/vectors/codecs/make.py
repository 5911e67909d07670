"""Make the frozen vectors of the chunk codecs. Run by hand, once for each new kind of case; never by the tests.

    python tests/vectors/codecs/make.py DIRECTORY

A case that is already there is never made again: later code must still open it. Frames that no library makes are put
together here from RFC 8878. Each case carries its outcome: "ok" or "refused".
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import lz4.block
import zstandard

TEXT = b"".join(b"line %d of something that repeats, and repeats\n" % number for number in range(60))
MAGIC = struct.pack("<I", 0xFD2FB528)
SINGLE = 0x20  # one segment: no window of its own
SIZE32 = 0x80  # the content size has four bytes


def block(kind: int, size: int, data: bytes, *, last: bool = True) -> bytes:
    """Return a block: kind 0 as is, 1 one byte ``size`` times."""
    return struct.pack("<I", last | kind << 1 | size << 3)[:3] + data


def frame(descriptor: int, fields: bytes, *blocks: bytes) -> bytes:
    """Return a frame of a descriptor, the fields that it announces, and blocks."""
    return MAGIC + bytes([descriptor]) + fields + b"".join(blocks)


def size32(size: int) -> bytes:
    """Return a content size."""
    return struct.pack("<I", size)


def zstd(data: bytes, level: int, **how: bool) -> bytes:
    """Return a frame as the library makes it."""
    return zstandard.ZstdCompressor(level=level, **how).compress(data)


def cases() -> list[dict[str, Any]]:
    """Return all cases."""
    whole = zstd(TEXT, 3)
    raw = block(0, 5, b"bytes")
    ok = [
        ("as it is", 0, b"bytes", b"bytes"),
        ("nothing, as it is", 0, b"", b""),
        ("lz4", 1, lz4.block.compress(TEXT, store_size=False), TEXT),
        *((f"zstd {level}", 2, zstd(TEXT, level), TEXT) for level in (1, 3, 6, 9, 12, 19)),
        ("zstd with a checksum", 2, zstd(TEXT, 3, write_checksum=True), TEXT),
        ("zstd, a block as it is", 2, frame(SIZE32 | SINGLE, size32(5), raw), b"bytes"),
        ("zstd, one byte many times", 2, frame(SIZE32 | SINGLE, size32(3000), block(1, 3000, b"z")), b"z" * 3000),
        (
            "zstd, two blocks and a window of 1 KiB",
            2,
            frame(SIZE32, b"\0" + size32(6), block(0, 3, b"abc", last=False), block(1, 3, b"d")),
            b"abcddd",
        ),
    ]
    bad = [
        ("an unknown codec", 3, b"bytes", 5),
        ("as it is, another length", 0, b"bytes", 4),
        ("lz4, another length", 1, lz4.block.compress(TEXT, store_size=False), len(TEXT) - 1),
        ("zstd, no bytes", 2, b"", 5),
        ("zstd, an empty frame", 2, zstd(b"", 3), 0),
        ("zstd, another magic", 2, b"\x27" + whole[1:], len(TEXT)),
        ("zstd, a magic alone", 2, MAGIC, 5),
        ("zstd, cut", 2, whole[:-1], len(TEXT)),
        ("zstd, a byte behind it", 2, whole + b"\0", len(TEXT)),
        ("zstd, two frames", 2, whole + whole, 2 * len(TEXT)),
        ("zstd, two frames for one", 2, whole + whole, len(TEXT)),
        ("zstd, one byte less announced", 2, whole, len(TEXT) - 1),
        ("zstd, one byte more announced", 2, whole, len(TEXT) + 1),
        ("zstd without a content size", 2, zstd(TEXT, 3, write_content_size=False), len(TEXT)),
        ("zstd, a content size of 2^64 - 1", 2, frame(0xC0 | SINGLE, b"\xff" * 8, raw), 5),
        ("zstd with a dictionary id", 2, frame(SIZE32 | SINGLE | 1, b"\x07" + size32(5), raw), 5),
        ("zstd, a window of 128 MiB", 2, frame(SIZE32, b"\x88" + size32(5), raw), 5),
        ("zstd, a window of 2 KiB for 5 bytes", 2, frame(SIZE32, b"\x08" + size32(5), raw), 5),
        ("zstd, fewer bytes than it says", 2, frame(SIZE32 | SINGLE, size32(6), raw), 6),
        ("zstd, more bytes than it says", 2, frame(SIZE32 | SINGLE, size32(4), raw), 4),
        ("zstd, a reserved bit", 2, frame(SIZE32 | SINGLE | 8, size32(5), raw), 5),
        ("zstd, a reserved kind of block", 2, frame(SIZE32 | SINGLE, size32(5), block(3, 5, b"bytes")), 5),
        ("zstd, a wrong checksum", 2, zstd(TEXT, 3, write_checksum=True)[:-1] + b"\0", len(TEXT)),
        ("a frame to be skipped", 2, struct.pack("<II", 0x184D2A50, 5) + b"bytes", 5),
        ("lz4 that is called zstd", 2, lz4.block.compress(TEXT, store_size=False), len(TEXT)),
        ("zstd that is called lz4", 1, whole, len(TEXT)),
    ]
    found: list[dict[str, Any]] = [
        {"name": name, "outcome": "ok", "codec": codec, "coded": coded.hex(), "plain": plain.hex()}
        for name, codec, coded, plain in ok
    ]
    return found + [
        {"name": name, "outcome": "refused", "codec": codec, "coded": coded.hex(), "plain_length": length}
        for name, codec, coded, length in bad
    ]


def main(path: Path) -> None:
    """Append the cases whose names are new; those that are there stay as they are."""
    frozen = json.loads(path.read_text()) if path.exists() else []
    names = {case["name"] for case in frozen}
    frozen += [case for case in cases() if case["name"] not in names]
    path.write_text(json.dumps(frozen, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "chunks.json")
