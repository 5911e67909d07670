"""A process that helps to change a password: it takes some of the points of a repository of this node.

To open a slot and to make another is Python, and so is to read a point's file: one process keeps one core busy. It
holds the hashes of the passwords that change, as the process that started it does, and no other key.

Its last descriptor is the lock of that process (`rewrap_lock`): as long as this one may still change a slot nobody else
begins to, also where the other one was killed.
"""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec

from transporter.clock import SystemClock
from transporter.errors import DamagedData
from transporter.jobs.points_here import Batch, PointsHere, Visit
from transporter.jobs.rewrap_messages import Begin, Done, Order, Some
from transporter.points.rewrap import Rewrapping
from transporter.points.slot_rows import SlotChangeRow
from transporter.repository import Repository
from transporter.workloads.worker import Channel, failure, run_worker


def visitor(rewrapping: Rewrapping, undecided: list[bytes]) -> Visit:
    """Return what changes the slots of a batch; points that nothing opens come to ``undecided``."""

    def visit(batch: Batch) -> list[SlotChangeRow]:
        found = []
        for point in batch.points:
            try:
                change = rewrapping.of_point(batch.tenant, batch.repository_id, point)
            except DamagedData:
                undecided.append(point.point)
                continue
            if change is not None:
                found.append(change)
        return found

    return visit


class RewrapWorker:
    """Serves one walk through one place."""

    def __init__(self, connection: socket.socket) -> None:
        self._channel: Channel[Order] = Channel(connection, msgspec.msgpack.Decoder(Order))
        self._here: PointsHere | None = None
        self._undecided: list[bytes] = []

    def run(self) -> None:
        """Serve until the stream ends."""
        try:
            for order in self._channel.receive():
                if isinstance(order, Begin):
                    self._here = self._begin(order)
                else:
                    self._channel.send(self._visit(order))
        except Exception as error:
            self._channel.send(failure(error))
        finally:
            if self._here is not None:
                self._here.store.close()

    def _begin(self, order: Begin) -> PointsHere:
        clock = SystemClock()
        changes = {each.old.salt: (each.old.together(), each.key()) for each in order.changes}
        rewrapping = Rewrapping(changes, lambda _point: None, clock)
        store = Repository.open(Path(order.path), clock, writable=False)
        return PointsHere(store, order.name, order.own, order.keep, visitor(rewrapping, self._undecided))

    def _visit(self, order: Some) -> Done:
        assert self._here is not None
        self._undecided.clear()
        seen = self._here.batch(order.points)
        undecided = list(self._undecided)
        return Done(seen.points, seen.replaced, seen.added, seen.kept_until_ns, seen.unreadable, undecided)


def main() -> None:
    """Be the process. Its arguments are the numbers of its socket and of the memory that it does not use."""
    run_worker(lambda connection, _memory: RewrapWorker(connection).run())


if __name__ == "__main__":
    main()
