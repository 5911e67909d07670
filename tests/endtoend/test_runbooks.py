"""docs/runbooks.md, executed as it stands: each runbook after the installation that all of them begin with."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from compare_trees import differences
from demo import Node, free_port
from forked_programs import start

sys.path.insert(0, str(Path(__file__).parents[1] / "kms"))
from kms_servers import OpenBao, openbao_server

PAGE = Path(__file__).parents[2] / "docs" / "runbooks.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.S | re.M))
BEGINNING = "The installation that these begin with"
RUNBOOKS = [title for title in SECTIONS if title != BEGINNING]
# What the page tells people to do that no command does.
WORK = "# Somebody works in docs."
PUT_BACK = "# Put what was restored in the place where the data was."
STOP = "systemctl stop transporter"


class Forked(Node):
    """Its daemon is forked as the commands are: that daemons start by themselves is what the demos are about."""

    start = staticmethod(start)


@dataclass
class Site:
    """A folder with all homes, in which the page's lines are typed."""

    work: Path
    nodes: dict[str, Node] = field(default_factory=dict)
    ends: ExitStack = field(default_factory=ExitStack)
    bao: OpenBao | None = None
    said: str = ""  # by the last command
    clean: Path | None = None  # what a restore has to bring, where it is not what lies there

    def __post_init__(self) -> None:
        if (self.work / "docs").exists():
            return  # made before
        for name in ("office.password", "another.password", "bundle.password", "escrow.phrase", "another.phrase"):
            self.secret(name)
        (self.work / "docs" / "folder").mkdir(parents=True)
        (self.work / "docs" / "file").write_text("contents\n" * 1000)
        (self.work / "docs" / "folder" / "other").write_bytes(secrets.token_bytes(100_000))
        fingerprint = self.work / "bin" / "fingerprint"
        fingerprint.parent.mkdir()
        # Of the newest keyset in a list.
        fingerprint.write_text(f'#!/bin/sh\ntail -n 1 "$1" | {sys.executable} -c {FINGERPRINT}\n')
        fingerprint.chmod(0o755)

    def secret(self, name: str) -> None:
        path = self.work / name
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16) + "\n")

    def node(self, name: str) -> Node:
        # The new machine is where the office was: one folder's loss is the other's beginning.
        return self.nodes.setdefault(name, Forked(self.work, name))

    def type(self, line: str) -> None:
        """Type one line of the page."""
        if line == WORK:
            (self.work / "docs" / "file").write_text("other contents\n" * 1000)
        if line == PUT_BACK:
            shutil.rmtree(self.work / "docs")
            shutil.copytree(self.work / "restored", self.work / "docs", symlinks=True)
        if not line or line.startswith("#"):
            return
        name, _, words = line.partition("$ ")
        node = self.node(name)
        if "PORT" in words:
            words = words.replace("PORT", str(free_port()))
        if words == STOP:
            node.stop()
            return
        if words.endswith(" &"):
            node.serve()
            return
        # What ends with an exit status that says so: damage that is there.
        words, may_fail, _ = words.partition(" || true")
        words, _, output = words.partition(" > ")
        path = f"{self.work / 'bin'}:{os.environ['PATH']}"
        # The shell takes the line apart, as a person's would; the program itself is not started anew each time.
        done = subprocess.run(
            ["sh", "-c", f"set -e; transporter() {{ printf '%s\\0' \"$@\"; }}; {words}"],
            cwd=self.work,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        out, err = self.work / (output or "stdout"), self.work / "stderr"
        with out.open("wb") as said, err.open("wb") as complained:
            how = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": complained}
            status = start(node.command(*done.stdout.split("\0")[:-1]), folder=self.work, **how).wait(60)
        self.said = out.read_text() + err.read_text()
        assert status == 0 or may_fail, f"{line}\n{self.said}"

    def service(self) -> OpenBao:
        """A key management service, started when it is needed."""
        if self.bao is None:
            folder = self.work / "bao"
            folder.mkdir()
            self.bao = self.ends.enter_context(openbao_server(folder))
        return self.bao

    def open_account(self, name: str) -> None:
        """Make a key, and put it into the office's configuration, as the handbook shows."""
        server = self.service()
        server.new_key(name)
        token = server.new_token(self.work / f"{name}.token", name)
        with (self.node("office").home / "config.toml").open("a") as file:
            file.write(
                f'\n[kms.{name}]\nkind = "transit"\nkey = "{name}"\nendpoint = "{server.endpoint}"\n'
                f'token_file = "{token}"\n'
            )

    def lose(self, name: str) -> None:
        """What the page says is lost."""
        if name == "office":
            shutil.rmtree(self.node(name).home)
        else:
            (self.work / name).unlink()

    def pull_disk(self, name: str) -> None:
        """All that is left of a node is its repository."""
        node = self.nodes.pop(name)
        node.stop()
        (node.home / "repositories" / "main").rename(self.work / "disk")
        shutil.rmtree(node.home)

    def repository(self) -> Path:
        return self.node("offsite").home / "repositories" / "main"

    def damage(self) -> None:
        """Flip a bit in the middle of the largest pack: in the content of a file."""
        pack = max(self.repository().glob("packs/*/*"), key=lambda path: path.stat().st_size)
        raw = bytearray(pack.read_bytes())
        raw[len(raw) // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(raw)

    def die(self) -> None:
        """The disk with the repository is gone under the daemon."""
        shutil.rmtree(self.repository())

    def burn(self, name: str) -> None:
        """Nothing is left of a node."""
        node = self.nodes.pop(name)
        node.stop()
        shutil.rmtree(node.home)

    def attack(self, name: str) -> None:
        """Somebody has the node: a point is removed in its name, its files are encrypted, and its schedule goes on."""
        self.type(f"offsite$ transporter peer allow-remove {name} main")
        self.type(f"{name}$ transporter --quiet points --job docs > points")
        self.type(f'{name}$ transporter point remove docs "$(sed -n 1p points)"')
        self.clean = self.work / "docs.clean"
        shutil.copytree(self.work / "docs", self.clean, symlinks=True)
        for path in [path for path in (self.work / "docs").rglob("*") if path.is_file()]:
            path.with_name(f"{path.name}.locked").write_bytes(secrets.token_bytes(path.stat().st_size))
            path.unlink()
        self.type(f"{name}$ transporter run docs")

    def stop(self) -> None:
        self.ends.close()
        for node in self.nodes.values():
            node.stop()

    def follow(self, section: str) -> int:
        """Do what a section says, in its order; return how many comparisons there were."""
        compared = 0
        for said, what, block in re.findall(r"<!-- (\w+): (\S+) -->|```sh\n(.*?)```", SECTIONS[section], re.S):
            if said == "lost":
                self.lose(what)
            elif said == "disk":
                self.pull_disk(what)
            elif said == "damaged":
                self.damage()
            elif said in ("says", "lacks"):
                assert (what in self.said) == (said == "says"), f"{said} {what}: {self.said}"
            elif said == "died":
                self.die()
            elif said == "gone":
                self.burn(what)
            elif said == "attacked":
                self.attack(what)
            elif said == "copy":
                shutil.copytree(self.repository(), self.work / what)
            elif said == "service":
                self.open_account(what)
            elif said == "closed":
                self.service().ask("DELETE", f"transit/keys/{what}/soft-delete")
            elif said == "compare":
                assert list(differences(self.clean or self.work / "docs", self.work / what)) == []
                compared += 1
            for line in block.splitlines():
                self.type(line)
        return compared


FINGERPRINT = "'import json, sys; print(json.load(sys.stdin)[\"fingerprint\"])'"


@pytest.fixture(scope="module")
def beginning(tmp_path_factory):
    """The installation, made once: the folder where it lies, and a copy of it as it was."""
    work = tmp_path_factory.mktemp("runbooks") / "site"
    work.mkdir()
    site = Site(work)
    try:
        assert site.follow(BEGINNING) == 0
    finally:
        site.stop()
    shutil.copytree(work, work.with_name("copy"), symlinks=True)
    return work


@pytest.mark.parametrize("runbook", RUNBOOKS)
def test_runbook(runbook, beginning):
    # At the same path each time: homes know where their files are.
    shutil.rmtree(beginning)
    shutil.copytree(beginning.with_name("copy"), beginning, symlinks=True)
    site = Site(beginning)
    try:
        site.node("offsite").serve()
        assert site.follow(runbook) >= 1
    finally:
        site.stop()


def test_the_page_is_read_whole():
    """Else a runbook that nobody executes would look as good as the others."""
    assert len(RUNBOOKS) >= 5 and BEGINNING in SECTIONS
    commands = [line for text in SECTIONS.values() for line in text.splitlines() if re.match(r"\w+\$ ", line)]
    blocks = [block for text in SECTIONS.values() for block in re.findall(r"```sh\n(.*?)```", text, re.S)]
    assert len(commands) == sum(len(re.findall(r"^\w+\$ ", block, re.M)) for block in blocks) > 60
