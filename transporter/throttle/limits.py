"""All limits of one process, and the flows under them: what one run, or one session that is served, moves.

What is sent is paced here. For what is received the peer is asked to pace; reading is paced as well, a tenth faster,
for a peer that does not do as it was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import trio

from transporter.config import ThrottleConfig
from transporter.events import LimitInForce
from transporter.throttle.pace import Arbiter, Bucket, Pace
from transporter.throttle.sharing import share_out
from transporter.throttle.windows import Schedule

# Reading keeps to this much of a limit: a peer that keeps to the limit is never held up by it.
BACKSTOP = 1.1
# A share that changes by less is not worth a message.
WORTH_TELLING = 0.02
ASKED = "asked"
# What a flow that has just begun uses: it counts among those that want as much as they can get.
UNKNOWN = float("inf")
# In less time a burst, or a pause between two, would be all that is seen.
MEASURED_SECONDS = 0.5
# How often a peer that asks for something else all the time makes an event of it.
SAID_EACH_SECONDS = 1.0

Scope = tuple[str, str]
"""What a limit is on: ``("daemon", "")``, ``("peer", NAME)`` or ``("job", NAME)``."""


def schedules(config: ThrottleConfig) -> Iterator[tuple[Scope, Schedule]]:
    """Yield every limit of a configuration."""
    yield ("daemon", ""), config.daemon
    for name, schedule in config.peers.items():
        yield ("peer", name), schedule
    for name, schedule in config.jobs.items():
        yield ("job", name), schedule


class Throttle:
    """The limits in force, and the buckets that all flows of this process share."""

    def __init__(self) -> None:
        self.outgoing, self.incoming = Arbiter(), Arbiter()
        self._rates: dict[Scope, int] = {}
        self._sending: dict[Scope, Bucket] = {}
        self._receiving: dict[Scope, Bucket] = {}
        self._flows: list[Flow] = []

    def apply(self, config: ThrottleConfig, local: datetime) -> None:
        """Have what the configuration says for this moment hold from now on."""
        rates = {scope: int(rate) for scope, schedule in schedules(config) if (rate := schedule.rate(local))}
        if rates == self._rates:
            return
        self._rates = rates
        for buckets, part in ((self._sending, 1.0), (self._receiving, BACKSTOP)):
            for scope, bucket in buckets.items():
                bucket.set_rate(rates.get(scope, 0) * part)
        self.share()
        for flow in self._flows:
            flow.look()

    def rate(self, scope: Scope) -> int:
        """Return the limit in force; 0 where there is none."""
        return self._rates.get(scope, 0)

    def public(self) -> list[dict[str, str | int]]:
        """Return the limits in force, as ``status`` shows them."""
        return [{"on": scope, "name": name, "bytes_per_second": rate} for (scope, name), rate in self._rates.items()]

    def sending(self, scope: Scope) -> Bucket:
        """Return the bucket of what is sent under a limit."""
        return self._sending.setdefault(scope, Bucket(self.rate(scope)))

    def receiving(self, scope: Scope) -> Bucket:
        """Return the bucket of what is read under a limit."""
        return self._receiving.setdefault(scope, Bucket(self.rate(scope) * BACKSTOP))

    # --- flows in a session -----------------------------------------------------------------------------------

    def enter(self, flow: Flow) -> None:
        """Count a flow in: it has a session."""
        self._flows.append(flow)
        self.share()
        flow.look()

    def leave(self, flow: Flow) -> None:
        """Count a flow out."""
        self._flows.remove(flow)
        self.share()

    def measure(self) -> None:
        """Share anew by what each flow has received since the last time. Called each second."""
        for flow in self._flows:
            flow.measure()
        self.share()

    def share(self) -> None:
        """Share every limit on what is received among the flows under it."""
        shares: dict[Flow, dict[Scope, float]] = {flow: {} for flow in self._flows}
        for scope, rate in self._rates.items():
            under = [flow for flow in self._flows if scope in flow.scopes]
            parts = share_out(rate, [flow.used for flow in under], [flow.shares.get(scope, 0.0) for flow in under])
            for flow, part in zip(under, parts, strict=True):
                shares[flow][scope] = part
        for flow, own in shares.items():
            flow.set_shares(own)


class Flow:
    """What one run or one served session moves, over all its connections.

    ``asking``: bytes a second that the peer is to keep to, 0 for no limit; ``changed`` is set when it may be another.
    ``ceiling``: bytes a second that are sent at most, whatever the limits say; 0: no ceiling.
    """

    def __init__(
        self,
        throttle: Throttle,
        scopes: tuple[Scope, ...] = (),
        job: str = "",
        publish: Callable[[LimitInForce], None] = lambda _event: None,
        ceiling: int = 0,
    ) -> None:
        self._throttle = throttle
        self._job = job
        self._publish = publish
        self._asked = Bucket()
        self._said: dict[str, tuple[int, str]] = {}
        self._said_at = float("-inf")
        self.scopes = scopes
        buckets = (*map(throttle.sending, scopes), self._asked, Bucket(ceiling))
        self.sending = Pace(throttle.outgoing, buckets)
        self.receiving = Pace(throttle.incoming, map(throttle.receiving, scopes))
        self.received = 0
        self._measured = (0.0, 0)
        self.used = UNKNOWN
        self.shares: dict[Scope, float] = {}
        self.asking = 0
        self.changed = trio.Event()

    @contextmanager
    def in_session(self) -> Iterator[None]:
        """Count as one that moves bytes; what the peer asked for ends with its session."""
        self.shares, self.used, self._measured = {}, UNKNOWN, (trio.current_time(), self.received)
        self._throttle.enter(self)
        try:
            yield
        finally:
            self._throttle.leave(self)
            self._asked.set_rate(0)
            self.sending.look()

    def asked(self, rate: int) -> None:
        """The peer asks to be sent no more than this; 0 for no limit."""
        self._asked.set_rate(rate)
        self.sending.look()
        if trio.current_time() - self._said_at >= SAID_EACH_SECONDS:
            self._say()

    def look(self) -> None:
        """See which limits are in force, and tell it where that has changed."""
        self.sending.look()
        self.receiving.look()
        self._say()

    def _say(self) -> None:
        own = [(rate, scope[0]) for scope in self.scopes if (rate := self._throttle.rate(scope))]
        asked = [(int(self._asked.rate), ASKED)] if self._asked.rate else []
        for direction, limits in (("send", own + asked), ("receive", own)):
            rate, by = min(limits, default=(0, ""))
            if self._said.get(direction, (0, "")) != (rate, by):
                self._said[direction], self._said_at = (rate, by), trio.current_time()
                self._publish(LimitInForce(job=self._job, direction=direction, bytes_per_second=rate, by=by))

    # --- for sharing ------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Note how fast bytes have come since the last time; called each second."""
        (then, before), now = self._measured, trio.current_time()
        if now - then >= MEASURED_SECONDS:
            self.used = (self.received - before) / (now - then)
            self._measured = (now, self.received)
        self._say()

    def set_shares(self, shares: dict[Scope, float]) -> None:
        """Take this flow's share of each limit; the least is what the peer is asked for."""
        asking = max(int(min(shares.values())), 1) if shares else 0
        near = bool(asking and self.asking) and abs(asking - self.asking) <= WORTH_TELLING * self.asking
        # What the peer was told is what it is measured by.
        self.shares = shares
        if not near:
            self.asking = asking
            self.changed.set()
            self.changed = trio.Event()


NO_LIMIT = Flow(Throttle())
"""The flow of a connection that belongs to no session (yet)."""


def free_flow() -> Flow:
    """Return a flow that is under no limit but what its peer asks for."""
    return Flow(Throttle())
