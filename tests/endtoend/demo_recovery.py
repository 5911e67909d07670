"""``make demo-recovery``: the node has burnt down, the password is forgotten, the data comes back. All by commands.

Three homes: `office` has the data and a password, `offsite` stores it and is blind, `escrow` holds a keyset whose pass
phrase hangs in a safe. After the backup the office's home is destroyed and its password forgotten. A new node asks the
escrow for the key of the newest restore point, gets it for itself alone, restores, and every byte is compared.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from compare_trees import differences
from demo import (
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

NO_KEY = 6
REFUSED = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder to copy (default: this Python's library)")
    parser.add_argument("--work", type=Path, help="folder for everything the demo makes (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep that folder")
    options = parser.parse_args()
    data = options.data or Path(sysconfig.get_paths()["stdlib"])
    if not data.is_dir():
        print(f"demo: {data} is not a folder; name one: make demo-recovery DATA=/path/to/folder", file=sys.stderr)
        return 2
    work = Path(tempfile.mkdtemp(prefix="transporter-demo-recovery-", dir=options.work))
    nodes = {name: Node(work, name) for name in ("office", "offsite", "escrow", "office2")}
    try:
        rows = play(work, data, nodes, library=options.data is None)
    except (Failed, OSError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        options.keep = True
        return 1
    finally:
        for node in nodes.values():
            node.stop()
        if options.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print_table(rows)
    print("The node was gone and its password forgotten; the escrow opened one restore point, for one node, once.")
    return 0


def play(work: Path, data: Path, nodes: dict[str, Node], *, library: bool) -> list[list[str]]:
    """The whole demo; return the rows of its table."""
    office, offsite, escrow, office2 = (nodes[name] for name in ("office", "offsite", "escrow", "office2"))
    print(f"1. a copy of {data} to work on")
    tree = work / "data"
    copy_data(data, tree, library=library)
    words = plant_markers(tree)
    plant_awkward_files(tree)

    print("2. an escrow with a keyset, and a pair")
    phrase = secret_file(work / "phrase")
    escrow.run("init", "--name", "escrow")
    escrow.run("keyset", "create", "2026", "--passphrase-file", str(phrase))
    public = work / "2026.public"
    public.write_text(escrow.run("keyset", "export", "2026", "--public"))
    password = secret_file(work / "password")
    set_up(office, offsite, password)

    identity = work / "identity"
    identity.write_text(office.run("identity", "export"))
    escrow.run("escrow", "register", str(identity))

    print("3. a backup from before the keyset, and one from after it")
    where = ("--to", "offsite/main", "--encrypt", "source", "--password", "office")
    rows = [row("first copy", office.job("backup", "--job", "data", *where, str(tree)))]
    vouched = ("--fingerprint", str(json.loads(escrow.run("--json", "keyset", "list"))["fingerprint"]))
    office.run("keyset", "import", str(public), *vouched)
    office.run("keyset", "apply")
    words += change(tree)
    rows.append(row("incremental", office.job("run", "data")))
    office.run("drill")

    print("4. the office burns down, and nobody remembers the password")
    office.stop()
    shutil.rmtree(office.home)
    password.unlink()

    print("5. a new node: offsite says that it is the same tenant, the escrow that it may ask")
    office2.run("init", "--name", "office2")
    office2.run("join", offsite.run("invite", "--repository", "main"))
    offsite.run("peer", "replace", "office", "office2")
    identity.write_text(office2.run("identity", "export"))
    escrow.run("escrow", "register", str(identity), "--instead-of", "office")
    office2.run("keyset", "import", str(public), *vouched)
    restored = work / "restored"
    restore = ("restore", "data", "latest", "--from", "offsite/main", "--output", str(restored))
    expect(office2, NO_KEY, *restore)

    print("6. request, answer, apply")
    points = office2.run("points", "--from", "offsite/main").splitlines()
    request, response = work / "request", work / "response"
    request.write_text(office2.run("recover", "request", points[-1]))
    answer = ("escrow", "answer", str(request), "--yes", "--passphrase-file", str(phrase))
    response.write_text(escrow.run(*answer))
    office2.run("recover", "apply", str(response))
    # Both are good for once.
    expect(escrow, REFUSED, *answer)
    expect(office2, REFUSED, "recover", "apply", str(response))

    print("7. restore, and compare every byte, mode, owner, time, attribute and link")
    rows.append(row("restore", office2.job(*restore)))
    found = list(differences(tree, restored))
    if found:
        raise Failed("the restored tree differs:\n  " + "\n  ".join(found[:20]))
    rows.append(["comparison", "equal", "", "", "", "", ""])
    searched = search((offsite.home,), words)
    print(f"  none of {len(words)} planted words is among {searched / 1e6:.0f} MB at offsite")
    for node in (escrow, office2):
        node.run("audit", "verify")
    return rows


def set_up(office: Node, offsite: Node, password: Path) -> None:
    """As a person would do it."""
    offsite.run("init", "--name", "offsite", "--listen", f"127.0.0.1:{free_port()}")
    offsite.run("repository", "add", "main")
    offsite.serve()
    office.run("init", "--name", "office")
    office.run("join", offsite.run("invite", "--repository", "main"))
    office.run("password", "add", "office", "--from-file", str(password))


def secret_file(path: Path) -> Path:
    """Write a secret that nobody knows to a file."""
    path.write_text(secrets.token_hex(16) + "\n")
    return path


def expect(node: Node, status: int, *arguments: str) -> None:
    """Run a command that must be refused."""
    process = node.start(node.command("--json", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = process.communicate()[1].decode(errors="replace")
    if process.returncode != status:
        raise Failed(f"`transporter {arguments[0]}` ended with {process.returncode}, not {status}: {said[-500:]}")
    reason = next((line for line in said.splitlines() if line), "")
    print(f"  {node.name}$ transporter {arguments[0]} … is refused: {shown(reason)}")


def shown(reason: str) -> str:
    """Return what an error says, whether it came as JSON or as text."""
    try:
        return str(json.loads(reason).get("what", reason))
    except ValueError:
        return reason


if __name__ == "__main__":
    sys.exit(main())
