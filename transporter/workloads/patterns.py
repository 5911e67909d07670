"""Glob patterns over paths: exclude at backup, include at restore.

A pattern is matched (``fnmatch``: ``*`` also crosses ``/``) against the path as stored and against the path below its
root; a pattern without ``/`` also against the last component alone, so ``*.o`` and ``node_modules`` mean what one
expects. Whoever asks must ask for folders first: a folder that matches takes its contents with it.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence


class Patterns:
    """A set of globs, compiled once. Names that are not UTF-8 are matched with surrogates, one for each odd byte."""

    def __init__(self, globs: Sequence[str | bytes]) -> None:
        whole: list[str] = []
        names: list[str] = []
        for glob in globs:
            text = os.fsdecode(glob).strip("/")
            if not text:
                continue
            (whole if "/" in text else names).append(text)
        self._whole = _compile(whole + names)
        self._names = _compile(names)

    def __bool__(self) -> bool:
        return self._whole is not None

    def match(self, path: bytes, root: bytes) -> bool:
        """Return whether a stored path below ``root`` matches. ``root`` itself is matched as stored and by name."""
        if self._whole is None:
            return False
        text = os.fsdecode(path)
        if self._whole.match(text):
            return True
        if root and path.startswith(root + b"/") and self._whole.match(os.fsdecode(path[len(root) + 1 :])):
            return True
        return self._names is not None and self._names.match(text.rpartition("/")[2]) is not None


def _compile(globs: Sequence[str]) -> re.Pattern[str] | None:
    if not globs:
        return None
    return re.compile("|".join(f"(?:{fnmatch.translate(glob)})" for glob in globs))
