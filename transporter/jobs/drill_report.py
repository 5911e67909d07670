"""What a drill found, as it crosses the control socket; a command needs nothing else of the drill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transporter.errors import CannotConnect, NoKey


@dataclass
class DrillReport:
    """``closed``: points that nothing here opens, with the ways that there would be."""

    points: int = 0
    closed: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unreached: dict[str, str] = field(default_factory=dict)

    def public(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "points": self.points,
            "closed": self.closed,
            "unreadable": self.unreadable,
            "unreached": self.unreached,
        }

    def check(self) -> None:
        """Raise NoKey where points are closed, or CannotConnect where not every place was reached."""
        closed = len(self.closed) + len(self.unreadable)
        if closed:
            raise NoKey(
                f"of {self.points + len(self.unreadable)} restore points {closed} cannot be opened by anything here",
                "they are listed above: add the password that they were made with, or restore another copy",
            )
        if self.unreached:
            places = "; ".join(f"{place}: {why}" for place, why in self.unreached.items())
            raise CannotConnect(
                f"{self.points} restore points open, but not every repository was reached ({places})",
                "run the drill again when they can be reached",
            )
