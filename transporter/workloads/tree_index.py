"""The entries of one manifest in any order: what a mounted point and a comparison of two points are looked up in.

Two files without a name, mapped into memory, so that the kernel and not this process decides what of them stays there:

    records    entries as manifest.py encodes them, one behind the other
    rows       24 bytes for each entry, little-endian: offset of its first record u64, its length u32,
               end u32, parent u32, extra u32

Entries have numbers in path order. ``end`` is the number behind the last entry beneath a folder (behind the entry
itself for anything else), so the children of folder ``n`` are ``n + 1``, ``end(n + 1)``, … up to ``end(n)``. ``extra``
is, of a folder, how many folders are in it; of a further name of a hard-linked file, the number of its first name;
else 0 (no entry links to number 0, which is a folder, or the root of everything).
"""

from __future__ import annotations

import mmap
import struct
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from transporter.errors import DamagedData, JobFailed
from transporter.workloads.entry import CONTINUATION, MORE, Entry, path_key
from transporter.workloads.layout import lay_out
from transporter.workloads.restore_path import Step, Walk
from transporter.workloads.selection import Selection

ROW = struct.Struct("<QIIII")
MAX_COUNT = (1 << 32) - 2
"""Entries of one tree: a row has 32 bits for a number."""
_WRITE = 1 << 20


class _PathOnly(msgspec.Struct, array_like=True):
    """The first field of an entry; the others are stepped over."""

    path: bytes


class _Long(msgspec.Struct):
    """What only the last record of a continued file says, and where its records are.

    ``starts``: file offset, offset in ``records``, length, of each record.
    """

    size: int = 0
    flags: int = 0
    hole_bytes: int = 0
    starts: array[int] = msgspec.field(default_factory=lambda: array("Q"))


