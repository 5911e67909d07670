"""Mounts for tests: where this machine lets nobody mount, the tests that need it are skipped, and say why."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e_node import Done, Node, ended, wait_until


def reason_not_to() -> str:
    """Why nothing can be mounted here; empty where it can."""
    if importlib.util.find_spec("pyfuse3") is None:
        return "pyfuse3 is not installed (make test-tools)"
    if shutil.which("fusermount3") is None:
        return "fuse3 is not installed (make test-tools)"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "this machine gives no /dev/fuse to this user"
    return ""


needs_mount = pytest.mark.skipif(bool(reason_not_to()), reason=reason_not_to() or "-")


@dataclass
class Mounted:
    """A mount under way. ``place``: where."""

    place: Path
    process: subprocess.Popen[bytes]
    said: Path

    def unmount(self, how: int = signal.SIGTERM) -> Done:
        """End it by a signal; return how it ended, with what it said."""
        self.process.send_signal(how)
        return self.ended()

    def ended(self) -> Done:
        """Wait for its end."""
        done = ended(self.process)
        return Done(done.status, self.said.read_text(), done.err)


@contextmanager
def mounted(node: Node, place: Path, *arguments: Any) -> Iterator[Mounted]:
    """Run `mount` in a process of its own; when the context ends nothing is mounted there, whatever became of it."""
    place.mkdir(exist_ok=True)
    said = place.with_name(f"{place.name}.said")
    with said.open("wb") as output:
        process = node.spawn("mount", *arguments, place, stdout=output)
    try:
        wait_until(lambda: b'"mounted"' in said.read_bytes() or process.poll() is not None, "the mount")
        assert process.poll() is None, (said.read_text(), process.communicate()[1])
        yield Mounted(place, process, said)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if os.path.ismount(place):
            subprocess.run(["fusermount3", "-uz", str(place)], check=False)
