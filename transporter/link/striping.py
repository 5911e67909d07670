"""How many data channels a session uses: more while that makes it faster, fewer where it does not.

On a line with delay one connection carries only so much: its window grows by a little with each round trip, and halves
with each loss. Several share the pain. On a short line nothing is gained, and two are enough.
"""

from __future__ import annotations

from dataclasses import dataclass

# A line with a shorter round trip than this loses nothing by few connections.
SHORT_LINE_SECONDS = 0.004
FEW = 2
# What a long line begins with: several slow starts at once are past the first losses sooner. More for longer lines.
MANY = 8
MANY_FOR_SECONDS = 160
# More connections must carry so much more; within less of it lies the weather of the line.
GAIN = 1.06
# With fewer connections so much may be lost: they cost memory at the other end, and are hard on other people's.
LOSS = 0.98
# How long a measurement takes, in round trips, and at least.
ROUND_TRIPS = 4
SHORTEST_SECONDS = 0.4
# After a step that brought nothing the next trial comes later, and later.
FIRST_REST = 8.0
LONGEST_REST = 120.0


def first_streams(round_trip: float) -> int:
    """Return how many channels a line with this round trip (seconds) begins with."""
    return FEW if round_trip < SHORT_LINE_SECONDS else max(MANY, min(32, round(round_trip * MANY_FOR_SECONDS)))


@dataclass
class Striper:
    """Decides from measurements, one after the other, how many channels to use next. Knows no clock and no socket.

    ``most``: the configured maximum. ``round_trip`` in seconds. `measured` returns the number of channels wanted.
    """

    most: int
    round_trip: float
    streams: int = 0
    _before: int = 0
    _rate: float = 0.0
    _trial: str = ""
    _rest: float = FIRST_REST
    _resting: float = 0.0

    def __post_init__(self) -> None:
        self.streams = self.streams or min(first_streams(self.round_trip), self.most)

    @property
    def short_line(self) -> bool:
        """Whether the line is so short that the number of channels is left alone."""
        return self.round_trip < SHORT_LINE_SECONDS

    @property
    def interval(self) -> float:
        """Seconds that a measurement should take."""
        return max(SHORTEST_SECONDS, ROUND_TRIPS * self.round_trip)

    def measured(self, rate: float, seconds: float, *, line_bound: bool) -> int:
        """Take in the goodput (bytes a second) of the last ``seconds``; return how many channels to use from now on.

        ``line_bound``: whether there was always something waiting to be sent or to arrive. If not, the line is not what
        holds things up, and the measurement says nothing of it.
        """
        if self.short_line or not line_bound:
            self._give_up_trial()
            return self.streams
        if self._trial == "more":
            self._judge_more(rate)
        elif self._trial == "fewer":
            self._judge_fewer(rate)
        elif self._resting > 0:
            self._resting -= seconds
            self._rate = rate
        else:
            self._try(rate)
        return self.streams

    def _try(self, rate: float) -> None:
        """Begin a trial: upwards; at the top downwards, now and then."""
        self._rate, self._before = rate, self.streams
        if self.streams < self.most:
            self._trial, self.streams = "more", min(self.streams * 2, self.most)
        elif self.streams > FEW:
            self._trial, self.streams = "fewer", max(self.streams // 2, FEW)

    def _judge_more(self, rate: float) -> None:
        self._trial = ""
        if rate >= self._rate * GAIN:
            self._rest = FIRST_REST
            self._rate = rate
            if self.streams < self.most:
                self._try(rate)
            else:
                self._resting = LONGEST_REST
        else:
            self._back()

    def _judge_fewer(self, rate: float) -> None:
        self._trial = ""
        if rate < self._rate * LOSS:
            self._back()
        else:
            self._rest_a_while()

    def _back(self) -> None:
        self.streams = self._before
        self._rest_a_while()

    def _rest_a_while(self) -> None:
        self._resting = self._rest
        self._rest = min(self._rest * 2, LONGEST_REST)

    def _give_up_trial(self) -> None:
        if self._trial:
            self.streams, self._trial = self._before, ""
