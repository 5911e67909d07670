"""What a review finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Severity(IntEnum):
    """How bad it is. SERIOUS: data is lost or read when one thing more goes wrong. WARNING: two. NOTE: good to know."""

    NOTE = 1
    WARNING = 2
    SERIOUS = 3

    @property
    def word(self) -> str:
        """As people read it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """``code`` is stable; ``subject``: what it is about (a job, a password, a file); the rest are sentences."""

    code: str
    severity: Severity
    subject: str
    reason: str
    remedy: str

    def public(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "code": self.code,
            "severity": self.severity.word,
            "subject": self.subject,
            "reason": self.reason,
            "remedy": self.remedy,
        }
