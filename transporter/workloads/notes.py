"""What the scanner and the writer have to say about single files, without stopping for them."""

from __future__ import annotations

from typing import Literal, NamedTuple

NoteCode = Literal[
    "unreadable", "vanished", "changed", "socket-skipped", "unknown-kind", "xattrs-dropped", "owner-not-set",
    "not-restored", "metadata-not-set", "in-the-way", "staging-removed", "not-removed", "not-found", "planned",
    "partial",
]  # fmt: skip


class LostRange(NamedTuple):
    """``length`` bytes at ``offset`` of a file that cannot be restored, and why."""

    path: bytes
    offset: int
    length: int
    reason: str


class Note(NamedTuple):
    """One remark. ``gap`` is true when something that was asked for is missing: the job then ends with status 8."""

    code: NoteCode
    path: bytes
    text: str
    gap: bool

    def __str__(self) -> str:
        shown = self.path.decode("utf-8", "backslashreplace")
        return f"{shown}: {self.text}"
