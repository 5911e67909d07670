"""Names of one file: the first is restored with its content, the others are linked to it."""

from __future__ import annotations

import msgspec

from transporter.errors import DamagedData
from transporter.workloads.entry import CONTINUATION, Entry
from transporter.workloads.restored import RestoredFile


class HardLinks:
    """Remembers files with several names until the last of these has been met. Not thread-safe.

    When only part of a tree is restored, the first name may be left out and a later one wanted: then the first one's
    records are remembered too, so that the later one can take its place.
    """

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[RestoredFile, int]] = {}
        self._skipped: dict[bytes, list[Entry]] = {}

    def add(self, path: bytes, file: RestoredFile) -> None:
        """Remember a restored file under the path that its other names refer to."""
        self._first[path] = (file, file.entry.nlink - 1)

    def skip(self, entry: Entry) -> None:
        """Remember a first name that is not restored."""
        if entry.nlink > 1 and not entry.link:
            self._skipped[entry.path] = [entry]

    def skip_more(self, entry: Entry, record: Entry) -> None:
        """Remember a further record of it."""
        records = self._skipped.get(entry.path)
        if records is not None:
            records.append(record)

    def content_of(self, entry: Entry) -> list[Entry] | None:
        """Return the records for a name that has to take the place of a skipped first one; None when it need not."""
        records = self._skipped.pop(entry.link, None)
        if records is None:
            return None
        first = msgspec.structs.replace(records[0], path=entry.path)
        return [first] + [msgspec.structs.replace(more, path=entry.path) for more in records[1:]]

    def find(self, entry: Entry) -> RestoredFile:
        """Return the file that a further name is for. Raises ``DamagedData`` when there is none."""
        known = self._first.get(entry.link)
        if known is None or entry.flags & CONTINUATION:
            raise DamagedData(f"{entry.path[:200]!r} is a link to something that is not in the manifest.")
        file, left = known
        if left <= 1:
            del self._first[entry.link]
        else:
            self._first[entry.link] = (file, left - 1)
        return file
