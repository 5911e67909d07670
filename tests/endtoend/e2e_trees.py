"""Trees to copy, and the proof that a restored one is the same."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import stat
import subprocess
from pathlib import Path

from compare_trees import differences

MIB = 1 << 20
AWKWARD_SIZES = (0, 1, 4095, 4096, 65_537, MIB - 1, MIB, MIB + 1, 5 * MIB + 3)


def noise(size: int, seed: int) -> bytes:
    """Bytes that no compressor makes smaller; the same for the same seed."""
    return random.Random(seed).randbytes(size)


def words(size: int, seed: int) -> bytes:
    """Text that compresses well and does not repeat as a whole."""
    chooser = random.Random(seed)
    lexicon = [chooser.randbytes(4).hex().encode() for _ in range(300)]
    return b" ".join(chooser.choices(lexicon, k=size // 9 + 1))[:size]


def small_tree(root: Path, seed: int = 1) -> Path:
    """Some forty files in a few folders, some 3 MB, half of it compressible."""
    for at in range(40):
        path = root / f"folder-{at % 4}" / f"file-{at:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((noise if at % 2 else words)(3_000 * (at + 1), seed * 1000 + at))
    (root / "big.bin").write_bytes(noise(700_000, seed))
    return root


def large_tree(root: Path, megabytes: int = 24, seed: int = 1) -> Path:
    """Files of 1 MiB and some small ones, incompressible: what is sent can be counted."""
    root.mkdir(parents=True)
    for at in range(megabytes):
        (root / f"part-{at:03}").write_bytes(noise(MIB, seed * 10_000 + at))
        (root / f"part-{at:03}.note").write_bytes(words(500, seed * 10_000 + at))
    return root


def age(root: Path) -> None:
    """Date everything back: a file that was changed just now could change again within its time stamp."""
    for folder, folders, names in os.walk(root, topdown=False):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            os.utime(path, ns=(10**18, os.lstat(path).st_mtime_ns - 10**12), follow_symlinks=False)


def awkward_tree(root: Path) -> Path:
    """One of each kind of thing that copies get wrong; what needs root is there when the test runs as root."""
    root.mkdir()
    _names(root / "names")
    _links(root / "links")
    _metadata(root / "metadata")
    _special(root / "special")
    _sparse(root / "sparse")
    for size in AWKWARD_SIZES:
        (root / f"size-{size}").write_bytes(noise(size, size))
    (root / "twice").write_bytes(noise(5 * MIB + 3, 5 * MIB + 3))
    for path, when in ((root / "size-1", 1), (root / "size-4095", -(10**18)), (root / "metadata", 2**33 * 10**9 + 7)):
        os.utime(path, ns=(when, when))
    return root


def _names(folder: Path) -> None:
    folder.mkdir()
    inside = os.fsencode(folder) + b"/"
    odd = (
        b"-rf",
        b" ",
        b"...",
        b"~",
        b"*",
        b"a\nb",
        b"tab\tbell\x07",
        b"\xff\xfe not utf-8",
        "über ☃".encode(),
        b"n" * 255,
    )
    for name in odd:
        with open(inside + name, "wb") as file:
            file.write(name)
    os.mkdir(inside + b"\xff folder")
    with open(inside + b"\xff folder/\xff", "wb"):
        pass
    # Path order: "a", "a/…", "a-b" sort differently as strings and as components.
    for name in ("a", "a-b", "a.b"):
        (folder / name).mkdir()
        (folder / name / "inner").write_text(name)
    deep = folder
    for _ in range(60):
        deep = deep / "deep"
        deep.mkdir()
    (deep / "down here").write_text("far down")
    (folder / "empty folder").mkdir()


def _links(folder: Path) -> None:
    folder.mkdir()
    (folder / "sub").mkdir()
    (folder / "one").write_text("one file, three names")
    os.link(folder / "one", folder / "another")
    os.link(folder / "one", folder / "sub" / "third")
    (folder / "nothing").touch()
    os.link(folder / "nothing", folder / "nothing as well")
    (folder / "relative").symlink_to("sub/third")
    (folder / "absolute").symlink_to("/etc/hostname")
    (folder / "dangling").symlink_to("no such thing")
    (folder / "to folder").symlink_to("sub")
    (folder / "to itself").symlink_to("to itself")
    os.symlink(b"\xff/\n", os.fsencode(folder) + b"/odd target")
    os.utime(folder / "dangling", ns=(5, 1_234_567_890_123_456_789), follow_symlinks=False)
    os.link(folder / "dangling", folder / "dangling too", follow_symlinks=False)


def _metadata(folder: Path) -> None:
    folder.mkdir()
    for mode in (0o000, 0o400, 0o644, 0o777, 0o4755, 0o2750, 0o1666):
        path = folder / f"mode-{mode:04o}"
        path.write_text("mode")
        path.chmod(mode)
    for mode in (0o500, 0o1777, 0o2775):
        (folder / f"folder-{mode:04o}").mkdir()
        (folder / f"folder-{mode:04o}" / "inner").write_text("inner")
        (folder / f"folder-{mode:04o}").chmod(mode)
    (folder / "attributes").write_text("attributes")
    with contextlib.suppress(OSError):
        os.setxattr(folder / "attributes", "user.note", b"\x00\xff value")
        os.setxattr(folder / "attributes", "user.empty", b"")
        os.setxattr(folder / "folder-2775", "user.note", b"on a folder")
    if shutil.which("setfacl"):
        for rule in (["-m", "u:12345:r-x,g:54321:rw-"], ["-d", "-m", "u:12345:rwx"]):
            subprocess.run(["setfacl", *rule, folder / "folder-1777"], check=False, stderr=subprocess.DEVNULL)
    if os.geteuid() == 0:
        os.chown(folder / "attributes", 12345, 54321)
        (folder / "link of another").symlink_to("attributes")
        os.lchown(folder / "link of another", 1, 1)
        with contextlib.suppress(OSError):
            os.setxattr(folder / "attributes", "trusted.note", b"for root")
            # CAP_NET_BIND_SERVICE, version 2, as setcap writes it; after chown, which takes it away.
            os.setxattr(folder / "mode-0777", "security.capability", bytes.fromhex("0100000200040000" + "00" * 12))


def _special(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "fifo", 0o640)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        here = os.open(folder, os.O_RDONLY)
        sock.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):
            os.mknod(folder / "character", 0o620 | stat.S_IFCHR, os.makedev(1, 3))
            os.mknod(folder / "block", 0o660 | stat.S_IFBLK, os.makedev(259, 1_048_575))


def _sparse(folder: Path) -> None:
    folder.mkdir()
    holes = {
        "only a hole": [(0, 0)],
        "hole first": [(8 * MIB, 100)],
        "hole last": [(0, 5000)],
        "holes between": [(0, MIB), (16 * MIB, 4096), (20 * MIB, 2 * MIB)],
    }
    for name, pieces in holes.items():
        with open(folder / name, "wb") as file:
            for at, length in pieces:
                file.seek(at)
                file.write(noise(length, at))
            file.truncate(32 * MIB)


def assert_same(original: Path, restored: Path) -> None:
    """Fail unless both trees are equal in every byte and all metadata, hard links and holes included."""
    found = list(differences(original, restored))
    assert not found, "\n".join(found[:20])
    if shutil.which("rsync"):
        words = ["rsync", "-aHAXn", "--checksum", "--itemize-changes", "--delete", "--numeric-ids", "--no-specials"]
        # "--no-specials" would leave out fifos; only sockets may be missing, and they are removed by the caller.
        words.remove("--no-specials")
        done = subprocess.run([*words, f"{original}/", f"{restored}/"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, ""), done.stdout[:2000] + done.stderr[:2000]


def blocks(path: Path) -> int:
    """Bytes that a file takes on the disk."""
    return path.stat().st_blocks * 512
