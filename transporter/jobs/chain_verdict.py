"""What a target lists, compared with what this home has committed there. Pure: no line, no database.

The target is not believed, only compared: it may withhold points, but not without this home noticing. What it says of
its recycle bin is an announcement: a point that was announced may go when its time is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from transporter import catalog_chain as states
from transporter.catalog_chain import ChainPoint
from transporter.points.fold import synthetic_id
from transporter.points.keeping_rows import PROVIDER, ChainRow

# Points that this home never committed are kept in mind one by one, up to so many: a target could invent without end.
UNKNOWN_AT_MOST = 1_000
Move = tuple[ChainPoint, ChainPoint | None]


@dataclass
class ChainVerdict:
    """What to change in the catalog, what to tell, and whose keys are not needed any more.

    ``order``: the order of the known points from now on, empty: as it was. The lists of points are what was found by
    this comparison alone: what had been told before is not told again.
    """

    moves: list[Move] = field(default_factory=list)
    # (old, synthetic): the second one took the first one's place, and this home was killed before it noted that.
    folded: list[tuple[bytes, bytes]] = field(default_factory=list)
    order: list[bytes] = field(default_factory=list)
    new: list[ChainPoint] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)
    missing: list[ChainPoint] = field(default_factory=list)
    replaced: list[ChainPoint] = field(default_factory=list)
    moved: list[ChainPoint] = field(default_factory=list)
    unknown: list[bytes] = field(default_factory=list)
    removed_in_our_name: list[ChainPoint] = field(default_factory=list)
    announced: list[ChainPoint] = field(default_factory=list)
    back: list[ChainPoint] = field(default_factory=list)


def compare(
    known: Sequence[ChainPoint],
    rows: Iterable[ChainRow],
    now_ns: int,
    *,
    settled: bool = False,
    ordered: bool = True,
) -> ChainVerdict:
    """Compare. ``settled``: no run of the job is under way, so that a commit whose end was not seen will not come.

    ``ordered``: the job's points are committed there one after the other. Copies keep the times of what they are copies
    of, and may come in any order.

    Where nothing is known yet (a home from before, or made anew) all that is listed is taken for what should be there.
    """
    verdict = ChainVerdict()
    live: dict[bytes, ChainRow] = {}
    binned: dict[bytes, ChainRow] = {}
    for row in rows:
        (binned if row.recycled_until_ns else live)[row.point] = row
    if not known:
        verdict.new = [ChainPoint(row.point, row.point_hash, row.committed_ns) for row in live.values()]
        return verdict
    displaced: set[bytes] = set()
    if ordered:
        known, verdict.order = _with_copies_in_place(known, live)
        if displaced := _displaced(known, live):
            pairs = _folded(known, live)
            verdict.folded = [(known[old].point, known[new].point) for new, old in pairs.items() if new > old]
            displaced = _displaced(known, live, {max(pair): min(pair) for pair in pairs.items()})
    for point in known:
        _judge(verdict, point, live.get(point.point), binned.get(point.point), now_ns, settled, displaced)
    strange = [row for row in live.values() if row.point not in {point.point for point in known}]
    room = UNKNOWN_AT_MOST - sum(point.state == states.UNKNOWN for point in known)
    verdict.unknown = [row.point for row in strange]
    verdict.new = [
        ChainPoint(row.point, row.point_hash, row.committed_ns, states.UNKNOWN) for row in strange[: max(0, room)]
    ]
    return verdict


def _with_copies_in_place(
    known: Sequence[ChainPoint], live: dict[bytes, ChainRow]
) -> tuple[Sequence[ChainPoint], list[bytes]]:
    """Return the known points with copies that have just come where they are listed, and that order if it is another.

    A copy was made earlier than points that are there, and this home knew that when it asked for it. What this home
    commits itself comes last, and what is known keeps its order: only the places of such copies are the target's word.
    """
    latest = max((point.committed_ns for point in known if point.state == states.THERE), default=0)
    come = {
        point.point: point
        for point in known
        if point.state == states.COMMITTING and not point.point_hash and point.committed_ns < latest
        if point.point in live
    }
    if not come:
        return known, []
    placed = [point for point in known if point.point not in come]
    at = {point.point: number for number, point in enumerate(placed)}
    before: dict[int, list[ChainPoint]] = {}
    next_at = len(placed)
    for point in reversed(live):
        if point in come:
            before.setdefault(next_at, []).insert(0, come[point])
        else:
            next_at = min(next_at, at.get(point, next_at))
    found = [
        each for number in range(len(placed) + 1) for each in (*before.get(number, ()), *placed[number : number + 1])
    ]
    order = [each.point for each in found]
    return found, order if order != [each.point for each in known] else []


def _displaced(
    known: Sequence[ChainPoint], live: dict[bytes, ChainRow], of_pairs: Mapping[int, int] = MappingProxyType({})
) -> set[bytes]:
    """Return the points that are listed behind one that was committed after them; of a pair both have one place."""
    order = {
        point.point: of_pairs.get(number, number) for number, point in enumerate(known) if point.state != states.UNKNOWN
    }
    latest, found = -1, set()
    for point in live:
        number = order.get(point)
        if number is not None and number < latest:
            found.add(point)
        latest = max(latest, -1 if number is None else number)
    return found


def _folded(known: Sequence[ChainPoint], live: dict[bytes, ChainRow]) -> dict[int, int]:
    """Return where in ``known`` a listed synthetic point is, and where the one whose place it takes.

    A fold that was cut short is known by the id alone, which follows from the old point's: no target can make one up.
    """
    places = {point.point: number for number, point in enumerate(known) if point.state != states.UNKNOWN}
    found = {}
    for number, point in enumerate(known):
        new = places.get(synthetic_id(point.point, point.point_hash)) if point.point_hash else None
        if new is not None and known[new].point in live:
            found[new] = number
    return found


def _judge(
    verdict: ChainVerdict,
    point: ChainPoint,
    row: ChainRow | None,
    in_bin: ChainRow | None,
    now_ns: int,
    settled: bool,
    displaced: set[bytes],
) -> None:
    def move(state: str, until_ns: int = 0, point_hash: bytes | None = None) -> ChainPoint:
        kept = point.point_hash if point_hash is None else point_hash
        changed = replace(point, state=state, until_ns=until_ns, point_hash=kept)
        if changed != point:
            verdict.moves.append((point, changed))
        return changed

    def forget() -> None:
        verdict.moves.append((point, None))

    if point.state == states.UNKNOWN:
        if row is None:
            forget()
    elif row is not None:
        _judge_listed(verdict, point, row, displaced, move)
    elif point.state == states.COMMITTING:
        if settled:
            forget()
    elif point.state in (states.REMOVING, states.REMOVED):
        if in_bin is not None:
            move(states.REMOVED, in_bin.recycled_until_ns)
        else:
            verdict.gone.append(point.point)
            move(states.DROPPED)
    elif in_bin is not None and in_bin.point_hash == point.point_hash:
        changed = move(states.ANNOUNCED, in_bin.recycled_until_ns)
        if point.state != states.ANNOUNCED:
            (verdict.removed_in_our_name if in_bin.by != PROVIDER else verdict.announced).append(changed)
    elif point.state == states.ANNOUNCED and point.until_ns <= now_ns:
        move(states.DROPPED)
    elif point.state != states.MISSING:
        verdict.missing.append(move(states.MISSING))


def _judge_listed(
    verdict: ChainVerdict,
    point: ChainPoint,
    row: ChainRow,
    displaced: set[bytes],
    move: Callable[..., ChainPoint],
) -> None:
    if point.state == states.COMMITTING and not point.point_hash:
        move(states.THERE, point_hash=row.point_hash)
    elif row.point_hash != point.point_hash:
        if point.state != states.REPLACED:
            verdict.replaced.append(move(states.REPLACED))
    elif point.point in displaced:
        if point.state != states.MOVED:
            verdict.moved.append(move(states.MOVED))
    else:
        changed = move(states.THERE)
        if point.state in (*states.FAULTS, states.ANNOUNCED):
            verdict.back.append(changed)
