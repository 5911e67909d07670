"""The writer process of a restore: plans from the manifest, writes small files, leaves large pieces to threads."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

from transporter.workloads.compared import chunk_id
from transporter.workloads.device_write import DeviceWriter
from transporter.workloads.hard_links import HardLinks
from transporter.workloads.manifest import ManifestDecoder
from transporter.workloads.original_places import OriginalPlaces
from transporter.workloads.restored import Group
from transporter.workloads.selection import Selection
from transporter.workloads.tree_restore import TreeWriter
from transporter.workloads.worker import Channel, failure, run_worker
from transporter.workloads.write_messages import (
    SLOT,
    Done,
    End,
    Finish,
    GiveUp,
    Manifest,
    Open,
    Order,
    Planned,
    Publish,
    Report,
    Skip,
    Wanted,
    Write,
    Written,
)

# Small files come from one thread: two of them cost the kernel a third more for the same files, and need the
# interpreter lock at the same times.
WRITERS = 4


class WriteWorker:
    """Carries out the orders of one restore."""

    def __init__(self, connection: socket.socket, memory: memoryview) -> None:
        self._channel: Channel[Order] = Channel(connection, msgspec.msgpack.Decoder(Order))
        self._memory = memory
        self._threads = ThreadPoolExecutor(WRITERS, "writer")
        self._decoder = ManifestDecoder()
        self._groups: dict[int, Group] = {}
        self._planned = 0
        self._writer: Writer | None = None
        self._published = self._failed = self._given_up = False

    def run(self) -> None:
        """Serve until the stream ends; what was not published by then is for the next, or removed if that was said."""
        try:
            for order in self._channel.receive():
                # Whoever gets a failure closes the stream; what is still on its way is of no use.
                if isinstance(order, GiveUp):
                    self._given_up = True
                elif not self._failed:
                    self._guarded(order)
        finally:
            self._threads.shutdown(wait=True)
            if self._writer is not None and not self._published:
                self._writer.abort(keep=not self._given_up)

    def _guarded(self, order: Order) -> None:
        try:
            self._carry_out(order)
        except Exception as error:
            self._failed = True
            self._channel.send(failure(error))

    def _carry_out(self, order: Order) -> None:
        if isinstance(order, Open):
            self._writer = _open(order)
            self._channel.send(Done(self._report()))
        elif isinstance(order, Manifest):
            self._plan(self.writer.place(self._decoder.feed(order.data)))
        elif isinstance(order, End):
            self._decoder.finish()
            self._plan(self.writer.end())
        elif isinstance(order, Write):
            self._write(order)
        elif isinstance(order, Skip):
            self.writer.skip_group(self._groups.pop(order.group), order.reason)
        elif isinstance(order, Finish):
            self._threads.shutdown(wait=True)
            if not self._failed:
                self.writer.finish()
                self._channel.send(Done(self._report()))
        else:
            assert isinstance(order, Publish)
            self.writer.publish()
            self._published = True
            self._channel.send(Done(self._report()))

    @property
    def writer(self) -> Writer:
        """The writer, once it is open."""
        if self._writer is None:
            raise RuntimeError("an order before Open")
        return self._writer

    def _plan(self, groups: list[Group]) -> None:
        wanted = []
        for group in groups:
            self._groups[self._planned] = group
            wanted.append(Wanted(self._planned, group.chunk_id, group.reach))
            self._planned += 1
        self._channel.send(Planned(wanted, self._report()))

    def _write(self, order: Write) -> None:
        group = self._groups.pop(order.group)
        if group.large:
            self._threads.submit(self._guarded_write, group, order)
        else:
            self._write_group(group, order)

    def _guarded_write(self, group: Group, order: Write) -> None:
        try:
            self._write_group(group, order)
        except Exception as error:
            self._failed = True
            self._channel.send(failure(error))

    def _write_group(self, group: Group, order: Write) -> None:
        begin = order.slot * SLOT
        self.writer.write_group(group, self._memory[begin : begin + order.length])
        self._channel.send(Written(order.slot, self._report()))

    def _report(self) -> Report:
        writer = self.writer
        return Report(
            writer.files,
            writer.bytes_written,
            writer.take_notes(),
            writer.unchanged,
            writer.damaged,
            writer.take_lost(),
            writer.resumed,
        )


Writer = TreeWriter | OriginalPlaces | DeviceWriter


def _open(order: Open) -> Writer:
    wish = order.wish
    if wish.onto:
        id_of = partial(chunk_id, order.chunk_id_key)
        return DeviceWriter(order.output, order.roots, id_of, overwrite=wish.overwrite)
    selection = Selection(wish.include, wish.exclude, wish.paths)
    if order.output:
        return _open_tree(order, selection, order.output, order.roots)

    def open_one(output: bytes, roots: list[bytes], links: HardLinks, serial: str) -> TreeWriter:
        return _open_tree(order, selection, output, roots, serial, links)

    return OriginalPlaces(order.roots, selection, open_one)


def _open_tree(
    order: Open,
    selection: Selection,
    output: bytes,
    roots: list[bytes],
    serial: str = "",
    links: HardLinks | None = None,
) -> TreeWriter:
    wish = order.wish
    return TreeWriter(
        output,
        order.point,
        roots,
        selection=selection,
        # Two roots may have one folder as their place: what lies there may be the other one's.
        others=not serial,
        links=links,
        overwrite=wish.overwrite,
        in_place=wish.in_place,
        compare=wish.compare,
        delete=wish.delete,
        dry_run=wish.dry_run,
        partial=wish.partial,
        order=order.digest + serial,
        id_of=partial(chunk_id, order.chunk_id_key) if order.chunk_id_key else None,
    )


def main() -> None:
    """Be the process."""
    run_worker(lambda connection, memory: WriteWorker(connection, memory).run())


if __name__ == "__main__":
    main()