class TreeIndexBuilder:
    """Takes the records of a manifest and refuses what a restore would refuse. One thread at a time.

    Memory: the folders on the way down, a line for each hard-linked file, 24 bytes for each record of a continued one.
    """

    def __init__(self, folder: Path, roots: Sequence[bytes]) -> None:
        self._walk = Walk(roots, Selection())
        self._records: IO[bytes] = tempfile.TemporaryFile(dir=str(folder), buffering=_WRITE)  # noqa: SIM115
        self._rows: IO[bytes] = tempfile.TemporaryFile(dir=str(folder), buffering=0)  # noqa: SIM115
        self._encode = msgspec.msgpack.Encoder().encode
        self._offset = 0
        self._count = 0
        # Rows from this number on wait to be written; those of open folders are corrected when they end.
        self._written = 0
        self._pending: list[list[int]] = []
        self._open: list[int] = []
        self._names: dict[int, bytes] = {}
        self._first: dict[bytes, int] = {}
        self._links: dict[int, int] = {}
        self._long: dict[int, _Long] = {}
        self._last: Entry | None = None
        self._position = 0
        # Folders that are open and not the walk's: one where the roots lie in a folder of our own.
        self._tops = 0

    def add(self, records: Sequence[Entry]) -> None:
        """Take the next records. Raises DamagedData."""
        for record in records:
            if record.flags & CONTINUATION or self._last is not None:
                self._continue(record)
            else:
                self._enter(record)
        if len(self._pending) >= 4096:
            self._write_rows()

    def _enter(self, record: Entry) -> None:
        walk = self._walk
        walk.left(record)
        self._close_folders(len(walk.steps))
        at_top = not walk.steps
        name, _ = walk.enter(record)
        if not self._count and not (walk.single and record.kind == "d"):
            self._synthetic_root()
        if at_top and name:
            self._names[self._count] = name
        number = self._append(record)
        if record.flags & MORE and (record.kind != "f" or record.link):
            raise DamagedData(f"The manifest continues {record.path[:200]!r}, which is no file.")
        if record.kind == "d":
            walk.steps.append(Step(record, name, True))
            self._open.append(number)
        elif record.link:
            self._link(record)
        elif record.nlink > 1:
            self._first[record.path] = number
        if record.kind == "f" and not record.link:
            _, self._position = lay_out(record, 0)
        if record.flags & MORE:
            self._last = record
            long = self._long[number] = _Long()
            self._note(long, record, 0, self._offset)

    def _synthetic_root(self) -> None:
        """Make the folder that several roots, or one that is no folder, lie in."""
        self._open.append(self._append(Entry(b"", "d", mode=0o755)))
        self._tops = 1

    def _append(self, record: Entry) -> int:
        number = self._count
        if number > MAX_COUNT:
            raise JobFailed("the restore point has more entries than can be looked up", "restore it instead")
        parent = self._open[-1] if self._open else 0
        if record.kind == "d" and self._open:
            self._add_folder(parent)
        length = self._write(record)
        self._pending.append([self._offset - length, length, number + 1, parent, 0])
        self._count += 1
        return number

    def _write(self, record: Entry) -> int:
        data = self._encode(record)
        self._records.write(data)
        self._offset += len(data)
        return len(data)

    def _continue(self, record: Entry) -> None:
        before = self._last
        if before is None or not record.flags & CONTINUATION or record.path != before.path:
            raise DamagedData(f"The manifest breaks off within an entry near {record.path[:200]!r}.")
        long = self._long[self._count - 1]
        start = self._position
        _, self._position = lay_out(record, start)
        self._write(record)
        self._note(long, record, start, self._offset)
        self._last = record if record.flags & MORE else None

    def _note(self, long: _Long, record: Entry, start: int, end: int) -> None:
        long.size, long.flags = record.size, record.flags
        long.hole_bytes += sum(length for _offset, length in record.iter_holes())
        length = len(self._encode(record))
        long.starts.extend((start, end - length, length))

    def _link(self, record: Entry) -> None:
        first = self._first.get(record.link)
        if first is None:
            raise DamagedData(f"{record.path[:200]!r} is a link to something that is not in the manifest.")
        self._links[first] = self._links.get(first, 1) + 1
        self._pending[-1][4] = first

    # --- rows -----------------------------------------------------------------------------------------------------

    def _close_folders(self, depth: int) -> None:
        while len(self._open) > depth + self._tops:
            self._patch(self._open.pop(), 2, self._count)

    def _add_folder(self, number: int) -> None:
        if number >= self._written:
            self._pending[number - self._written][4] += 1
        else:
            self._patch(number, 4, -1)

    def _patch(self, number: int, field: int, value: int) -> None:
        """Set a field of a row; -1: count it up."""
        if number >= self._written:
            row = self._pending[number - self._written]
            row[field] = row[field] + 1 if value < 0 else value
            return
        self._rows.seek(number * ROW.size)
        row = list(ROW.unpack(self._rows.read(ROW.size)))
        row[field] = row[field] + 1 if value < 0 else value
        self._rows.seek(number * ROW.size)
        self._rows.write(ROW.pack(*row))

    def _write_rows(self) -> None:
        self._rows.seek(self._written * ROW.size)
        self._rows.write(b"".join(ROW.pack(*row) for row in self._pending))
        self._written += len(self._pending)
        self._pending.clear()

    def finish(self) -> TreeIndex:
        """Say that there are no more records. Raises DamagedData."""
        if self._last is not None:
            raise DamagedData("The manifest ends within a file.")
        if not self._count:
            # Of roots that were all gone when they were to be read: an empty folder.
            self._synthetic_root()
        while self._open:
            self._patch(self._open.pop(), 2, self._count)
        self._write_rows()
        self._records.flush()
        return TreeIndex(self._records, self._rows, self._count, self._names, self._links, self._long)

    def close(self) -> None:
        """Give up."""
        self._records.close()
        self._rows.close()


