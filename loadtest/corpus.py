"""What is copied: a large real file tree and one large image."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from .measure import BenchError

MIB = 1 << 20
_PACKAGE = re.compile(r"Depends:\s+(linux-source-[0-9.]+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Corpora:
    """The two corpora and their sizes. Counts are of directory entries, sizes in bytes of content."""

    tree: Path
    image: Path
    tree_label: str
    tree_files: int
    tree_bytes: int
    image_bytes: int


def fetch_linux_source(cache: Path) -> Path:
    """Download Debian's kernel source package, unpack it below `cache` and return the tree; done once.

    Raises `BenchError` where there is no ``apt-get`` or no such package.
    """
    for old in sorted(cache.glob("linux-source-*")):
        if old.is_dir() and not old.name.endswith(".part"):
            return old
    missing = [tool for tool in ("apt-get", "apt-cache", "dpkg-deb", "tar") if shutil.which(tool) is None]
    if missing:
        raise BenchError(f"no {', '.join(missing)} here to fetch the corpus with; name a tree with --tree PATH")
    cache.mkdir(parents=True, exist_ok=True)
    answer = subprocess.run(["apt-cache", "depends", "linux-source"], capture_output=True, text=True, check=False)
    match = _PACKAGE.search(answer.stdout)
    if match is None:
        raise BenchError("the package index knows no linux-source; name a tree with --tree PATH")
    name = match.group(1)
    part = cache / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    subprocess.run(["apt-get", "-q", "download", name], cwd=part, check=True)
    (package,) = part.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(part)], check=True)
    (archive,) = part.glob("usr/src/linux-source-*.tar.*")
    subprocess.run(["tar", "-xf", str(archive), "-C", str(part)], check=True)
    (part / name).rename(cache / name)
    shutil.rmtree(part)
    return cache / name


def library_tree(cache: Path) -> Path:
    """Return a copy of the running Python's standard library: small (some 30 MB), real, on every machine; done once."""
    tree = cache / "python-library"
    if not tree.exists():
        part = cache / "python-library.part"
        shutil.rmtree(part, ignore_errors=True)
        left_out = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__")
        shutil.copytree(sysconfig.get_paths()["stdlib"], part, symlinks=True, ignore=left_out)
        part.rename(tree)
    return tree


def make_image(tree: Path, image: Path) -> None:
    """Write the tree as one deterministic image file: a sorted tar, padded to a multiple of 1 MiB; done once."""
    if image.exists():
        return
    image.parent.mkdir(parents=True, exist_ok=True)
    part = image.with_name(image.name + ".part")
    options = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]
    subprocess.run(["tar", *options, "-C", str(tree.parent), "-cf", str(part), tree.name], check=True)
    with part.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.truncate(-(-size // MIB) * MIB)
        os.fsync(file.fileno())
    part.rename(image)


def warm(path: Path, leave_out: str = "\0") -> tuple[int, int]:
    """Read a file, or a tree but for folders whose name begins with `leave_out`; return (entries, bytes) read."""
    buffer = bytearray(MIB)
    if path.is_file():
        return 1, _read(path, buffer)
    entries = size = 0
    for root, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(leave_out)]
        entries += len(folders) + len(files)
        for name in files:
            full = os.path.join(root, name)
            if os.path.isfile(full) and not os.path.islink(full):
                size += _read(full, buffer)
    return entries, size


def _read(path: str | Path, buffer: bytearray) -> int:
    size = 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size += count
    return size


def prepare(cache: Path, tree: Path | None, image: Path | None, *, quick: bool) -> Corpora:
    """Return both corpora, made if they are not there, and read once."""
    if tree is None:
        tree = library_tree(cache) if quick else fetch_linux_source(cache)
    tree = tree.resolve()
    if not tree.is_dir():
        raise BenchError(f"there is no folder {tree}")
    if image is None:
        image = cache / f"{tree.name}.image"
        make_image(tree, image)
    image = image.resolve()
    entries, size = warm(tree)
    return Corpora(tree, image, tree.name, entries, size, image.stat().st_size)
