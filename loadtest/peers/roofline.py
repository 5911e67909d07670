"""The roofline as a contender: what the C functions alone take on this machine."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import ClassVar

from ..measure import BenchError, Usage, run
from .base import IMAGE_FIRST, TREE_FIRST, Peer, Result

PROJECT = Path(__file__).parents[2]


class Roofline(Peer):
    """See `loadtest.roofline`: its own clock excludes process start-up, which favours it."""

    name: ClassVar[str] = "roofline"
    works: ClassVar[tuple[str, ...]] = (IMAGE_FIRST, TREE_FIRST)
    needs_ssh: ClassVar[bool] = False
    note: ClassVar[str] = "the same C functions on all cores, no protocol, no index, no metadata; start-up not counted"

    def __enter__(self) -> Roofline:
        """There is nothing to prepare."""
        return self

    def copy(self, what: str, source: Path) -> Result:
        """Push the bytes once through the functions."""
        output = self.folder / "output"
        output.mkdir()
        try:
            done = run([sys.executable, "-m", "loadtest.roofline", what, str(source), str(output)], folder=PROJECT)
        finally:
            shutil.rmtree(output)
        return parse(done.output)

    def restore(self, what: str, output: Path) -> Result:
        """There is no roofline of a restore."""
        raise BenchError(f"the roofline has nothing to restore ({what}, {output.name})")


def parse(text: str) -> Result:
    """Return the result that the roofline printed."""
    row = json.loads(text)
    ends = {end: Usage(row[end]["cpu"], row[end]["peak"]) for end in ("source", "target")}
    return Result(row["seconds"], ends["source"], ends["target"], row["target"]["bytes"], row["source"]["bytes"])
