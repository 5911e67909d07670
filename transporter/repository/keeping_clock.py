"""The repository's time: never back, and never far ahead at once without somebody's word.

Whoever may set this machine's clock could open every lock and empty every recycle bin by it. So the latest time that
was believed is kept in ``leases/clock``. The clock behind it does not count; a clock that is further ahead of it than a
bound is not believed, and nothing is deleted by it, until somebody confirms.
"""

from __future__ import annotations

from collections.abc import Callable

from transporter.clock import Clock
from transporter.errors import DamagedData
from transporter.repository import files, keeping_files, limits
from transporter.repository.errors import ClockDoubtful
from transporter.repository.keeping_files import ClockMark
from transporter.repository.layout import Layout
from transporter.retention import show_moment


class KeepingClock:
    """``first``: a time that has surely been, for a repository without a mark. ``jump_ns`` may be set. Thread-safe."""

    def __init__(self, layout: Layout, clock: Clock, first: Callable[[], int]) -> None:
        self._layout = layout
        self._clock = clock
        self._first = first
        self.jump_ns = limits.CLOCK_JUMP_NS

    def now_ns(self) -> int:
        """Return the time that locks, the recycle bin and retention go by: that of the mark where there is doubt."""
        mark, clock = self._mark(), self._clock.now_ns()
        return mark if clock - mark > self.jump_ns else max(mark, clock)

    def latest_ns(self) -> int:
        """Return the later of clock and mark, believed or not: a lock must not be too short."""
        return max(self._mark(), self._clock.now_ns())

    def date_of(self, said_ns: int | None) -> int:
        """Return what a point is dated that was made at ``said_ns``, by the clock of the end that read (None: unknown).

        The clock's time; but one that is far ahead of what was seen last, and of what that end says, would leave this
        point, and all later ones of its job, a date in years to come, and no rule would ever count them. Then it is the
        later of the mark and that end's word. Whoever lies there only chooses a time between the mark and the clock.
        """
        mark, clock = self._mark(), self._clock.now_ns()
        if said_ns is None or clock - mark <= self.jump_ns or clock - said_ns <= self.jump_ns:
            return clock
        return max(mark, said_ns)

    def believed_ns(self) -> int:
        """Return the time for something that deletes. Raises ClockDoubtful if the clock is too far from the mark."""
        mark, clock = self._mark(), self._clock.now_ns()
        if abs(clock - mark) > self.jump_ns:
            how = "ahead of" if clock > mark else "behind"
            raise ClockDoubtful(
                f"the clock says {show_moment(clock)}, which is far {how} the last time seen by the repository, "
                f"{show_moment(mark)}: nothing is deleted",
                "set it right; if it is right, the provider confirms it: `repository accept-clock NAME` there",
            )
        return max(mark, clock)

    def note(self) -> None:
        """Move the mark on to the clock, if that is believed and enough has passed."""
        mark, clock = self._mark(), self._clock.now_ns()
        if limits.CLOCK_STEP_NS <= clock - mark <= self.jump_ns:
            self._put(clock)
        elif not self._layout.clock.exists():
            # From now on the points need not be asked.
            self._put(mark)

    def accept(self) -> int:
        """Believe the clock as it is now, ahead or behind; return its time. Locks keep their dates."""
        now = self._clock.now_ns()
        self._put(now)
        return now

    def _put(self, seen_ns: int) -> None:
        with files.disk_errors("keep the time"):
            temporary = self._layout.temporary(self._clock.random_bytes(16))
            keeping_files.put(temporary, self._layout.clock, self._layout.root, ClockMark(seen_ns=seen_ns))

    def _mark(self) -> int:
        try:
            mark = keeping_files.read(self._layout.clock, ClockMark)
        except DamagedData:
            mark = None
        return self._first() if mark is None else mark.seen_ns
