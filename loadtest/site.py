"""Where the two ends of a bench run: on this machine as it is, or each in a network namespace of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """The words before a command that make it run at an end, and the addresses of both ends."""

    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    source_address: str = "127.0.0.1"
    target_address: str = "127.0.0.1"

    def at_source(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs `command` at the source."""
        return [*self.source, *command]

    def at_target(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs `command` at the target."""
        return [*self.target, *command]


LOOPBACK = Site()
