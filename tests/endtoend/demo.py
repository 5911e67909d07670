"""``make demo``: a real offsite copy on this machine, with nothing but the public command line.

Two homes, two daemons on loopback, a source-encrypted copy of real data, an incremental after a change, a restore,
a comparison of every byte and every piece of metadata, and a search for plaintext at the blind target.
The data itself is never touched: the demo works on a copy of it, in a folder that it removes at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from compare_trees import differences

MARKERS = 200
READY_SECONDS = 120
SEARCH_BLOCK = 8 << 20


class Failed(Exception):
    """A step of the demo did not do what it promises."""


class Node:
    """One home and its daemon."""

    start = staticmethod(subprocess.Popen)

    def __init__(self, work: Path, name: str) -> None:
        self.name = name
        self.home = work / name
        self.log = work / f"{name}.log"
        self.daemon: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "transporter", "--home", str(self.home), *arguments]

    def run(self, *arguments: str, options: tuple[str, ...] = ("--quiet",)) -> str:
        """Run one command, show it, return its stdout."""
        shown = " ".join(part if len(part) < 48 else part[:45] + "…" for part in arguments)
        print(f"  {self.name}$ transporter {shown}", flush=True)
        process = self.start(self.command(*options, *arguments), stdout=subprocess.PIPE)
        out, _ = process.communicate()
        if process.returncode:
            raise Failed(f"`transporter {arguments[0]}` ended with exit status {process.returncode}; log: {self.log}")
        return out.decode().strip()

    def job(self, *arguments: str) -> dict[str, object]:
        """Run a job; return its last event."""
        lines = self.run(*arguments, options=("--json",)).splitlines()
        finished = [event for event in map(json.loads, lines) if event.get("event") == "job_finished"]
        if len(finished) != 1:
            raise Failed(f"`transporter {arguments[0]}` did not tell how it went")
        return finished[0]

    def serve(self, *options: str) -> None:
        """Start the daemon; return when it is ready."""
        print(f"  {self.name}$ transporter {' '.join(('serve', *options))} &", flush=True)
        with self.log.open("wb") as log:
            command = self.command("--log-format", "json", "serve", *options)
            self.daemon = self.start(command, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        while b"ready" not in self.log.read_bytes():
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the daemon of {self.name} did not get ready:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                self.daemon.wait(20)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
            self.daemon = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder to copy (default: this Python's library)")
    parser.add_argument("--work", type=Path, help="folder for everything the demo makes (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep that folder")
    options = parser.parse_args()
    data = options.data or Path(sysconfig.get_paths()["stdlib"])
    if not data.is_dir():
        print(f"demo: {data} is not a folder; name one: make demo DATA=/path/to/folder", file=sys.stderr)
        return 2
    work = Path(tempfile.mkdtemp(prefix="transporter-demo-", dir=options.work))
    source, target = Node(work, "office"), Node(work, "offsite")
    try:
        rows = play(work, data, source, target, library=options.data is None)
    except (Failed, OSError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        options.keep = True
        return 1
    finally:
        source.stop()
        target.stop()
        if options.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print_table(rows)
    return 0


def play(work: Path, data: Path, source: Node, target: Node, *, library: bool) -> list[list[str]]:
    """The whole demo; return the rows of its table."""
    print(f"1. a copy of {data} to work on")
    tree = work / "data"
    copy_data(data, tree, library=library)
    markers = plant_markers(tree)
    plant_awkward_files(tree)
    password = secrets.token_hex(16).encode()
    password_file = work / "password"
    password_file.write_bytes(password + b"\n")

    print("2. two homes, two daemons, paired")
    set_up(source, target, password_file)

    print("3. the first copy, sealed at the source")
    where = ("--to", "offsite/main", "--encrypt", "source", "--password", "office")
    rows = [row("first copy", source.job("backup", "--job", "data", *where, str(tree)))]

    print("4. a change, and an incremental")
    markers += change(tree)
    rows.append(row("incremental", source.job("run", "data")))
    rows.append(row("nothing changed", source.job("run", "data")))

    print("5. proof: verify at the source, scrub at the target")
    rows.append(row("verify", source.job("verify", "data")))
    target.run("scrub", "main")

    print("6. restore, and compare every byte, mode, owner, time, attribute and link")
    restored = work / "restored"
    rows.append(row("restore", source.job("restore", "data", "latest", "--output", str(restored))))
    found = list(differences(tree, restored))
    if found:
        raise Failed("the restored tree differs:\n  " + "\n  ".join(found[:20]))
    rows.append(["comparison", "equal", "", "", "", "", ""])

    print("7. what does the blind target know?")
    source.stop()
    target.stop()
    searched = search((target.home, target.log), [*markers, password])
    search((source.home, source.log), [password])
    rows.append([f"{len(markers)} markers at the target", "none found", f"{searched / 1e6:,.1f} MB", "", "", "", ""])
    return rows


def set_up(source: Node, target: Node, password_file: Path) -> None:
    target.run("init", "--name", "offsite", "--listen", f"127.0.0.1:{free_port()}")
    target.run("repository", "add", "main")
    target.serve()
    source.run("init", "--name", "office")
    source.serve()
    source.run("join", target.run("invite", "--repository", "main"))
    source.run("password", "add", "office", "--from-file", str(password_file))


def copy_data(data: Path, tree: Path, *, library: bool) -> None:
    """Copy with everything ``cp -a`` keeps; of a Python library only the library, not what was installed into it."""
    tree.mkdir()
    left_out = {"site-packages", "dist-packages"} if library else set()
    entries = [str(entry) for entry in sorted(data.iterdir()) if entry.name not in left_out]
    if entries:
        subprocess.run(["cp", "-a", "--reflink=auto", "--", *entries, str(tree)], check=True)


def plant_markers(tree: Path) -> list[bytes]:
    """Plant random words as names and contents; return them."""
    folder = tree / "planted"
    folder.mkdir()
    markers = [f"marker-{secrets.token_hex(12)}" for _ in range(MARKERS)]
    for name, content in zip(markers[::2], markers[1::2], strict=True):
        (folder / name).write_text(f"{content}\n" * 3)
    return [marker.encode() for marker in markers]


def plant_awkward_files(tree: Path) -> None:
    """Add one of each kind of file that copies often get wrong."""
    folder = tree / "awkward"
    folder.mkdir()
    (folder / "empty").touch()
    (folder / "two names").write_text("one file")
    os.link(folder / "two names", folder / "the other name")
    (folder / "link").symlink_to("../planted")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "fifo", 0o640)
    (folder / "set-id").write_text("mode")
    (folder / "set-id").chmod(0o4751)
    with open(os.fsencode(folder) + b"/not-utf-8-\xff\xfe", "wb") as file:
        file.write(b"a name of any bytes")
    with open(folder / "sparse", "wb") as file:
        file.seek(64 << 20)
        file.write(b"after a hole")
    with contextlib.suppress(OSError):  # not every file system has them
        os.setxattr(folder / "empty", "user.note", b"an attribute")
    os.utime(folder / "empty", ns=(1, 987_654_321_123_456_789))


def change(tree: Path) -> list[bytes]:
    """Change, add, rename and remove files; return the new marker."""
    planted = sorted((tree / "planted").iterdir())
    planted[0].unlink()
    planted[1].rename(planted[1].with_name("renamed"))
    with planted[2].open("a") as file:
        file.write("one line more\n")
    marker = f"marker-{secrets.token_hex(12)}"
    (tree / "planted" / "new").write_text(marker)
    biggest = max((path for path in tree.rglob("*.py") if path.is_file()), key=_size, default=None)
    if biggest is not None:
        with biggest.open("r+b") as file:
            file.write(b"# changed\n")
    return [marker.encode()]


def _size(path: Path) -> int:
    return path.lstat().st_size


def search(places: tuple[Path, ...], words: list[bytes]) -> int:
    """Fail if a word occurs in any file's contents or name; return how many bytes were searched."""
    searched = 0
    overlap = max(map(len, words))
    for path in files_in(places):
        tail = os.fsencode(path.name)
        with path.open("rb") as file:
            while True:
                found = [word for word in words if word in tail]
                if found:
                    raise Failed(f"plaintext found in {path}: {len(found)} of the planted words")
                block = file.read(SEARCH_BLOCK)
                if not block:
                    break
                searched += len(block)
                tail = tail[-overlap:] + block
    return searched


