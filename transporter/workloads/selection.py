"""What of a point is restored: globs to take, globs to leave out, a list of paths; and which of them met nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence

from transporter.workloads.patterns import Patterns


class Selection:
    """Decides path by path, in path order, folders first. None of ``include`` and ``paths`` means everything.

    ``include`` and ``exclude`` are globs as in ``patterns.py``; ``exclude`` wins, and a folder that it leaves out goes
    with its contents. ``paths`` are plain, no globs: absolute with a ``/`` in front, else as stored or below the root.
    """

    def __init__(
        self,
        include: Sequence[str | bytes] = (),
        exclude: Sequence[str | bytes] = (),
        paths: Sequence[bytes] = (),
    ) -> None:
        self._include = Patterns(include, stored=True)
        self._exclude = Patterns(exclude, stored=True)
        self._excludes = bool(self._exclude)
        self._paths = {_plain(path): path for path in paths}
        self._absolute = {plain for plain, given in self._paths.items() if given.startswith(b"/")}
        self._found: set[bytes] = set()
        # One by one, only to tell which of them never matched.
        self._pending = [(glob, Patterns([glob], stored=True)) for glob in include]
        self._everything = not self._include and not self._paths
        self.whole = self._everything and not self._excludes
        self.met = self._everything

    def excludes(self, path: bytes, root: bytes) -> bool:
        """Return whether a path is left out by ``exclude``."""
        return self._excludes and self._exclude.match(path, root)

    def takes(self, path: bytes, root: bytes, *, above: bool) -> bool:
        """Return whether a path that is not excluded is wanted; ``above``: the folder it is in is wanted."""
        if self._everything:
            return True
        if above and not self._pending and len(self._found) == len(self._paths):
            return True  # nothing is left to be found
        asked = self._asked(path, root)
        if asked and self._pending:
            self._pending = [one for one in self._pending if not one[1].match(path, root)]
        self.met = self.met or asked
        return above or asked

    def not_found(self) -> list[bytes]:
        """Return the globs and paths that met nothing, in the order in which they were given."""
        globs = [os.fsencode(glob) for glob, _pattern in self._pending]
        return globs + [given for plain, given in self._paths.items() if plain not in self._found]

    def _asked(self, path: bytes, root: bytes) -> bool:
        listed = False
        if self._paths:
            if path in self._paths:
                self._found.add(path)
                listed = True
            below = path[len(root) + 1 :] if root else path
            if below in self._paths and below not in self._absolute:
                self._found.add(below)
                listed = True
        return listed or self._include.match(path, root)


def _plain(path: bytes) -> bytes:
    while path.startswith((b"/", b"./")):
        path = path[1:] if path.startswith(b"/") else path[2:]
    return path.rstrip(b"/")
