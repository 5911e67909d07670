"""The contenders over a line."""

from __future__ import annotations

from typing import ClassVar

from ..measure import BenchError
from ..peers.base import TREE_FIRST, TREE_RESTORE, Peer
from ..peers.borg import Borg
from ..peers.ours import PASSWORD, SourceMode
from ..peers.plain import RsyncZ, TarLz4
from ..peers.restic import Restic
from ..ssh import free_port

_SETTING = '\n[link]\ncongestion = "system"\n'


class SystemCongestion(SourceMode):
    """Mode `source` with the line's congestion control, as everybody else.

    The transporter may ask the kernel for another one than the system's; the line says what all of them use. A build
    that knows no such key uses the system's anyway.
    """

    note: ClassVar[str] = "mode `source`; job in the source's daemon; congestion control left to the system"

    def configure(self, home: str) -> None:
        """Leave congestion control to the system, where this build can be told so."""
        path = self._homes[home] / "config.toml"
        before = path.read_text()
        path.write_text(before + _SETTING)
        try:
            self._call(home, "check-config")
        except BenchError:
            path.write_text(before)


class ThroughProxyHost(SystemCongestion):
    """Neither end listens: both dial a proxy host, which stands beside the target. What is measured is the host."""

    name: ClassVar[str] = "transporter (proxy host)"
    works: ClassVar[tuple[str, ...]] = (TREE_FIRST, TREE_RESTORE)
    other_end: ClassVar[str] = "R"
    note: ClassVar[str] = (
        "mode `source`; neither end listens, both dial a proxy host beside the target; *target* is the proxy host"
    )

    def __enter__(self) -> ThroughProxyHost:
        """Set up the three homes as a person would, and start their daemons."""
        self._homes["R"] = self.folder / "R"
        password = self._new_password()
        try:
            self._call("R", "init", "--name", "relay", "--listen", f"{self.site.target_address}:{free_port()}")
            self.configure("R")
            self._serve("R", "--proxy")
            for home, name in (("B", "offsite"), ("A", "office")):
                self._call(home, "init", "--name", name)
                self.configure(home)
                self._call(home, "join", self._call("R", "--quiet", "invite", "--proxy"))
            self._call("B", "repository", "add", "main", "--path", str(self._repository))
            self._call("A", "password", "add", PASSWORD, "--from-file", str(password))
            for home in ("B", "A"):
                self._serve(home, until=b"link parked")
            invitation = self._call("B", "--quiet", "invite", "--repository", "main", "--via", "relay")
            self._call("A", "join", "--reverse", invitation)
        except BaseException:
            self._stack.close()
            raise
        return self


WAN_CONTENDERS: tuple[type[Peer], ...] = (SystemCongestion, ThroughProxyHost, RsyncZ, TarLz4, Borg, Restic)
