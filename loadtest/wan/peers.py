"""The contenders over a line."""

from __future__ import annotations

from typing import ClassVar

from ..measure import BenchError
from ..peers.base import Peer
from ..peers.borg import Borg
from ..peers.ours import SourceMode
from ..peers.plain import RsyncZ, TarLz4
from ..peers.restic import Restic

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


WAN_CONTENDERS: tuple[type[Peer], ...] = (SystemCongestion, RsyncZ, TarLz4, Borg, Restic)
