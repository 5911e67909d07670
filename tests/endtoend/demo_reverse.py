"""``make demo-reverse``: two sites that accept no connection, and a proxy host between them. Public commands only.

Three homes: `office` has the data, `offsite` stores it, `relay` joins what both dial. Backup, an incremental, verify,
restore, a comparison of every byte and every piece of metadata; proof that neither site listens, and that neither the
proxy host nor the target ever held a byte of plaintext.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from compare_trees import differences
from demo import (
    READY_SECONDS,
    Failed,
    Node,
    change,
    copy_data,
    free_port,
    plant_awkward_files,
    plant_markers,
    print_table,
    row,
    search,
)

LISTENING = "0A"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder to copy (default: this Python's library)")
    parser.add_argument("--work", type=Path, help="folder for everything the demo makes (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep that folder")
    options = parser.parse_args()
    data = options.data or Path(sysconfig.get_paths()["stdlib"])
    if not data.is_dir():
        print(f"demo: {data} is not a folder; name one: make demo-reverse DATA=/path/to/folder", file=sys.stderr)
        return 2
    work = Path(tempfile.mkdtemp(prefix="transporter-demo-reverse-", dir=options.work))
    office, offsite, relay = (Node(work, name) for name in ("office", "offsite", "relay"))
    try:
        rows = play(work, data, office, offsite, relay, library=options.data is None)
    except (Failed, OSError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        options.keep = True
        return 1
    finally:
        for node in (office, offsite, relay):
            node.stop()
        if options.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print_table(rows)
    print("Neither site accepted a connection; the proxy host joined what both dialled, and saw sealed bytes only.")
    return 0


def play(work: Path, data: Path, office: Node, offsite: Node, relay: Node, *, library: bool) -> list[list[str]]:
    """The whole demo; return the rows of its table."""
    print(f"1. a copy of {data} to work on")
    tree = work / "data"
    copy_data(data, tree, library=library)
    markers = plant_markers(tree)
    plant_awkward_files(tree)
    password = secrets.token_hex(16).encode()
    password_file = work / "password"
    password_file.write_bytes(password + b"\n")

    print("2. a proxy host, and two homes that only dial out")
    set_up(office, offsite, relay, password_file)
    for node in (office, offsite):
        ports = listening(node)
        if ports:
            raise Failed(f"{node.name} listens on {ports}")
    print("  neither office nor offsite listens on any port")

    print("3. the first copy, sealed at the source; offsite dials office, through relay")
    where = ("--to", "offsite/main", "--encrypt", "source", "--password", "office")
    rows = [row("first copy", office.job("backup", "--job", "data", *where, str(tree)))]

    print("4. a change, and an incremental")
    markers += change(tree)
    rows.append(row("incremental", office.job("run", "data")))
    rows.append(row("nothing changed", office.job("run", "data")))

    print("5. the proxy host restarts; both sites come back to it by themselves")
    relay.stop()
    relay.serve("--proxy")
    rows.append(row("verify", office.job("verify", "data")))

    print("6. restore, and compare every byte, mode, owner, time, attribute and link")
    restored = work / "restored"
    rows.append(row("restore", office.job("restore", "data", "latest", "--output", str(restored))))
    found = list(differences(tree, restored))
    if found:
        raise Failed("the restored tree differs:\n  " + "\n  ".join(found[:20]))
    rows.append(["comparison", "equal", "", "", "", "", ""])

    print("7. what do the blind target and the proxy host know?")
    for node in (office, offsite, relay):
        node.stop()
    searched = search((offsite.home, offsite.log, relay.home, relay.log), [*markers, password])
    rows.append([f"{len(markers)} markers there", "none found", f"{searched / 1e6:,.1f} MB", "", "", "", ""])
    return rows


def set_up(office: Node, offsite: Node, relay: Node, password_file: Path) -> None:
    """As a person would do it."""
    relay.run("init", "--name", "relay", "--listen", f"127.0.0.1:{free_port()}")
    relay.serve("--proxy")
    for node in (offsite, office):
        node.run("init", "--name", node.name)
        node.run("join", relay.run("invite", "--proxy"))
    offsite.run("repository", "add", "main")
    office.run("password", "add", "office", "--from-file", str(password_file))
    for node in (offsite, office):
        node.serve()
        wait_until_parked(node)
    office.run("join", "--reverse", offsite.run("invite", "--repository", "main", "--via", "relay"))


def wait_until_parked(node: Node) -> None:
    """Return once the daemon keeps a connection at the proxy host."""
    deadline = time.monotonic() + READY_SECONDS
    while b"link parked" not in node.log.read_bytes():
        if time.monotonic() > deadline:
            raise Failed(f"{node.name} does not reach the proxy host:\n{node.log.read_text(errors='replace')}")
        time.sleep(0.02)


def listening(node: Node) -> list[int]:
    """Return the TCP ports on which a node's daemon accepts connections (proc(5), net/tcp)."""
    if node.daemon is None:
        raise Failed(f"{node.name} does not run")
    process = Path("/proc", str(node.daemon.pid))
    sockets = set()
    for handle in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(handle))
    ports = []
    for table in ("tcp", "tcp6"):
        for line in (process / "net" / table).read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == LISTENING and f"socket:[{cells[9]}]" in sockets:
                ports.append(int(cells[1].rpartition(":")[2], 16))
    return ports


if __name__ == "__main__":
    sys.exit(main())
