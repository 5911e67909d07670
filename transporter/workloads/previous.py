"""The entries of the run before, walked side by side with the scan."""

from __future__ import annotations

from collections.abc import Iterator

from transporter.workloads.entry import MORE, Entry, path_key


class Previous:
    """A merge cursor over entries in path order.

    Asking for paths out of order, or entries out of order, only means fewer matches: a file without one is read.
    """

    def __init__(self, entries: Iterator[Entry] | None) -> None:
        self._entries: Iterator[Entry] = iter(()) if entries is None else entries
        self._next: Entry | None = None
        self._advance()

    @property
    def exhausted(self) -> bool:
        """Whether ``find`` will find nothing any more."""
        return self._next is None

    def find(self, path: bytes) -> Entry | None:
        """Return the first record of the entry of ``path``; paths must be asked for in path order."""
        entry = self._next
        if entry is None:
            return None
        if entry.path != path:
            key = path_key(path)
            while path_key(entry.path) < key:
                entry = self._advance()
                if entry is None:
                    return None
            if entry.path != path:
                return None
        self._advance()
        return entry

    def rest_of(self, entry: Entry) -> Iterator[Entry]:
        """Yield the records that continue ``entry``, which ``find`` has just returned."""
        while entry.flags & MORE and self._next is not None and self._next.path == entry.path:
            entry = self._next
            self._advance()
            yield entry

    def _advance(self) -> Entry | None:
        self._next = next(self._entries, None)
        return self._next
