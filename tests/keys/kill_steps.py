"""kill -9 before each step of a command about keys: run by test_kill_steps.py, and whole by `make campaign-kill-keys`.

    [RSA_KEYS=FOLDER] python kill_steps.py COMMAND WORK [EVERY [FIRST]]

A *step* is a call that may change a disk, or a statement to a database. Everything is imported once; each try is a fork
of this process that gets a copy of a prepared folder, runs the command and kills itself before step FIRST, FIRST+EVERY,
…; then the command is run again, as a person would, and what must hold afterwards is checked. Prints a line of JSON.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from every_module import load_every_module
from lent_keys import lent_keys

from loadtest.keys import fill
from transporter import file_system_sync
from transporter.cli import main as cli
from transporter.clock import SystemClock
from transporter.keys import password_changes, password_table
from transporter.keys.approval import approve
from transporter.keys.approval import make_request as make_approval_request
from transporter.keys.approval import read_request as read_approval_request
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.database import KeyDatabase
from transporter.keys.deeds import deed
from transporter.keys.escrow_table import RingHead
from transporter.keys.key_ring import KeyRing, seal_ring
from transporter.keys.keyset import generate_keyset, seal_private
from transporter.keys.keyset_file import encode_keyset
from transporter.keys.node_key import NodeKey
from transporter.keys.operator_key import generate_operator
from transporter.keys.password import KdfParameters
from transporter.keys.recovery import make_request
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.keys.storage_key import StorageKey, open_slot
from transporter.keys.wrap import point_context
from transporter.link.identity import load_identity
from transporter.repository import Repository, slot_store

CHEAP = KdfParameters(8, 1, 1)
POINTS = 3
TENANT, REPOSITORY, POINT = "office-1a2b", b"r" * 16, b"p" * 16
WHERE = point_context(TENANT, REPOSITORY, POINT)
KEY = StorageKey(b"k" * 32)
KEPT = {bytes([number]) * 16: StorageKey(bytes([number]) * 32) for number in range(4)}
RUN, DOMAIN = (SessionKey(b"s" * 32), MetaKey(b"m" * 32)), ChunkIdKey(b"c" * 32)
STEPS = ("open", "write", "writev", "replace", "rename", "link", "unlink", "mkdir", "fsync", "fdatasync", "ftruncate")


SAID = [""]  # what the last command printed


@dataclass
class Steps:
    """Counts steps, and kills this process before one of them."""

    die_at: int = 0
    taken: int = 0
    names: list[str] = field(default_factory=list)

    def take(self, name: str) -> None:
        self.taken += 1
        self.names.append(name)
        if self.taken == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Put a step before each of these calls."""
        for name in STEPS:
            setattr(os, name, self._before(name, getattr(os, name)))
        sync = self._before("sync_all", file_system_sync.sync_all)
        slot_store.sync_all = sync
        steps = self

        class Watched(sqlite3.Connection):
            def execute(self, statement: str, *rest: Any) -> sqlite3.Cursor:
                words = statement.split()
                if words[:1] not in ([], ["SELECT"]):
                    steps.take(words[0])
                return super().execute(statement, *rest)

        connect = sqlite3.connect
        sqlite3.connect = lambda *args, **kwargs: connect(*args, **kwargs, factory=Watched)

    def _before(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **kwargs: Any) -> Any:
            if name != "open" or (len(args) > 1 and args[1] & (os.O_CREAT | os.O_TRUNC)):
                self.take(name)
            return call(*args, **kwargs)

        return stepped