def files_in(places: tuple[Path, ...]) -> Iterator[Path]:
    for place in places:
        if place.is_file():
            yield place
        else:
            yield from (path for path in place.rglob("*") if path.is_file() and not path.is_symlink())


def row(step: str, job: dict[str, object]) -> list[str]:
    """Return a line of the table from a job's last event."""
    numbers = {name: float(str(job.get(name, 0))) for name in ("bytes_new", "seconds", "files")}
    moved = float(str(job.get("bytes_sent" if job["operation"] == "backup" else "bytes_received", 0)))
    whole = {"backup": "bytes_read", "restore": "bytes_written"}.get(str(job["operation"]), "bytes_total")
    worked = float(str(job.get(whole, 0)))
    rate = f"{worked / 1e6 / numbers['seconds']:,.0f} MB/s" if worked > 1e7 else ""
    sizes = [f"{size / 1e6:,.1f} MB" for size in (worked, numbers["bytes_new"], moved)]
    return [step, f"{numbers['files']:,.0f} files", *sizes, f"{numbers['seconds']:.2f} s", rate]


def print_table(rows: list[list[str]]) -> None:
    head = ["", "", "data", "new", "on the link", "time", ""]
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    print()
    for line in [head, *rows]:
        cells = [
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())
    print("\nThe copy is complete and identical; the target never saw a name or a byte of it.")


def free_port() -> int:
    """A port that nobody else gets before the daemon listens there: it stays bound here, and is not listened on."""
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    port = int(keeper.getsockname()[1])
    keeper.detach()  # open for as long as this process lives
    return port


if __name__ == "__main__":
    sys.exit(main())
