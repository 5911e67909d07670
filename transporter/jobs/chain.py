"""The chain of a job's points at a target: looked at at every contact, and remembered in the catalog.

A finding is told once, as a SecurityEvent and in the audit trail; until it is put right `points` and `status` show it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import trio

from protocol.errors import ProtocolError
from protocol.keeping_messages import Chain, GetChain
from transporter import catalog_chain as states
from transporter.catalog import Catalog
from transporter.catalog_chain import ChainPoint
from transporter.errors import RefusedByPeer
from transporter.events import Note, SecurityEvent
from transporter.jobs.chain_verdict import ChainVerdict, compare
from transporter.jobs.context import JobContext, own_tenant
from transporter.points.gone_keys import GoneKeys
from transporter.points.keeping_rows import ChainRow, chain_digest, decode_chain
from transporter.retention import show_moment

# As many as `jobs.points.ROWS_AT_MOST`: a point a minute for a year.
ROWS_AT_MOST = 500_000
_SHOWN = 5
# By their names in the audit trail.
_NAMED = 100
Ask = Callable[[GetChain], Awaitable[tuple[Chain, bytes | memoryview]]]


@dataclass(frozen=True)
class ChainThere:
    """What a target says of a job's points. ``now_ns``: its time; ``recycle``: seconds in its recycle bin.

    ``doubt``: why it does not believe its clock; else empty.
    """

    rows: list[ChainRow] = field(default_factory=list)
    now_ns: int = 0
    recycle: int = 0
    may_remove: bool = False
    doubt: str = ""


async def read_chain(ask: Ask, repository: str, job: str) -> ChainThere:
    """Ask for the whole chain, page by page. Raises RefusedByPeer for an answer that is none."""
    rows: list[ChainRow] = []
    while True:
        answer, payload = await ask(GetChain(repository=repository, job=job, first=len(rows)))
        try:
            page = decode_chain(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, ProtocolError) as error:
            raise RefusedByPeer("the peer's list of points is not valid", "update the transporter there") from error
        rows += page
        if len(rows) > ROWS_AT_MOST:
            raise RefusedByPeer("the peer lists too many restore points", "find out what happened to the target")
        if len(rows) >= answer.total or not page:
            break
    if len({(row.point, bool(row.recycled_until_ns)) for row in rows}) != len(rows):
        raise RefusedByPeer("the peer lists a restore point twice", "find out what happened to the target")
    return ChainThere(rows, answer.now_ns, answer.recycle, answer.may_remove, answer.doubt)


def expected_digest(catalog: Catalog, destination: str, job: str) -> bytes:
    """Return what the digest of the chain there must be; empty where only a closer look can tell."""
    known = catalog.chain(destination, job)
    in_bin = (states.REMOVED, states.ANNOUNCED)
    if not all(point.state in (states.THERE, *in_bin) for point in known):
        return b""
    there = [(point.point, point.point_hash) for point in known if point.state == states.THERE]
    return chain_digest(there, [(point.point, point.point_hash) for point in known if point.state in in_bin])


def as_expected(catalog: Catalog, destination: str, job: str, listed: Sequence[tuple[bytes, bytes]]) -> bool:
    """Tell whether the points that are listed, (id, hash), are those that should be there, in their order.

    False as well where there is more to look at: what is in the recycle bin, what is not in order already.
    """
    known = catalog.chain(destination, job)
    in_order = all(point.state == states.THERE for point in known)
    return in_order and [(point.point, point.point_hash) for point in known] == list(listed)


async def check_chain(
    context: JobContext, destination: str, job: str, there: ChainThere, *, settled: bool = False
) -> ChainVerdict:
    """Compare what a target lists with what this home knows; remember it, and tell what is wrong, once.

    ``settled``: see `compare`.
    """
    return await trio.to_thread.run_sync(_check, context, destination, job, there, settled)


def _check(context: JobContext, destination: str, job: str, there: ChainThere, settled: bool) -> ChainVerdict:
    known = context.catalog.chain(destination, job)
    configured = context.config.jobs.get(job)
    ordered = configured is not None and configured.to == destination
    verdict = compare(known, there.rows, context.clock.now_ns(), settled=settled, ordered=ordered)
    # Told first: after a crash between the two a finding is told twice, and never not at all.
    for what in _findings(verdict, destination, job):
        context.keys.record("chain.finding", destination=destination, job=job, what=what)
        context.bus.publish(SecurityEvent(peer=destination.partition("/")[0], what=what))
    for text in _notes(verdict, destination):
        context.bus.publish(Note(text=text, job=job))
    drop_keys(context, destination, verdict.gone)
    context.catalog.order_chain(destination, job, verdict.order)
    for old, new in verdict.folded:
        context.catalog.exchange_chain(destination, job, old, new)
    context.catalog.move_chain(destination, job, verdict.moves)
    context.catalog.put_chain(destination, job, verdict.new)
    return verdict


def _findings(verdict: ChainVerdict, destination: str, job: str) -> list[str]:
    found = []
    for points, what in (
        (verdict.missing, "that this node committed are missing: somebody removed or withholds them"),
        (verdict.replaced, "are not what this node committed: somebody exchanged them"),
        (verdict.moved, "are listed in another order than this node committed them in"),
        (verdict.removed_in_our_name, "were removed in this node's name, and not by it; `point undelete` in time"),
    ):
        if points:
            found.append(f"{destination}: {_counted(points, job)} {what}: {_named(points)}")
    if verdict.unknown:
        named = ", ".join(point.hex()[:8] for point in verdict.unknown[:_SHOWN])
        more = " …" if len(verdict.unknown) > _SHOWN else ""
        count = len(verdict.unknown)
        found.append(
            f"{destination}: it lists {count} restore point{'s' * (count != 1)} of job {job} that this node "
            f"never committed: {named}{more}"
        )
    return found


def _notes(verdict: ChainVerdict, destination: str) -> list[str]:
    notes = []
    if verdict.announced:
        until = show_moment(min(point.until_ns for point in verdict.announced))
        notes.append(
            f"{destination} says that its provider removed {len(verdict.announced)} restore points: "
            f"{_named(verdict.announced)}; they can be brought back until {until}"
        )
    if verdict.back:
        notes.append(f"{destination} lists restore points again as it should: {_named(verdict.back)}")
    return notes


def _counted(points: Sequence[ChainPoint], job: str) -> str:
    return f"{len(points)} restore point{'s' * (len(points) != 1)} of job {job}"


def _named(points: Sequence[ChainPoint]) -> str:
    shown = ", ".join(f"{point.point.hex()[:8]} of {show_moment(point.committed_ns)}" for point in points[:_SHOWN])
    return shown + (" …" if len(points) > _SHOWN else "")


# --- what this home does itself ---------------------------------------------------------------------------------


def note_committing(context: JobContext, destination: str, job: str, point: bytes, committed_ns: int = 0) -> None:
    """Remember that a point's commit is about to be asked for: if its end is not seen, it may be there all the same.

    ``committed_ns``: the time that it will be listed with, 0: now.
    """
    begun = ChainPoint(point, b"", committed_ns or context.clock.now_ns(), states.COMMITTING)
    context.catalog.put_chain(destination, job, [begun])


def note_committed(context: JobContext, destination: str, job: str, point: bytes, point_hash: bytes) -> None:
    """Remember a point that is committed now."""
    context.catalog.put_chain(destination, job, [ChainPoint(point, point_hash, context.clock.now_ns())])


def note_replaced(context: JobContext, destination: str, job: str, old: bytes, point: bytes, point_hash: bytes) -> None:
    """Remember a point that is committed now and took the place of ``old`` (`commit_point(replaces=…)`)."""
    known = {each.point: each for each in context.catalog.chain(destination, job)}
    committed_ns = known[old].committed_ns if old in known else context.clock.now_ns()
    context.catalog.replace_chain(destination, job, old, ChainPoint(point, point_hash, committed_ns))


def note_copying(context: JobContext, destination: str, job: str, point: bytes, committed_ns: int) -> None:
    """Remember that a point is copied there, where this home knows what should be there at all.

    ``committed_ns``: of the original, as where it is copied from: retention goes by it, and so does its place.

    What is known of a point that should be there, and is missing, stays: a copy that fails must not settle it.
    """
    known = {each.point: each.state for each in context.catalog.chain(destination, job)}
    if known and known.get(point, states.COMMITTING) == states.COMMITTING:
        context.catalog.put_chain(destination, job, [ChainPoint(point, b"", committed_ns, states.COMMITTING)])


def note_copied_back(context: JobContext, destination: str, job: str, point: bytes, original: bytes) -> bool:
    """Let a copy stand where the very point was missing that this home committed; tell whether it was.

    ``original``: the hash where it was made. The next contact takes the copy's own hash as it is listed.
    """
    known = {each.point: each for each in context.catalog.chain(destination, job)}
    each = known.get(point)
    if each is None or each.state != states.MISSING or each.point_hash != original:
        return False
    context.catalog.move_chain(destination, job, [(each, replace(each, state=states.COMMITTING, point_hash=b""))])
    return True


def note_removing(context: JobContext, destination: str, job: str, points: Iterable[bytes]) -> None:
    """Remember that this home is about to ask for the removal of points, so that it is not taken for somebody else's.

    In the catalog before the question goes out: after a crash the next contact finishes it.
    """
    wanted = set(points)
    known = [each for each in context.catalog.chain(destination, job) if each.point in wanted]
    context.catalog.put_chain(destination, job, [replace(each, state=states.REMOVING) for each in known])


def note_outcome(context: JobContext, destination: str, job: str, outcomes: Iterable[tuple[bytes, int, str]]) -> None:
    """Remember what became of points whose removal was asked for: (id, until_ns, refused)."""
    told = {point: (until_ns, refused) for point, until_ns, refused in outcomes}
    gone = [point for point, (until_ns, refused) in told.items() if not until_ns and not refused]
    # Before the row goes: a crash between the two leaves the row, and so the next contact does it again.
    drop_keys(context, destination, gone)
    moves: list[tuple[ChainPoint, ChainPoint | None]] = []
    for each in context.catalog.chain(destination, job):
        if each.point in told and each.state == states.REMOVING:
            until_ns, refused = told[each.point]
            gone_for_good = states.REMOVED if until_ns else states.DROPPED
            moves.append((each, replace(each, state=states.THERE if refused else gone_for_good, until_ns=until_ns)))
    context.catalog.move_chain(destination, job, moves)


def drop_keys(context: JobContext, destination: str, points: Sequence[bytes]) -> None:
    """Forget the storage keys of points that have gone; of those that lie elsewhere, too, they are still needed."""
    GoneKeys(context.home, context.config, context.identity, context.catalog, context.keys).drop(destination, points)


def note_removed_here(
    context: JobContext, repository: str, tenant: str, job: str, outcomes: Iterable[tuple[bytes, int, str]]
) -> None:
    """Remember points that went from a repository of this node, so that no copy of this home brings them back.

    Those of other tenants are no copies of this home's. ``outcomes``: as of `note_outcome`.
    """
    if tenant == own_tenant(context):
        now = context.clock.now_ns()
        gone = [ChainPoint(point, b"", now, states.DROPPED) for point, _until, refused in outcomes if not refused]
        context.catalog.put_chain(repository, job, gone)


def accept_chain(context: JobContext, destination: str, job: str, rows: Iterable[ChainRow]) -> int:
    """Take what a target lists for what it should have, in that order; return how many findings that settles."""
    known = context.catalog.chain(destination, job)
    faults = [each for each in known if each.state in states.FAULTS]
    if not faults:
        return 0
    listed = [ChainPoint(row.point, row.point_hash, row.committed_ns) for row in rows if not row.recycled_until_ns]
    own = (states.COMMITTING, states.REMOVING, states.REMOVED, states.ANNOUNCED)
    # An entry of the trail has a bound, and a target may have lost years.
    named = [each.point.hex() for each in faults[:_NAMED]]
    context.keys.record("chain.accept", destination=destination, job=job, points=named, count=len(faults))
    context.catalog.drop_chain(destination, job, [each.point for each in known if each.state not in own])
    context.catalog.put_chain(destination, job, listed)
    return len(faults)
