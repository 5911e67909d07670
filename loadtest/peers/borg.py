"""borg over ssh."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import ClassVar

from ..measure import run
from ..ssh import HOST
from .base import Peer, Result


class Borg(Peer):
    """borg with repokey-blake2 and its default compression, lz4; ``borg serve`` at the other end."""

    name: ClassVar[str] = "borg"
    needs: ClassVar[tuple[str, ...]] = ("borg", "ssh")
    note: ClassVar[str] = "over ssh, repokey-blake2, compression lz4"

    def __enter__(self) -> Borg:
        """Make one repository for each corpus."""
        self._numbers = itertools.count(1)
        self._last = {"tree": "", "image": ""}
        for what in self._last:
            init = ["borg", "init", "--encryption", "repokey-blake2", self._url(what)]
            run(self.site.at_source(init), environment=self._environment)
        return self

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "BORG_RSH": self.ssh.shell(),
            "BORG_PASSPHRASE": "throwaway",
            "BORG_BASE_DIR": str(self.folder / "borg"),
            "BORG_DISPLAY_PASSPHRASE": "no",
        }

    def _repository(self, what: str) -> Path:
        return self.folder / f"repository-{what}"

    def _url(self, what: str) -> str:
        return f"ssh://{HOST}{self._repository(what)}"

    def copy(self, what: str, source: Path) -> Result:
        """Make an archive."""
        self._last[what] = f"{self._url(what)}::{next(self._numbers)}"
        command = ["borg", "create", "--compression", "lz4", self._last[what], str(source)]
        return self.over_ssh(command, stored=self._repository(what), environment=self._environment)

    def restore(self, what: str, output: Path) -> Result:
        """Extract the last archive; borg extracts into its working folder."""
        command = ["borg", "extract", self._last[what]]
        return self.over_ssh(command, settle=output, folder=output, environment=self._environment)
