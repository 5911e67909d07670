"""What a copy has to do: which points the source has, which of them the target lacks, and where they go."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import trio

from transporter.errors import UsageError
from transporter.jobs.context import JobContext, own_tenant
from transporter.jobs.copy_ends import CopyRow
from transporter.jobs.points import DAMAGED, LATEST, PointRow, Where, list_points
from transporter.jobs.search_here import open_store
from transporter.points.copied import job_of_head
from transporter.points.point_rows import point_rows


@dataclass(frozen=True)
class End:
    """A repository: at a peer, or of this node where ``peer`` is empty."""

    peer: str
    repository: str

    def __str__(self) -> str:
        return f"{self.peer}/{self.repository}" if self.peer else self.repository

    @classmethod
    def of(cls, text: str) -> End:
        """Parse PEER/REPOSITORY or REPOSITORY. Raises UsageError."""
        peer, slash, repository = text.rpartition("/")
        if not repository or bool(slash) != bool(peer):
            raise UsageError(f"{text!r} names no repository", "write PEER/REPOSITORY, or a repository of this node")
        return cls(peer, repository)


@dataclass(frozen=True)
class CopyOrder:
    """What to copy. ``jobs`` empty: of all jobs; ``point``: ``latest``, the beginning of an id, or empty: all.

    ``label``: what the run is called, for limits, status and history.
    """

    label: str
    source: End
    target: End
    jobs: tuple[str, ...] = ()
    point: str = ""
    # Between two peers: through this node, and not straight from the one to the other.
    through: bool = False
    # What this node seals on the way, under a password of its own: nothing (as-is), what is plain, or all of it. Or the
    # target seals what is plain, under one of its own.
    seal: Literal["as-is", "plain", "all", "target"] = "as-is"
    password: str = ""
    # Also points that were removed from the target; one that is named by its id is copied in any case.
    removed_too: bool = False

    @property
    def straight(self) -> bool:
        """Whether the source is to push, and this node only conducts."""
        return bool(self.source.peer and self.target.peer) and not self.through and self.seal == "as-is"

    @property
    def job(self) -> str:
        """The one job that is asked for; empty where it is not one."""
        return self.jobs[0] if len(self.jobs) == 1 else ""


@dataclass(frozen=True)
class Group:
    """Points that go into one session: of one job and one domain, oldest first.

    ``job``: under which they lie at the target; ``head_job``: the job that their heads name; ``there``: what the target
    has of that job; ``proven``: the newest point of the group that the target has already.
    """

    job: str
    head_job: str
    domain: bytes
    rows: list[CopyRow]
    there: dict[bytes, PointRow] = field(repr=False)
    proven: CopyRow | None = None
    # Whether they are sealed anew on the way.
    seal: bool = False
    # Points that the target has, and that are pinned at the source and not there.
    unpinned: list[CopyRow] = field(default_factory=list)

    def without(self, points: Collection[bytes]) -> Group:
        """Return the group without these points."""
        return replace(self, rows=[row for row in self.rows if row.row.point not in points])


async def list_end(context: JobContext, end: End, job: str) -> list[CopyRow]:
    """Return the points of a repository; of one of this node those of all tenants. ``job`` empty: of all jobs."""
    if end.peer:
        return [CopyRow("", row) for row in await list_points(context, Where(end.peer, end.repository, job))]
    return await trio.to_thread.run_sync(_list_here, context, end.repository, job)


def _list_here(context: JobContext, name: str, job: str) -> list[CopyRow]:
    found: list[CopyRow] = []
    with open_store(context, name) as store:
        for tenant in store.tenants():
            refs = [ref for ref in store.points(tenant) if not job or job in (ref.job, f"{tenant}/{ref.job}")]
            found += [CopyRow(tenant, msgspec.convert(row, PointRow)) for row in point_rows(store, refs)]
    return found


def plan(context: JobContext, order: CopyOrder, source: list[CopyRow], target: list[CopyRow]) -> list[Group]:
    """Return what is to be copied, in the order of commits within each group. Raises UsageError."""
    own = own_tenant(context)
    here = "" if order.target.peer else own
    there: dict[str, dict[bytes, PointRow]] = {}
    for each in target:
        if each.tenant == here:
            there.setdefault(each.row.job, {})[each.row.point] = each.row
    groups: dict[tuple[str, bytes, bool], list[CopyRow]] = {}
    for each in sorted(_chosen(order, source), key=lambda each: each.row.committed_ns):
        if each.row.kind != DAMAGED:
            seal = order.seal == "all" or (order.seal in ("plain", "target") and not each.row.encrypted)
            groups.setdefault((_job_at_target(each, own), each.row.domain, seal), []).append(each)
    return [_group(job, domain, rows, there.get(job, {}), seal) for (job, domain, seal), rows in groups.items()]


def _job_at_target(each: CopyRow, own: str) -> str:
    """Return under which job a point lies there: a tenant's of this node apart from those of every other tenant."""
    return each.row.job if each.tenant in ("", own) else f"{each.tenant}/{each.row.job}"


def _group(job: str, domain: bytes, rows: list[CopyRow], there: dict[bytes, PointRow], seal: bool) -> Group:
    have = [row for row in rows if _is_there(row.row, there)]
    lacking = [row for row in rows if not _is_there(row.row, there)]
    alike = [row for row in have if there[row.row.point].resealed == seal]
    unpinned = [row for row in have if row.row.pinned is not None and there[row.row.point].pinned is None]
    return Group(job, job_of_head(job), domain, lacking, there, alike[-1] if alike else None, seal, unpinned)


def _is_there(row: PointRow, there: dict[bytes, PointRow]) -> bool:
    """Tell whether the target has this very point: by its hash where it was made. What differs is looked at closely."""
    known = there.get(row.point)
    return known is not None and known.point_hash == row.point_hash and known.kind != DAMAGED


def _chosen(order: CopyOrder, rows: list[CopyRow]) -> list[CopyRow]:
    """Return the points that the order names. Raises UsageError where there is none."""
    chosen = [each for each in rows if not order.jobs or _names(each) & set(order.jobs)]
    if order.point == LATEST:
        return chosen[-1:]
    if order.point:
        chosen = [each for each in chosen if each.row.point.hex().startswith(order.point.lower())]
        if len(chosen) != 1:
            many = "several restore points begin" if chosen else "no restore point begins"
            raise UsageError(f"{many} with {order.point!r} at {order.source}", "`transporter points` lists them")
    if order.job and not chosen:
        raise UsageError(f"job {order.job!r} has no restore points at {order.source}", "name the right job")
    return chosen


def _names(each: CopyRow) -> set[str]:
    return {each.row.job, f"{each.tenant}/{each.row.job}"}
