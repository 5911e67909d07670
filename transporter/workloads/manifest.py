"""The manifest as bytes: a header, then records of entries in path order, each with its length before it.

    header   magic "TPMF", version u16 BE, reserved u16 (0)
    record   length u32 BE (of what follows), msgpack array of one Entry
    end      length 0: a stream without it is cut

Records carry no offsets and no counters, so that an inserted entry moves the bytes after it but does not change
them, and the chunks of an unchanged part of the tree stay the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import msgspec

from transporter.errors import DamagedData, UnsupportedFormat
from transporter.workloads.entry import Entry

MAGIC = b"TPMF"
VERSION = 1
HEADER = struct.Struct(">4sHH")
LENGTH = struct.Struct(">I")
END = LENGTH.pack(0)

MAX_RECORD = 16 << 20
"""Bytes of one record. The largest that the encoder can make is 8 MiB of extended attributes, a path, a hard-link
path of 1 MiB each, and ~0.8 MiB of extents and holes; past 16 MiB the bytes are not ours, and are not buffered."""


PIECE = 128 << 10
"""Bytes of records that ``encode_records`` gathers: enough to make joining them cheap."""


def encode_records(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield the records of ``entries`` in order, whole ones, ``PIECE`` bytes and at most one record more at a time.

    Raises ``ValueError`` when a record passes ``MAX_RECORD``.
    """
    encode = msgspec.msgpack.Encoder().encode
    pack = LENGTH.pack
    parts: list[bytes] = []
    gathered = 0
    for entry in entries:
        record = encode(entry)
        length = len(record)
        if length > MAX_RECORD:
            raise ValueError(f"entry of {length} bytes for {entry.path[:200]!r}")
        parts += (pack(length), record)
        gathered += length
        if gathered >= PIECE:
            yield b"".join(parts)
            parts.clear()
            gathered = 0
    if parts:
        yield b"".join(parts)


class ManifestEncoder:
    """Entries in, bytes out. Not thread-safe."""

    def __init__(self) -> None:
        self._buffer = bytearray(HEADER.pack(MAGIC, VERSION, 0))
        self._finished = False

    @property
    def waiting(self) -> int:
        """Bytes that ``take`` would return."""
        return len(self._buffer)

    def add(self, entry: Entry) -> None:
        """Append one record. Raises ``ValueError`` when it passes ``MAX_RECORD``."""
        for records in encode_records((entry,)):
            self.extend(records)

    def extend(self, records: bytes) -> None:
        """Append records that ``encode_records`` made."""
        self._buffer += records

    def finish(self) -> None:
        """Append the end mark: to be called once, after the last entry and before the last ``take``."""
        if not self._finished:
            self._finished = True
            self._buffer += END

    def take(self) -> bytearray:
        """Return the bytes made since the last call; they are the caller's now."""
        taken = self._buffer
        self._buffer = bytearray()
        return taken


class ManifestDecoder:
    """Bytes in any split in, entries out. Never holds more than one record and what was just fed. Not thread-safe.

    Raises ``DamagedData`` for anything that is not a manifest, ``UnsupportedFormat`` for one of a later version;
    after an error the decoder is dead.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._header_seen = False
        self._ended = False
        self._decode = msgspec.msgpack.Decoder(Entry).decode

    def feed(self, data: bytes | bytearray | memoryview) -> list[Entry]:
        """Take the next bytes, return the entries they complete."""
        if self._ended and len(data):
            raise DamagedData("The manifest goes on after its end.")
        rest = self._rest
        entries: list[Entry] = []
        if rest:
            rest += data
            with memoryview(rest) as view:
                used = self._records(view, self._read_header(view), entries)
            del rest[:used]
        else:
            with memoryview(data) as view:
                used = self._records(view, self._read_header(view), entries)
                rest += view[used:]
        return entries

    def finish(self) -> None:
        """Say that no more bytes come; raises ``DamagedData`` when the manifest is cut."""
        if not self._ended:
            raise DamagedData("The manifest is cut: its end mark is missing.")

    @property
    def ended(self) -> bool:
        """Whether the end mark has been read."""
        return self._ended

    def _read_header(self, view: memoryview) -> int:
        if self._header_seen or len(view) < HEADER.size:
            return 0
        magic, version, reserved = HEADER.unpack_from(view)
        if magic != MAGIC or reserved != 0:
            raise DamagedData("These bytes are not a manifest.")
        if version != VERSION:
            raise UnsupportedFormat(f"The manifest has version {version}.", "Use a newer transporter.")
        self._header_seen = True
        return HEADER.size

    def _records(self, view: memoryview, position: int, entries: list[Entry]) -> int:
        if not self._header_seen:
            return 0
        decode = self._decode
        unpack = LENGTH.unpack_from
        add = entries.append
        total = len(view)
        try:
            while total - position >= 4:
                (length,) = unpack(view, position)
                if not length:
                    self._end(view, position + 4)
                    return total
                end = position + 4 + length
                if end > total:
                    if length > MAX_RECORD:
                        raise DamagedData("A record of the manifest is longer than any can be.")
                    break
                add(decode(view[position + 4 : end]))
                position = end
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: text that is not UTF-8
            raise DamagedData("A record of the manifest is not an entry.") from error
        return position

    def _end(self, view: memoryview, position: int) -> None:
        if position != len(view):
            raise DamagedData("The manifest goes on after its end.")
        self._ended = True
