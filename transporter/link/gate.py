"""Pausing a run: its link moves no more chunks while the gate is shut. Sessions, heartbeats and redialling go on."""

from __future__ import annotations

from collections.abc import Callable


class Gate:
    """Open at first. ``shut`` is looked at before each chunk; ``on_open`` is called when it opens again."""

    def __init__(self) -> None:
        self.shut = False
        self.on_open: Callable[[], None] = lambda: None

    def close(self) -> bool:
        """Let nothing more through; tell whether that is new."""
        was, self.shut = self.shut, True
        return not was

    def open(self) -> bool:
        """Let everything through again; tell whether that is new."""
        was, self.shut = self.shut, False
        if was:
            self.on_open()
        return was
