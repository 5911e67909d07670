"""Glob patterns over paths: exclude at backup, include at restore.

``fnmatch``: ``*`` also crosses ``/``. A pattern with a leading ``/`` is matched against the absolute path; any other
against the path below its root, and, where it has no ``/``, against the last component alone, so that ``*.o`` and
``node_modules`` mean what one expects. An include is also matched against the path as stored, which is what listings
show; an exclude is not, lest ``tmp/*`` empties the backup of ``/tmp/project``. Whoever asks must ask for folders
first: a folder that matches takes its contents with it.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence


class Patterns:
    """A set of globs, compiled once. Names that are not UTF-8 are matched with surrogates, one for each odd byte."""

    def __init__(self, globs: Sequence[str | bytes], *, stored: bool) -> None:
        absolute: list[str] = []
        below: list[str] = []
        names: list[str] = []
        for glob in globs:
            text = os.fsdecode(glob)
            bare = text.strip("/")
            if not bare:
                continue
            if text.startswith("/"):
                absolute.append(bare)
                continue
            below.append(bare)
            if "/" not in bare:
                names.append(bare)
        self._absolute = _compile(absolute + below if stored else absolute)
        self._below = _compile(below)
        self._names = _compile(names)

    def __bool__(self) -> bool:
        return self._absolute is not None or self._below is not None

    def match(self, path: bytes, root: bytes) -> bool:
        """Return whether a stored path matches; ``root`` is the root it lies below, or the path itself."""
        text = os.fsdecode(path)
        if self._absolute is not None and self._absolute.match(text):
            return True
        if self._names is not None and self._names.match(text.rpartition("/")[2]):
            return True
        if self._below is None or path == root:
            return False
        return self._below.match(os.fsdecode(path[len(root) + 1 :]) if root else text) is not None


def _compile(globs: Sequence[str]) -> re.Pattern[str] | None:
    if not globs:
        return None
    return re.compile("|".join(f"(?:{fnmatch.translate(glob)})" for glob in globs))
