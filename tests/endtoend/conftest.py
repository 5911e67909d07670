from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# The helpers beside this file, and those beside the tests of the service.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from e2e_node import Node, Pair, set_up_pair
from e2e_relay import Relay
from forked_programs import start
from forked_workers import forked_workers

from transporter.bundle.export import export_bundle
from transporter.keys.keyset import seal_private
from transporter.keys.operator_key import seal_operator
from transporter.keys.password import KdfParameters
from transporter.keys.password_table import PasswordTable


@contextmanager
def forking() -> Iterator[None]:
    """Commands, daemons and workers are forked, and passwords cheap: the demos have all of it as it is for people."""
    with pytest.MonkeyPatch.context() as patched, forked_workers():
        patched.setattr(Node, "start", staticmethod(start))
        for priced in (export_bundle, seal_private, seal_operator, PasswordTable.__init__):
            patched.setitem(priced.__kwdefaults__, "parameters", KdfParameters(8, 1, 1))
        yield


@pytest.fixture(autouse=True, scope="module")
def forks():
    """No longer than for a module: other tests of this process are about the price, or about workers."""
    with forking():
        yield


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Nothing of the environment of the test run reaches the program, and no command tunes the test's own process."""
    monkeypatch.delenv("TRANSPORTER_HOME", raising=False)
    monkeypatch.delenv("TRANSPORTER_DEBUG", raising=False)
    # Some tests run in another process: their warnings are errors, too.
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setattr("transporter.daemon.tuning.tune_process", lambda: None)
    # What a shell runs in its background ignores Ctrl-C, and so would the commands that tests start, and stop by it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def paired_homes(tmp_path_factory):
    """Two homes that are paired and do not run, to be copied."""
    with forking():
        return set_up_pair(tmp_path_factory.mktemp("homes"))


@pytest.fixture(scope="session")
def pair(paired_homes, tmp_path_factory):
    """A pair for every test that leaves it sound: the target's daemon runs. Each test uses job names of its own."""
    pair = paired_homes.copy(tmp_path_factory.mktemp("pair"))
    with forking():
        pair.serve()
    yield pair
    pair.stop()


@pytest.fixture
def new_pair(paired_homes, tmp_path):
    """A pair of this test alone; ``new_pair()`` makes it, its daemon runs unless ``serve=False``."""
    made: list[Pair] = []

    def make(*, serve: bool = True) -> Pair:
        pair = paired_homes.copy(tmp_path / f"pair-{len(made)}")
        made.append(pair)
        if serve:
            pair.serve()
        return pair

    yield make
    for pair in made:
        pair.kill()


@pytest.fixture
def relay():
    """``relay(pair)`` puts a relay on the line of a pair, and has the source dial it."""
    made: list[Relay] = []

    def make(pair: Pair, **how: bool) -> Relay:
        relay = Relay(pair.target.port, **how)
        made.append(relay)
        pair.source.dials("offsite", relay.port)
        return relay

    yield make
    for each in made:
        each.close()


@pytest.fixture
def second_home(tmp_path):
    """``second_home(node)`` copies a home to a new machine, as it were; without its key database where asked."""

    def copy(node: Node, *, keys: bool = True) -> Node:
        import shutil

        place = tmp_path / "second-home"
        shutil.copytree(node.home, place, ignore=shutil.ignore_patterns("*.sock", "repositories"))
        if not keys:
            for path in (*place.glob("keys.db*"), place / "master.key"):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
        return Node(place)

    return copy
