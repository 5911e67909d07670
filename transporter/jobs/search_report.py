"""What a search is asked, and how it went, as they cross the control socket; a command needs nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transporter.errors import CannotConnect, DamagedData, NoKey, TransporterError, error_of


@dataclass
class SearchReport:
    """``points``: searched; ``hits``: lines found; ``closed``: points of this node that nothing here opens.

    ``foreign``: those that a tenant sealed, in a repository of this node. ``slow``: points without an index.
    ``damaged``: points that could not be searched to the end. ``unreached``: places, with code and reason.
    ``shut``: what stood in the way of the first of the closed ones, where it was more than a key that is not here.
    ``other_zone``: points of another zone than they must be of.
    """

    points: int = 0
    hits: int = 0
    closed: int = 0
    foreign: int = 0
    slow: int = 0
    damaged: list[str] = field(default_factory=list)
    unreached: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    cut: bool = False
    shut: tuple[str, str, str] | None = None
    other_zone: int = 0

    def public(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "points": self.points,
            "hits": self.hits,
            "closed": self.closed,
            "foreign": self.foreign,
            "slow": self.slow,
            "damaged": self.damaged,
            "unreached": {place: list(why) for place, why in self.unreached.items()},
            "cut": self.cut,
            "shut": list(self.shut) if self.shut else None,
            "other_zone": self.other_zone,
        }

    @classmethod
    def of(cls, fields: dict[str, Any]) -> SearchReport:
        """Return the report that ``public`` made."""
        unreached = {place: (why[0], why[1], why[2]) for place, why in fields["unreached"].items()}
        shut = fields.get("shut")
        return cls(**{**fields, "unreached": unreached, "shut": tuple(shut) if shut else None})

    def error(self) -> TransporterError | None:
        """Return what a person must hear although, or because, nothing else came of it: the gravest only."""
        if self.damaged:
            return DamagedData(
                f"of {self.points + self.closed} restore points {len(self.damaged)} could not be searched to the end "
                f"({', '.join(sorted({point[:8] for point in self.damaged})[:8])})",
                "what the others hold was found; run scrub at the target",
            )
        if self.unreached:
            return self._unreached()
        if self.closed or (self.foreign and not self.points):
            return self._closed()
        if self.other_zone:
            return NoKey(
                f"{self.other_zone} restore points are of another zone than their job, and were not searched",
                "say which zone they are of: --zone source, target or none",
            )
        return None

    def _unreached(self) -> TransporterError:
        if len(self.unreached) == 1 and not self.points:
            ((place, (code, what, remedy)),) = self.unreached.items()
            return error_of(code, f"{place}: {what}", remedy)
        places = "; ".join(f"{place}: {what}" for place, (_code, what, _remedy) in self.unreached.items())
        return CannotConnect(f"not every repository was searched ({places})", "search again when they can be reached")

    def _closed(self) -> TransporterError:
        if self.shut is not None:
            code, what, remedy = self.shut
            return error_of(code, f"{self.closed} restore points were not searched: {what}", remedy)
        if not self.points:
            return NoKey(
                "the restore points are sealed, and this node has no key of theirs: it sees nothing of their files",
                "search at the node that made them, or give it their password: `password recover`",
            )
        return NoKey(
            f"{self.closed} restore points were not searched: nothing here opens them",
            "`transporter drill` lists them; `password recover` brings a password back",
        )
