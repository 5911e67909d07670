"""restic over sftp."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ..measure import run
from ..ssh import HOST
from .base import Peer, Result


class Restic(Peer):
    """restic with its defaults; the repository is reached through sshd's sftp server."""

    name: ClassVar[str] = "restic"
    needs: ClassVar[tuple[str, ...]] = ("restic", "ssh")
    note: ClassVar[str] = (
        "over sftp with its defaults; it asks for no fsync over sftp, so one `sync -f` of the target follows"
    )

    def __enter__(self) -> Restic:
        """Make one repository for each corpus."""
        for what in ("tree", "image"):
            run(self.site.at_source(self._command(what, "init")), environment=self._environment)
        return self

    @property
    def _environment(self) -> dict[str, str]:
        return {"RESTIC_PASSWORD": "throwaway", "RESTIC_CACHE_DIR": str(self.folder / "cache")}

    def _repository(self, what: str) -> Path:
        return self.folder / f"repository-{what}"

    def _command(self, what: str, *arguments: str) -> list[str]:
        transport = f"sftp.command={self.ssh.shell()} -s {HOST} sftp"
        return ["restic", "--quiet", "-r", f"sftp:{HOST}:{self._repository(what)}", "-o", transport, *arguments]

    def copy(self, what: str, source: Path) -> Result:
        """Make a snapshot; the parent is found by restic itself."""
        command = self._command(what, "backup", "--host", "bench", str(source))
        repository = self._repository(what)
        return self.over_ssh(command, stored=repository, settle=repository, environment=self._environment)

    def restore(self, what: str, output: Path) -> Result:
        """Restore the latest snapshot."""
        command = self._command(what, "restore", "latest", "--target", str(output))
        return self.over_ssh(command, settle=output, environment=self._environment)
