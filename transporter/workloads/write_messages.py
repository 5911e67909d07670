"""Between a restore and its writer process. Orders are carried out one after the other, large groups beside them.

| order | answer |
| --- | --- |
| Open | Done |
| Manifest, End | Planned |
| Write | Written, in any order: its slot is free again |
| Skip, GiveUp | none |
| Finish, Publish | Done |

Any order may be answered with ``Failed``; nothing is carried out after that. The end of the stream means: exit, and
leave what was not published to the next restore of the same order; after GiveUp: remove it.
"""

from __future__ import annotations

import msgspec
from blake3 import blake3

from transporter.workloads.entry import MAX_CHUNK_LENGTH
from transporter.workloads.notes import LostRange, Note
from transporter.workloads.worker_channel import Failed

SLOT = MAX_CHUNK_LENGTH
"""Bytes of a slot of the shared memory: a chunk fits."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What of a point is restored, and how: see ``TreeWriter``. ``paths``: as ``Selection`` takes them.

    ``tar``: to a stream, as tar. ``onto``: the output is a block device. ``keep_going``: damage does not end it.
    """

    include: list[str] = []
    exclude: list[str] = []
    paths: list[bytes] = []
    overwrite: bool = False
    in_place: bool = False
    compare: bool = False
    delete: bool = False
    dry_run: bool = False
    keep_going: bool = False
    partial: bool = False
    tar: bool = False
    onto: bool = False


class Open(msgspec.Struct, tag="open", frozen=True):
    """Begin: what ``TreeWriter`` takes. ``chunk_id_key``: names chunks, where some may be there already; else empty."""

    output: bytes
    point: str
    roots: list[bytes]
    wish: Wish
    chunk_id_key: bytes = b""

    def __repr__(self) -> str:
        return f"Open({self.output!r}, {self.point!r})"

    @property
    def digest(self) -> str:
        """What a staging folder is named after: only the very same order goes on with what it had begun."""
        return blake3(msgspec.msgpack.encode((self.roots, self.wish))).hexdigest(8)


class Manifest(msgspec.Struct, tag="manifest", frozen=True):
    """The next bytes of the manifest."""

    data: bytes


class End(msgspec.Struct, tag="end", frozen=True):
    """The manifest is complete."""


class Write(msgspec.Struct, tag="write", frozen=True):
    """Write group ``group``: its chunk, ``length`` bytes, lies in ``slot`` of the shared memory."""

    group: int
    slot: int
    length: int


class Skip(msgspec.Struct, tag="skip", frozen=True):
    """The chunk of ``group`` cannot be had."""

    group: int
    reason: str


class Finish(msgspec.Struct, tag="finish", frozen=True):
    """All groups were written: make everything durable."""


class Publish(msgspec.Struct, tag="publish", frozen=True):
    """Give everything its final name."""


class GiveUp(msgspec.Struct, tag="give up", frozen=True):
    """What was staged is of no use to anybody."""


Order = Open | Manifest | End | Write | Skip | Finish | Publish | GiveUp


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """A group of pieces out of one chunk, which is at least ``reach`` bytes long."""

    group: int
    chunk_id: bytes
    reach: int


class Report(msgspec.Struct, frozen=True, array_like=True):
    """How far the writer is, and what it has noted since the last report."""

    files: int
    bytes_written: int
    notes: list[Note]
    unchanged: int = 0
    damaged: int = 0
    lost: list[LostRange] = []
    resumed: bool = False


class Planned(msgspec.Struct, tag="planned", frozen=True):
    """What content is needed, in the order in which it must be written."""

    wanted: list[Wanted]
    report: Report


class Written(msgspec.Struct, tag="written", frozen=True):
    """A group has been written."""

    slot: int
    report: Report


class Done(msgspec.Struct, tag="done", frozen=True):
    """An order without another answer has been carried out."""

    report: Report


Answer = Planned | Written | Done | Failed
