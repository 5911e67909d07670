"""What is searched for, and which entries of a block are that.

A glob without ``/`` is matched against the last component of a path. Any other is matched component by component: with
a ``/`` in front against the whole path, else from any folder on. ``**`` stands for any number of components; the other
signs are those of `fnmatch`. A ``/`` at the end means folders only.

The cost of a search is the number of entries, so the work for each is left to C: the longest piece of the glob that
stands for itself is looked for in all paths of a block as one text, and only a path that holds it is looked at closer.
"""

from __future__ import annotations

import fnmatch
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from transporter.errors import UsageError
from transporter.workloads.entry import path_key
from transporter.workloads.fsi import FsiBlock

GLOB_AT_MOST = 4096
"""Signs of a glob: as long as the longest path of a system call."""
FEW = 8
"""Fewer hits than one in so many entries are looked up one by one."""


class Hit(NamedTuple):
    """An entry that matches. ``key``: its place in path order; sizes in bytes, times in ns since 1970."""

    key: bytes
    path: bytes
    size: int
    mtime_ns: int
    kind: str


@dataclass(frozen=True)
class BlockHits:
    """All that is kept of a block: where it ends in path order, and its hits, in path order."""

    last_key: bytes
    hits: tuple[Hit, ...]

    def until(self, key: bytes, start: int) -> int:
        """Return the number of the first hit behind ``key``, from ``start`` on."""
        return bisect_right(self.hits, key, start, key=lambda hit: hit.key)


@dataclass(frozen=True)
class Query:
    """What a person asked for. Bounds are inclusive; None: none. ``kinds``: letters of types, empty: all."""

    glob: str
    size_at_least: int | None = None
    size_at_most: int | None = None
    after_ns: int | None = None
    before_ns: int | None = None
    kinds: str = ""

    def compiled(self) -> Matcher:
        """Return what matches blocks. Raises UsageError for a glob that is none."""
        return Matcher(self)


class Matcher:
    """A query made ready; any thread."""

    def __init__(self, query: Query) -> None:
        self._query = query
        glob = query.glob
        if not glob.strip("/") or len(glob) > GLOB_AT_MOST or "\0" in glob:
            raise UsageError(f"{glob[:80]!r} is not a pattern of paths", "write for example '*.pdf' or 'docs/**/*.odt'")
        self._kinds = query.kinds or ("d" if glob.endswith("/") else "")
        parts = [part for part in glob.split("/") if part]
        whole = "/" in glob.rstrip("/")
        self._all = not whole and not parts[0].strip("*")
        self._fits = _whole_path(parts, absolute=glob.startswith("/")) if whole else _last_component(parts[0])
        literals = [literal for part in parts for literal in _WILD.split(part)]
        if literals[-1]:
            # Nothing may follow it: with the sign that ends each path it is rarer, and found faster.
            literals[-1] += "\0"
        # Looked for in the bytes: a block without it, as most are, is never decoded.
        self._needle = max(literals, key=len).encode("utf-8", "surrogateescape")

    def match(self, block: FsiBlock) -> BlockHits:
        """Return the entries of a block that match."""
        names = block.names
        last = names[names.rfind(b"\0", 0, -1) + 1 : -1]
        found = self._bounded(block, self._candidates(block))
        return BlockHits(path_key(last), tuple(self._hits(block, found)))

    def _hits(self, block: FsiBlock, found: list[tuple[int, str]]) -> Iterator[Hit]:
        if len(found) * FEW < block.count:
            for index, name in found:
                path = _raw(name)
                yield Hit(path_key(path), path, block.size(index), block.mtime_ns(index), block.kind(index))
            return
        # Of many the columns are made whole, which is a few calls of C for all of them.
        sizes, times, kinds = block.sizes(), block.times(), block.kinds().decode()
        for index, name in found:
            path = _raw(name)
            yield Hit(path_key(path), path, sizes[index], times[index], kinds[index])

    def _candidates(self, block: FsiBlock) -> Iterable[tuple[int, str]]:
        if self._all:
            return enumerate(block.paths())
        if self._needle:
            return self._by_needle(block.names)
        fits = self._fits
        return ((index, path) for index, path in enumerate(block.paths()) if fits(path))

    def _bounded(self, block: FsiBlock, found: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
        """Return those of ``found`` that are within every bound."""
        query = self._query
        kept = list(found)
        if kept and self._kinds:
            kinds, wanted = block.kinds(), frozenset(self._kinds.encode())
            kept = [one for one in kept if kinds[one[0]] in wanted]
        if kept and (query.size_at_least is not None or query.size_at_most is not None):
            kept = _within(kept, block.sizes(), query.size_at_least, query.size_at_most)
        if kept and (query.after_ns is not None or query.before_ns is not None):
            kept = _within(kept, block.times(), query.after_ns, query.before_ns)
        return kept

    def _by_needle(self, names: bytes) -> Iterator[tuple[int, str]]:
        needle, fits = self._needle, self._fits
        find, rfind, count = names.find, names.rfind, names.count
        index = counted = 0
        at = find(needle)
        while at >= 0:
            start = rfind(b"\0", 0, at) + 1
            end = find(b"\0", at)
            path = names[start:end].decode("utf-8", "surrogateescape")
            if fits(path):
                index += count(b"\0", counted, start)
                counted = start
                yield index, path
            at = find(needle, end + 1)


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _within(
    found: list[tuple[int, str]], numbers: array[int], least: int | None, most: int | None
) -> list[tuple[int, str]]:
    low = -(1 << 63) if least is None else least
    high = (1 << 64) if most is None else most
    return [one for one in found if low <= numbers[one[0]] <= high]


# What stands for something else in a part of a glob, as `fnmatch` reads it.
_WILD = re.compile(r"\*+|\?|\[!?\]?[^\]]*\]|\[")
_Fits = Callable[[str], object]


def _one_part(part: str) -> _Fits:
    # `fnmatch` makes expressions that never go back behind a star: no name, however it was made, costs much to refuse.
    return re.compile(fnmatch.translate(part)).match


def _last_component(part: str) -> _Fits:
    fits = _one_part(part)
    return lambda path: fits(path[path.rfind("/") + 1 :])


def _whole_path(parts: list[str], *, absolute: bool) -> _Fits:
    """Match part by part; None stands for ``**``, any number of parts."""
    wanted = [None if not part.strip("*") and len(part) > 1 else _one_part(part) for part in parts]
    if wanted[-1] is None:
        # What lies below a folder is not the folder itself.
        wanted.append(_one_part("*"))
    if not absolute:
        wanted.insert(0, None)
    return lambda path: _parts_fit(wanted, path.split("/"))


def _parts_fit(wanted: list[_Fits | None], parts: list[str]) -> bool:
    """Match as one matches ``*`` in a text: what fails goes back to the last ``**`` alone, so the work is a product."""
    at = part = 0
    star, mark = -1, 0
    while part < len(parts):
        fits = wanted[at] if at < len(wanted) else _nothing
        if fits is None:
            star, mark = at, part
            at += 1
        elif fits(parts[part]):
            at += 1
            part += 1
        elif star >= 0:
            mark += 1
            at, part = star + 1, mark
        else:
            return False
    return all(fits is None for fits in wanted[at:])


def _nothing(_part: str) -> bool:
    return False
