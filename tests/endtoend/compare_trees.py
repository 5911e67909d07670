"""Compare two trees, every byte and every piece of metadata that a restore promises to bring back."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

BLOCK = 1 << 20


def differences(left: Path, right: Path) -> Iterator[str]:
    """Yield a sentence for each difference between two folders; nothing when they are equal."""
    yield from _Comparison(os.fsencode(left), os.fsencode(right)).folder(b"")


class _Comparison:
    def __init__(self, left: bytes, right: bytes) -> None:
        self.roots = left, right
        self.links: dict[tuple[int, int], tuple[int, int]] = {}

    def folder(self, path: bytes) -> Iterator[str]:
        yield from self.entry(path)
        names = [set(os.listdir(os.path.join(root, path))) for root in self.roots]
        for name in sorted(names[0] ^ names[1]):
            side = "restored" if name in names[0] else "original"
            yield f"{_shown(os.path.join(path, name))}: missing in the {side} tree"
        for name in sorted(names[0] & names[1]):
            inner = os.path.join(path, name)
            if all(stat.S_ISDIR(os.lstat(os.path.join(root, inner)).st_mode) for root in self.roots):
                yield from self.folder(inner)
            else:
                yield from self.entry(inner)

    def entry(self, path: bytes) -> Iterator[str]:
        paths = [os.path.join(root, path) for root in self.roots]
        one, two = (os.lstat(path) for path in paths)
        for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_rdev"):
            if getattr(one, name) != getattr(two, name):
                yield f"{_shown(path)}: {name} {getattr(one, name)} became {getattr(two, name)}"
        if stat.S_IFMT(one.st_mode) != stat.S_IFMT(two.st_mode):
            return
        attributes = [{n: os.getxattr(p, n, follow_symlinks=False) for n in _xattrs(p)} for p in paths]
        if attributes[0] != attributes[1]:
            yield f"{_shown(path)}: extended attributes differ"
        if stat.S_ISLNK(one.st_mode):
            if os.readlink(paths[0]) != os.readlink(paths[1]):
                yield f"{_shown(path)}: link target differs"
        elif stat.S_ISREG(one.st_mode):
            yield from self.regular(path, paths, one, two)

    def regular(self, path: bytes, paths: list[bytes], one: os.stat_result, two: os.stat_result) -> Iterator[str]:
        if one.st_nlink > 1 or two.st_nlink > 1:
            partner = self.links.setdefault((one.st_dev, one.st_ino), (two.st_dev, two.st_ino))
            if partner != (two.st_dev, two.st_ino) or one.st_nlink != two.st_nlink:
                yield f"{_shown(path)}: hard links differ"
        if one.st_size != two.st_size:
            yield f"{_shown(path)}: size {one.st_size} became {two.st_size}"
        elif not _same_bytes(*paths):
            yield f"{_shown(path)}: contents differ"


def _xattrs(path: bytes) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def _same_bytes(one: bytes, two: bytes) -> bool:
    with open(one, "rb") as left, open(two, "rb") as right:
        while True:
            block = left.read(BLOCK)
            if block != right.read(BLOCK):
                return False
            if not block:
                return True


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace") or "."