def run(home: Path, *arguments: str) -> int:
    """Run a command in this process, silently."""
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    sys.stdin = io.TextIOWrapper(io.BytesIO(b""))
    try:
        return cli.run_command(["--home", str(home), *arguments])
    finally:
        SAID[:] = [sys.stdout.getvalue()]
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def forked(work: Callable[[], int | None]) -> int:
    """Run ``work`` in a child; return its status, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        status = 99
        try:
            status = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    ended = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(ended)


# ---- the commands: what is there before, what is run, what must hold after it was run again ----


class Change:
    """A password that points of a repository of this node were sealed with."""

    command: tuple[str, ...] = ("password", "change", "vault", "--from-file", "new")

    def prepare(self, work: Path) -> None:
        home = work / "home"
        assert run(home, "init", "--name", "offsite") == 0
        with (home / "config.toml").open("a") as file:
            file.write('[repositories.main]\nencrypt_at_rest = "vault"\nkeep_replaced_slots = "0s"\n')
        (work / "new").write_text("a new one\n")
        with KeyDatabase(home / "keys.db") as keys:
            user_key = keys.add_password("vault", b"the first")
            place = home / "repositories" / "main"
            with Repository.create(place, clock=SystemClock(), encrypted=True) as store:
                fill(store, user_key, POINTS)
            (work / "old").write_bytes(user_key.hash.salt)
            for point, key in KEPT.items():
                keys.put_storage_key(point, key, user_key)
            keys.remember_run("job", POINT, *RUN, user_key)
            keys.ensure_domain_key("job", user_key, DOMAIN)

    def run(self, work: Path) -> int:
        os.chdir(work)
        password_changes.BATCH = 1  # so that it is killed between any two rows, too
        return run(work / "home", *self.command)

    @staticmethod
    def opens_what_is_kept(keys: KeyDatabase) -> bool:
        """Everything in the key database opens, by the one hash or the other."""
        (remembered,) = keys.runs("job")
        found = {point: keys.storage_key(point) for point in KEPT}
        return (found, remembered.session_key, keys.domain_key("job")) == (KEPT, RUN[0], DOMAIN)

    def check(self, work: Path) -> None:
        os.chdir(work)
        home, old = work / "home", (work / "old").read_bytes()
        # Before anything is mended: every point opens, by the old hash or by the new one.
        assert run(home, "drill") == 0
        with KeyDatabase(home / "keys.db") as keys:
            began, unfinished = keys.user_key("vault").salt != old, keys.unfinished_changes()
            assert self.opens_what_is_kept(keys)
        if unfinished:
            assert run(home, "password", "change", "vault", "--resume") == 0, SAID
        elif not began:
            assert run(home, *self.command) == 0, SAID
        assert run(home, "drill") == 0 and run(home, "audit", "verify") == 0
        with KeyDatabase(home / "keys.db") as keys:
            now = keys.user_key("vault")
            assert now.salt != old and keys.unfinished_changes() == [] and keys.find_by_salt(old) is None
            assert self.opens_what_is_kept(keys)
            with Repository.open(home / "repositories" / "main", SystemClock(), writable=False) as store:
                met = 0
                for tenant in store.tenants():
                    for _job, point in store.point_ids(tenant):
                        (slot,) = store.slots(point).values()
                        open_slot(slot, now, point_context(tenant, store.repository_id, point))
                        met += 1
                assert met == POINTS


class Rotate(Change):
    """The same password, hashed anew."""

    command = ("password", "rotate", "vault", "--from-file", "same")

    def prepare(self, work: Path) -> None:
        super().prepare(work)
        (work / "same").write_text("the first\n")


class Import:
    """The public half of a keyset."""

    def prepare(self, work: Path) -> None:
        assert run(work / "home", "init", "--name", "office") == 0
        with KeyDatabase(work / "home" / "keys.db"):
            pass
        keyset = generate_keyset("2026")
        (work / "public").write_text(encode_keyset(keyset.public, None))
        (work / "fingerprint").write_text(keyset.public.fingerprint)

    def run(self, work: Path) -> int:
        vouched = ("--fingerprint", (work / "fingerprint").read_text())
        return run(work / "home", "keyset", "import", str(work / "public"), *vouched)

    def check(self, work: Path) -> None:
        with KeyDatabase(work / "home" / "keys.db") as keys:
            there = [keyset.fingerprint for keyset in keys.active_keysets()]
        assert there in ([], [(work / "fingerprint").read_text()])
        assert self.run(work) == (2 if there else 0)
        with KeyDatabase(work / "home" / "keys.db") as keys:
            assert len(keys.active_keysets()) == 1
        assert run(work / "home", "audit", "verify") == 0


class Answer:
    """A request, at the escrow that can open it."""

    def prepare(self, work: Path) -> None:
        (work / "phrase").write_text("phrase\n")
        keyset = generate_keyset("2026")
        for name in ("escrow", "office"):
            assert run(work / name, "init", "--name", name) == 0
        with KeyDatabase(work / "escrow" / "keys.db") as keys:
            keys.add_keyset(keyset.public, seal_private(keyset, b"phrase", parameters=CHEAP), event="keyset.create")
        with KeyDatabase(work / "office" / "keys.db") as keys:
            keys.add_keyset(keyset.public, None, event="keyset.import")
        assert run(work / "office", "identity", "export") == 0
        (work / "identity").write_text(SAID[0])
        assert run(work / "escrow", "escrow", "register", str(work / "identity")) == 0
        node = NodeKey(load_identity(work / "office", "office", SystemClock()).key)
        ring = seal_ring(KEY, KeyRing(None, (SessionKey.generate(),), (MetaKey.generate(),)), WHERE)
        for name in ("request", "another"):
            asked = make_request(
                node,
                name="office",
                tenant=TENANT,
                repository_id=REPOSITORY,
                job="docs",
                point=POINT,
                keyset=keyset.public.id,
                slots=[keyset.public.make_slot(KEY, WHERE, node)],
                ring=(len(ring), ring[0]),
                clock=SystemClock(),
            )
            (work / name).write_text(asked.text)
            with KeyDatabase(work / "office" / "keys.db") as keys:
                keys.remember_request(asked, RingHead(keyset.public.id, WHERE, len(ring), ring[0]))

    def answered(self, work: Path, request: str) -> int:
        phrase = ("--yes", "--passphrase-file", str(work / "phrase"))
        status = run(work / "escrow", "escrow", "answer", str(work / request), *phrase)
        if status == 0:
            (work / f"{request}.response").write_text(SAID[0])
        return status

    def run(self, work: Path) -> int:
        return self.answered(work, "request")

    def check(self, work: Path) -> None:
        # Either it can still be answered, or it counts as answered and another one is.
        status = self.run(work)
        assert status in (0, 5), status
        request = "request" if status == 0 else "another"
        if status:
            assert self.answered(work, request) == 0
        assert self.answered(work, request) == 5
        assert run(work / "office", "recover", "apply", str(work / f"{request}.response")) == 0
        with KeyDatabase(work / "office" / "keys.db") as keys:
            assert keys.storage_key(POINT) == KEY
        for name in ("escrow", "office"):
            assert run(work / name, "audit", "verify") == 0


class Apply(Answer):
    """A response, at the node that asked."""

    def prepare(self, work: Path) -> None:
        super().prepare(work)
        assert self.answered(work, "request") == 0

    def run(self, work: Path) -> int:
        return run(work / "office", "recover", "apply", str(work / "request.response"))

    def check(self, work: Path) -> None:
        assert self.run(work) in (0, 5)
        with KeyDatabase(work / "office" / "keys.db") as keys:
            assert keys.storage_key(POINT) == KEY
        assert run(work / "office", "audit", "verify") == 0


class Approved:
    """A password that goes only if two operators approved of it."""

    def prepare(self, work: Path) -> None:
        home = work / "home"
        assert run(home, "init", "--name", "office") == 0
        pin = load_identity(home, "office", SystemClock()).pin
        anna, bert = generate_operator("anna"), generate_operator("bert")

        def approval(operation: str, *subject: str) -> str:
            asked = make_approval_request(anna, deed(operation, *subject), node="office", pin=pin, clock=SystemClock())
            return approve(bert, read_approval_request(asked), SystemClock())

        with KeyDatabase(home / "keys.db") as keys:
            keys.add_password("old", b"an old one")
            for operator in (anna, bert):
                keys.add_operator(operator.public, pin)
            keys.present(approval("four-eyes.require", "password"))
            keys.require_approval(["password"])
        (work / "approval").write_text(approval("password.remove", "old"))
        (work / "again").write_text(approval("password.add", "old"))

    def run(self, work: Path) -> int:
        return run(work / "home", "password", "remove", "old", "--approval", str(work / "approval"))

    def check(self, work: Path) -> None:
        home = work / "home"
        # Whatever the trail says of it is proved, also where it was not done in the end.
        assert run(home, "approval", "verify") == 0
        with KeyDatabase(home / "keys.db") as keys:
            there, used = bool(keys.list()), [info.used_ns > 0 for info in keys.approvals()[1:]]
        assert used in ([], [False]) if there else used == [True]
        assert self.run(work) == (0 if there else 6)
        # It is good for one.
        with KeyDatabase(home / "keys.db") as keys:
            assert keys.list() == []
            keys.present((work / "again").read_text())
            keys.add_password("old", b"an old one")
        assert self.run(work) == 5
        assert run(home, "audit", "verify") == 0 and run(home, "approval", "verify") == 0


COMMANDS = {
    "change": Change,
    "rotate": Rotate,
    "import": Import,
    "answer": Answer,
    "apply": Apply,
    "approved": Approved,
}


def tried(world: Any, template: Path, folder: Path, die_at: int) -> tuple[bool, str]:
    """Kill the command before a step, then check; return whether it was killed, and what does not hold."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)

    def command() -> int:
        Steps(die_at).watch()
        return int(world.run(folder))

    status = forked(command)
    if status not in (0, -signal.SIGKILL):
        return False, f"ended with {status}"
    problem = "" if forked(lambda: world.check(folder)) == 0 else "what must hold does not"
    return status == -signal.SIGKILL, problem


def main(name: str, work: Path, every: int, first: int) -> int:
    password_table.PasswordTable.__init__.__kwdefaults__["parameters"] = CHEAP
    load_every_module()
    world, template = COMMANDS[name](), work / "template"
    template.mkdir(parents=True)
    if forked(lambda: world.prepare(template)):
        return 1
    killed, failed, step = 0, [], first
    while True:
        was_killed, problem = tried(world, template, work / "try", step)
        killed += was_killed
        if problem:
            failed.append({"before_step": step, "problem": problem})
        if not was_killed:
            break  # beyond the last step, or in trouble
        step += every
    print(json.dumps({"command": name, "every": every, "killed": killed, "steps_up_to": step, "failed": failed}))
    return int(bool(failed))


if __name__ == "__main__":
    arguments = [int(word) for word in sys.argv[3:]]
    lent = os.environ.get("RSA_KEYS")
    with lent_keys(Path(lent)) if lent else nullcontext():
        sys.exit(main(sys.argv[1], Path(sys.argv[2]), *(arguments + [1, 1][len(arguments) :])))
