"""How one limit on what is received is shared among those who send: each is told a share, and together they fill it.

Pure. Whoever uses less than its share is left a quarter more than it uses, so that the others may have the rest; as
soon as it fills that, it counts among the others.
"""

from __future__ import annotations

from collections.abc import Sequence

# Fills its share: from so much of it on.
FULL = 0.8
GROWTH = 1.25
# What all that are idle may keep together, so that they can begin.
IDLE = 0.05


def share_out(limit: float, used: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Return new shares, which add up to ``limit``. ``shares``: those so far, 0 for whoever is new.

    ``used``: bytes a second that came from each under its share.
    """
    count = len(used)
    if not count:
        return []
    wanted = [
        float("inf") if not share or use >= FULL * share else max(GROWTH * use, limit * IDLE / count)
        for use, share in zip(used, shares, strict=True)
    ]
    fresh = [0.0] * count
    left, open_ones = limit, set(range(count))
    while open_ones:
        equal = left / len(open_ones)
        modest = [at for at in open_ones if wanted[at] <= equal]
        if not modest:
            break
        for at in modest:
            fresh[at] = wanted[at]
            left -= wanted[at]
            open_ones.discard(at)
    # Where nobody wants more the rest is spread over all of them: it costs nothing.
    takers = open_ones or set(range(count))
    for at in takers:
        fresh[at] += max(left, 0.0) / len(takers)
    return fresh