class TreeIndex:
    """A tree, by numbers; 0 is its top. Any thread may look things up. A context manager that closes."""

    def __init__(
        self,
        records: IO[bytes],
        rows: IO[bytes],
        count: int,
        names: dict[int, bytes],
        links: dict[int, int],
        long: dict[int, _Long],
    ) -> None:
        self.count = count
        self._records = mmap.mmap(records.fileno(), 0, access=mmap.ACCESS_READ)
        self._rows = mmap.mmap(rows.fileno(), 0, access=mmap.ACCESS_READ)
        records.close()
        rows.close()
        self._names = names
        self._by_name = {name: number for number, name in names.items()}
        self._links = links
        self._long = long
        self._decode = msgspec.msgpack.Decoder(Entry).decode
        self._decode_path = msgspec.msgpack.Decoder(_PathOnly).decode

    def __enter__(self) -> TreeIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._records.close()
        self._rows.close()

    def entry(self, number: int) -> Entry:
        """Return an entry; of a continued file with its final size, and the extents of its first record."""
        offset, length, *_ = ROW.unpack_from(self._rows, number * ROW.size)
        entry = self._decode(self._records[offset : offset + length])
        long = self._long.get(number)
        if long is not None:
            entry.size = long.size
        return entry

    def end(self, number: int) -> int:
        """Return the number behind the last entry beneath this one."""
        end: int = ROW.unpack_from(self._rows, number * ROW.size)[2]
        return end

    def parent(self, number: int) -> int:
        """Return the folder of an entry; of the top: itself."""
        parent: int = ROW.unpack_from(self._rows, number * ROW.size)[3]
        return parent

    def folders_in(self, number: int) -> int:
        """Return how many folders a folder holds."""
        count: int = ROW.unpack_from(self._rows, number * ROW.size)[4]
        return count

    def first_name(self, number: int) -> int:
        """Return the entry that has the content and metadata: of a hard link its first name, else the entry itself."""
        first: int = ROW.unpack_from(self._rows, number * ROW.size)[4]
        # A folder whose ``extra`` is not 0 has something in it.
        return first if first and self.end(number) == number + 1 else number

    def names_of(self, number: int) -> int:
        """Return how many names a file has in this tree (asked of its first name)."""
        return self._links.get(number, 1)

    def hole_bytes(self, number: int, entry: Entry) -> int:
        """Return how many bytes of a file are holes."""
        long = self._long.get(number)
        if long is not None:
            return long.hole_bytes
        return sum(length for _offset, length in entry.iter_holes()) if entry.packed_holes else 0

    def path(self, number: int) -> bytes:
        """Return the path of an entry, as stored."""
        offset, length, *_ = ROW.unpack_from(self._rows, number * ROW.size)
        return self._decode_path(self._records[offset : offset + length]).path

    def name(self, number: int, path: bytes) -> bytes:
        """Return the name in its folder of an entry whose path is given."""
        return self._names.get(number) or path.rpartition(b"/")[2]

    def children(self, number: int, start: int = 0) -> Iterator[int]:
        """Yield what is in a folder, in path order, from number ``start`` on (0: all)."""
        at, end = start or number + 1, self.end(number)
        while at < end:
            yield at
            at = self.end(at)

    def listing(self, number: int, start: int = 0) -> Iterator[tuple[int, int, int, Entry]]:
        """Yield (number, end, first name, entry) of what is in a folder: `children` for whoever wants all of each.

        One look at the row and one at the record: a program that goes through a tree waits for this.
        """
        rows, records, decode, long = self._rows, self._records, self._decode, self._long
        unpack, size = ROW.unpack_from, ROW.size
        at, end = start or number + 1, self.end(number)
        while at < end:
            offset, length, behind, _parent, extra = unpack(rows, at * size)
            entry = decode(records[offset : offset + length])
            if at in long:
                entry.size = long[at].size
            yield at, behind, extra if extra and behind == at + 1 else at, entry
            at = behind

    def child(self, number: int, name: bytes) -> int | None:
        """Return what has this name in a folder."""
        if number == 0 and self._names:
            return self._by_name.get(name)
        path = self.path(number)
        wanted = path + b"/" + name if path else name
        key = path_key(wanted)
        at = bisect_left(_Keys(self), key, number + 1, self.end(number))
        return at if at < self.end(number) and self.path(at) == wanted else None

    @property
    def first_stored(self) -> int:
        """The number of the first entry that is in the manifest: 1 where the top is a folder of our own."""
        return 1 if self._names else 0

    def find(self, text: bytes) -> int | None:
        """Return the entry that a path names: as stored, with or without ``/`` in front, or below the only root."""
        bare = b"/".join(part for part in text.split(b"/") if part not in (b"", b"."))
        candidates = [bare]
        if not self._names and not text.startswith(b"/") and (root := self.path(0)):
            candidates.append(root + b"/" + bare)
        for wanted in candidates:
            at = bisect_left(_Keys(self), path_key(wanted), self.first_stored, self.count)
            if at < self.count and self.path(at) == wanted:
                return at
        return None

    def places(self, number: int) -> list[tuple[int, int, int]] | None:
        """Return where the records of a continued file are: (file offset, offset, length); None for any other."""
        long = self._long.get(number)
        if long is None:
            return None
        starts = long.starts
        return [(starts[at], starts[at + 1], starts[at + 2]) for at in range(0, len(starts), 3)]

    def record_at(self, offset: int, length: int) -> Entry:
        """Return the record at a place that `places` gave."""
        return self._decode(self._records[offset : offset + length])


class _Keys(Sequence[bytes]):
    """The keys of all entries in path order, to look one up among them."""

    def __init__(self, index: TreeIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return self._index.count

    def __getitem__(self, number: int) -> bytes:  # type: ignore[override]
        return path_key(self._index.path(number))
