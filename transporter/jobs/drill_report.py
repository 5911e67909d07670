"""What a drill found, as it crosses the control socket; a command needs nothing else of the drill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transporter.errors import CannotConnect, CorruptedPoint, NoKey


@dataclass
class DrillReport:
    """``closed``: points that nothing here opens, with the ways that there would be.

    ``here_alone``: those that the key that this node kept opens, and no slot of theirs: lost with this node.
    """

    points: int = 0
    closed: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unreached: dict[str, str] = field(default_factory=dict)
    here_alone: list[dict[str, Any]] = field(default_factory=list)

    def public(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "points": self.points,
            "closed": self.closed,
            "unreadable": self.unreadable,
            "unreached": self.unreached,
            "here_alone": self.here_alone,
        }

    def check(self) -> None:
        """Raise NoKey where points are closed, CorruptedPoint where slots are lost, or CannotConnect for places."""
        closed = len(self.closed) + len(self.unreadable)
        if closed:
            raise NoKey(
                f"of {self.points + len(self.unreadable)} restore points {closed} cannot be opened by anything here",
                "they are listed above: add the password that they were made with, or restore another copy",
            )
        if self.here_alone:
            raise CorruptedPoint(
                f"{len(self.here_alone)} of {self.points} restore points open by the key that this node kept, and no "
                "slot of theirs opens anything: without this node they are lost",
                "they are listed above: run scrub at the target, and `recover keep POINT --password NAME` here",
            )
        if self.unreached:
            places = "; ".join(f"{place}: {why}" for place, why in self.unreached.items())
            raise CannotConnect(
                f"{self.points} restore points open, but not every repository was reached ({places})",
                "run the drill again when they can be reached",
            )
