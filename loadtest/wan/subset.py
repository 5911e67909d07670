"""What goes over the line: a part of the kernel's source, always the same one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..corpus import Corpora, fetch_linux_source, library_tree, warm
from ..measure import BenchError

BYTES = 180_000_000
FIRST = "fs"  # the folders before it are documentation, many tiny files, and drivers, few huge ones


def folders(tree: Path, first: str) -> Iterator[Path]:
    """Yield the folders of the second level, in the order of their names, from a folder of the first level on."""
    for top in sorted(path for path in tree.iterdir() if path.is_dir() and not path.is_symlink()):
        if top.name >= first:
            yield from sorted(path for path in top.iterdir() if path.is_dir() and not path.is_symlink())


def size_of(folder: Path) -> int:
    """Return the bytes of the regular files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def make_subset(tree: Path, subset: Path, most: int = BYTES, first: str = FIRST) -> None:
    """Copy whole folders of the second level, in the order of their names, where they fit into `most`; done once."""
    if subset.exists():
        return
    part = subset.with_name(subset.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    left = most
    for folder in folders(tree, first):
        size = size_of(folder)
        if size <= left:
            shutil.copytree(folder, part / folder.relative_to(tree), symlinks=True)
            left -= size
    if left > most / 10:
        raise BenchError(f"the tree is too small: it has no {most / 1e6:.0f} MB")
    part.rename(subset)


def lz4_bytes(tree: Path) -> int | None:
    """Return the size of ``tar | lz4`` of a tree; None where lz4 is not installed."""
    if shutil.which("lz4") is None:
        return None
    tar = ["tar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-C", str(tree.parent), "-c", tree.name]
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as archive:
        command = ["lz4", "-q", "-c"]
        with subprocess.Popen(command, stdin=archive.stdout, stdout=subprocess.PIPE) as packed:
            assert packed.stdout is not None
            size = 0
            while block := packed.stdout.read(1 << 20):
                size += len(block)
    return size


def prepare(cache: Path, tree: Path | None, *, quick: bool) -> Corpora:
    """Return what goes over the line, made if it is not there, and read once."""
    if tree is None:
        if quick:
            tree = library_tree(cache)
        else:
            whole = fetch_linux_source(cache)
            tree = cache / f"subset-of-{whole.name}"
            make_subset(whole, tree)
    tree = tree.resolve()
    if not tree.is_dir():
        raise BenchError(f"there is no folder {tree}")
    entries, size = warm(tree)
    return Corpora(tree, tree, tree.name, entries, size, 0)
