"""What the bench asks of a contender."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ..corpus import Corpora
from ..measure import Finished, Sample, Usage, disk_usage, run
from ..site import LOOPBACK, Site
from ..ssh import SshServer

TREE_FIRST = "tree-first"
TREE_AGAIN = "tree-again"
TREE_RESTORE = "tree-restore"
IMAGE_FIRST = "image-first"
IMAGE_RESTORE = "image-restore"
RESTORES = (IMAGE_RESTORE, TREE_RESTORE)
WORKS = (IMAGE_FIRST, IMAGE_RESTORE, TREE_FIRST, TREE_AGAIN, TREE_RESTORE)
COPIES = (IMAGE_FIRST, TREE_FIRST, TREE_AGAIN)


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a contender reports of one piece of work; the bench adds its name and the round."""

    seconds: float
    source: Usage
    target: Usage
    stored: int | None = None
    sent: int | None = None
    flush: float = 0.0
    job_seconds: float | None = None

    def sample(self, peer: str, work: str, number: int) -> Sample:
        """Return the sample of this result."""
        ends = (self.source, self.target)
        return Sample(peer, work, number, self.seconds, *ends, self.stored, self.sent, self.flush, self.job_seconds)


class Peer(contextlib.AbstractContextManager["Peer"]):
    """A contender for one round: entered once, asked for its works in their order, left at the end of the round.

    Whatever must exist before a work can be done (repositories, daemons) is made in ``__enter__``, outside the
    measured time.
    """

    name: ClassVar[str]
    works: ClassVar[tuple[str, ...]] = WORKS
    needs: ClassVar[tuple[str, ...]] = ()  # programs that must be installed
    needs_ssh: ClassVar[bool] = True
    note: ClassVar[str] = ""  # one line for the report: how it was run

    def __init__(self, folder: Path, corpora: Corpora, ssh: SshServer | None, site: Site = LOOPBACK) -> None:
        """Keep where to work (`folder` exists and is empty), what to copy, the ssh server, and where the ends are."""
        self.folder = folder
        self.corpora = corpora
        self._ssh = ssh
        self.site = site

    def __exit__(self, *_: object) -> None:
        """Stop what was started; the bench removes the folder."""

    @property
    def ssh(self) -> SshServer:
        """The ssh server; asked for only by peers that need one."""
        assert self._ssh is not None
        return self._ssh

    def do(self, work: str) -> Result:
        """Do one piece of work and measure it."""
        if work in RESTORES:
            output = self.folder / f"out-{work}"
            output.mkdir()
            return self.restore("tree" if work == TREE_RESTORE else "image", output)
        if work == IMAGE_FIRST:
            return self.copy("image", self.corpora.image)
        return self.copy("tree", self.corpora.tree)

    def copy(self, what: str, source: Path) -> Result:
        """Copy `source` to the target; `what` is ``tree`` or ``image``."""
        raise NotImplementedError

    def restore(self, what: str, output: Path) -> Result:
        """Restore the last copy into the empty folder `output`."""
        raise NotImplementedError

    def check(self, what: str, output: Path) -> None:
        """Compare what was restored with the original, where the bench vouches for it; not measured."""

    def over_ssh(
        self,
        command: Sequence[str],
        *,
        stored: Path | None = None,
        settle: Path | None = None,
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> Result:
        """Run a command that talks to the ssh server; `stored` is the folder on the target that grows by it."""
        before = disk_usage_of(stored)
        self.ssh.start_measuring()
        done: Finished = run(self.site.at_source(command), environment=environment, settle=settle, folder=folder)
        target = self.ssh.measured()
        grown = None if stored is None else disk_usage_of(stored) - before
        return Result(done.seconds, done.usage, target, grown, flush=done.flush)


def disk_usage_of(path: Path | None) -> int:
    """Return the bytes under `path`, 0 for none."""
    return 0 if path is None or not path.exists() else disk_usage(path)
