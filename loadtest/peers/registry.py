"""Which contenders there are, and which can run here."""

from __future__ import annotations

import shutil

from ..ssh import sshd_path
from .base import Peer
from .borg import Borg
from .ours import ON_REQUEST as OURS_ON_REQUEST
from .ours import OURS
from .plain import LocalCopy, Rsync, TarLz4
from .restic import Restic
from .roofline import Roofline

CONTENDERS: tuple[type[Peer], ...] = (*OURS, Roofline, LocalCopy, Restic, Borg, Rsync, TarLz4)
ON_REQUEST: tuple[type[Peer], ...] = OURS_ON_REQUEST  # run only when named


def missing_programs(peer: type[Peer]) -> list[str]:
    """Return what would have to be installed for this contender."""
    missing = [program for program in peer.needs if shutil.which(program) is None]
    if peer.needs_ssh and sshd_path() is None:
        missing.append("sshd")
    return missing
