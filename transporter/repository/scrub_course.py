"""Which packs a scrub takes, in which order, and how far it is: a full scrub, one that goes on, or a share."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from transporter.clock import Clock
from transporter.repository import limits
from transporter.repository.scrub_packs import PackScrubber
from transporter.repository.scrub_state import ScrubState, StateFile

_ALL = 1 << 256


class Course:
    """The course of one scrub. ``share``: of the packs, 0 < share ≤ 1. One thread at a time.

    ``resumed``: it goes on with a full scrub that was interrupted; ``again``: packs that one found damaged.
    """

    def __init__(self, file: StateFile, packs: PackScrubber, clock: Clock, *, share: float, anew: bool) -> None:
        self._file = file
        self._packs = packs
        self._clock = clock
        self._full = share == 1
        state = file.read()
        unfinished = not anew and state.begun_at is not None and state.begun_at != state.cursor
        self.resumed = self._full and unfinished
        if self._full and not unfinished:
            state = ScrubState(
                cursor=state.cursor,
                begun_at=state.cursor,
                began_ns=clock.now_ns(),
                finished_ns=state.finished_ns,
            )
        self._state = state
        self.again = list(state.damaged) if self.resumed else []
        total, total_bytes = packs.count()
        self.total = total if self._full else max(1, round(total * share))
        self.total_bytes = total_bytes if self._full else round(total_bytes * share)

    @property
    def whole(self) -> bool:
        """Whether this scrub alone proves every pack."""
        return self._full and not self.resumed

    @property
    def packs(self) -> int:
        """How many packs the full scrub has proved, with what it had before it was interrupted."""
        return self._state.packs

    @property
    def size(self) -> int:
        """Their bytes."""
        return self._state.bytes

    def names(self) -> Iterator[bytes]:
        """Yield the packs to prove, those that were not proved for longest first."""
        state = self._state
        until = state.begun_at if self._full and state.begun_at is not None else state.cursor
        for number, name in enumerate(self._packs.names(state.cursor, until)):
            if not self._full and number >= self.total:
                return
            yield name

    def proved(self, name: bytes, size: int, *, damaged: bool) -> None:
        """Note that a pack, and all before it, were looked at; ``damaged``: and that it stays so."""
        state = self._state
        names = state.damaged
        if damaged and state.begun_at is not None and len(names) < limits.REPORTED:
            names = [*names, name]
        self._state = msgspec.structs.replace(
            state, cursor=name, packs=state.packs + 1, bytes=state.bytes + size, damaged=names
        )
        if not self._full and state.begun_at is not None and _passes(state.cursor, name, state.begun_at):
            self.end()

    def end(self) -> None:
        """Note that every pack was proved since the full scrub began."""
        self._state = msgspec.structs.replace(self._state, begun_at=None, damaged=[], finished_ns=self._clock.now_ns())

    def remember(self) -> None:
        """Write down how far it is."""
        self._file.write(self._state)


def _passes(before: bytes, now: bytes, mark: bytes) -> bool:
    """Tell whether ``mark`` lies on the way, in cyclic order."""
    start = int.from_bytes(before, "big")
    return (int.from_bytes(mark, "big") - start) % _ALL <= (int.from_bytes(now, "big") - start) % _ALL
