"""What all tests stand on: where their files lie, how the program logs, and RSA keys that are made once."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The helper beside this file; the test runner imports tests by path and puts no folder on the path by itself.
sys.path.insert(0, str(Path(__file__).parent))

from every_module import remember_parameters
from lent_keys import lent_keys

from transporter import logs

remember_parameters()

# `make test` asks properties about the same examples each time, so that what fails is about what was changed;
# `make campaign-properties` draws others, and more. No deadline: the machine is shared.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("others", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("PROPERTIES", "same"))

MEMORY = Path("/dev/shm")
PREFIX = "transporter-tests-"
# Of the memory file system: several times what a whole run leaves there at its end.
ROOM = 3 << 30


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Put temporary files into memory: tests sync often, and to wait for a disk proves nothing of what they test.

    What is about file systems has ``on_disk``.
    """
    if config.option.basetemp is None and not hasattr(config, "workerinput") and _fit_for_tests():
        config.option.basetemp = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=MEMORY)
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def _fit_for_tests() -> bool:
    """Whether there is room, and all that copies of files need; first what killed runs left there is removed."""
    if not os.access(MEMORY, os.W_OK):
        return False
    for left in MEMORY.glob(f"{PREFIX}*"):
        if not Path("/proc", left.name.removeprefix(PREFIX).partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.NamedTemporaryFile(dir=MEMORY) as probe:
        try:
            os.setxattr(probe.name, "user.probe", b"an attribute")
            os.close(os.open(probe.name, os.O_RDONLY | os.O_DIRECT))
        except OSError:
            return False
    space = os.statvfs(MEMORY)
    return space.f_bavail * space.f_frsize >= ROOM


@pytest.fixture
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder where temporary files usually are, for modules that call it their ``tmp_path``."""
    if not tmp_path_factory.getbasetemp().is_relative_to(MEMORY):
        yield tmp_path_factory.mktemp("on-disk")
        return
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def plain_logs() -> None:
    """Log as the daemon does. What structlog does by itself paints each traceback: seconds, and it shows variables."""
    logs.configure("json", stream=sys.stderr)


@pytest.fixture(autouse=True, scope="module")
def lent_rsa_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keysets that are made in this process have RSA keys that the run makes once; those of a module all differ.

    To make one takes a second or more. That they are made, and are good, is what tests/keys/test_keyset.py is about.
    """
    with lent_keys(_folder_of_run(tmp_path_factory)):
        yield


@pytest.fixture
def rsa_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are, for programs of tests that do the same."""
    return _folder_of_run(tmp_path_factory)


def _folder_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    # Processes of one run have folders of their own in a common one.
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
