"""What the provider itself does to points in a repository of this node. Beside the daemon, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from transporter.errors import UsageError
from transporter.jobs.chain import drop_keys, note_removed_here
from transporter.jobs.context import JobContext
from transporter.keys.deeds import deed
from transporter.points.keeping_rows import rules_of
from transporter.repository import PROVIDER, PointKept, Repository, Waived
from transporter.retention import show_moment

_SHOWN = 3


@contextmanager
def open_here(context: JobContext, name: str) -> Iterator[Repository]:
    """Open a repository of this node for reading, with its rules: all of this works beside a writer. ConfigError."""
    settings = context.config.repository(name)
    place = context.home.repository_path(name, settings.path)
    with Repository.open(place, context.clock, writable=False) as store:
        store.keeping.rules = rules_of(settings)
        yield store


def tenant_of(store: Repository, job: str, tenant: str) -> str:
    """Return the tenant that has the job: as named, or the only one. Raises UsageError."""
    owners = {name for name in {*store.tenants(), *store.recycled_tenants()} if job in store.jobs_of(name)}
    if tenant:
        if tenant not in owners:
            raise UsageError(f"tenant {tenant!r} has no job {job!r} there", _known(owners))
        return tenant
    if len(owners) != 1:
        what = f"several tenants have a job {job!r} there" if owners else f"nobody has a job {job!r} there"
        raise UsageError(what, _known(owners))
    return owners.pop()


def _known(owners: set[str]) -> str:
    if not owners:
        return "`transporter points --repository NAME` lists what is there"
    return f"name one: --tenant {' | '.join(sorted(owners))}"


def point_named(ids: Sequence[bytes], text: str, listing: str, *, recycled: bool = False) -> bytes:
    """Return the point whose id begins so. Raises UsageError unless there is exactly one.

    ``listing``: what `points` is to be told to list them; ``recycled``: they are those in the recycle bin.
    """
    found = [point for point in dict.fromkeys(ids) if point.hex().startswith(text.lower())]
    if len(found) != 1 or not text:
        among = " in the recycle bin" if recycled else ""
        many = f"several restore points{among} begin" if found else f"no restore point{among} begins"
        command = f"transporter points {listing}{' --recycled' if recycled else ''}"
        raise UsageError(f"{many} with {text!r}", f"`{command}` lists them")
    return found[0]


def act_here(
    context: JobContext,
    action: str,
    repository: str,
    tenant: str,
    job: str,
    points: Sequence[str],
    *,
    reason: str = "",
    until_ns: int = 0,
    force: bool = False,
) -> list[dict[str, Any]]:
    """Remove, bring back, pin, unpin or lock points. In a thread. Raises PointKept, and what `Keeping` does."""
    with open_here(context, repository) as store:
        owner = tenant_of(store, job, tenant)
        in_bin = action == "undelete"
        if in_bin:
            ids = [each.ref.point_id for each in store.keeping.recycled(owner, job)]
        else:
            ids = [point for name, point in store.point_ids(owner) if name == job]
        listing = f"--repository {repository} --job {job}"
        chosen = [point_named(ids, text, listing, recycled=in_bin) for text in points]
        facts = {"tenant": owner, "job": job, "repository": repository}
        names = [point.hex() for point in chosen]
        if action == "remove":
            return _remove(context, store, owner, job, chosen, force=force, facts=facts)
        context.keys.record(f"points.{action}", **facts, points=names)
        rows = []
        for point in chosen:
            row: dict[str, Any] = {"point": point.hex(), "job": job, "repository": repository}
            if in_bin:
                store.keeping.undelete(owner, job, point)
            elif action == "pin":
                store.keeping.pin(owner, job, point, reason, PROVIDER)
                row["pinned"] = reason
            elif action == "unpin":
                row["was_pinned"] = store.keeping.unpin(owner, job, point, PROVIDER)
            else:
                row["locked_until"] = show_moment(store.keeping.lock(owner, job, point, until_ns))
            rows.append(row)
        return rows


def _remove(
    context: JobContext,
    store: Repository,
    tenant: str,
    job: str,
    points: Sequence[bytes],
    *,
    force: bool,
    facts: dict[str, str],
) -> list[dict[str, Any]]:
    names = [point.hex() for point in points]
    approve_force(context, names, forced=force)
    context.keys.record("points.remove", **facts, points=names, forced=force)
    repository = facts["repository"]
    removed = store.keeping.remove(
        tenant,
        job,
        points,
        PROVIDER,
        waived=Waived(pins=force, minimum=force, recycle_bin=force),
        on_gone=partial(drop_keys, context, repository),
    )
    outcomes = [(each.point_id, each.until_ns, each.refused) for each in removed]
    note_removed_here(context, repository, tenant, job, outcomes)
    check_none_refused(outcomes)
    return [removed_row(point, until_ns, job, repository) for point, until_ns, _ in outcomes]


def approve_force(context: JobContext, points: Sequence[str], *, forced: bool) -> None:
    """Use up the approval that a removal by force needs, one for each point, where two operators must agree.

    Before the deed, and not around it: that writes to the key database itself, when it drops storage keys.
    """
    if not forced:
        return
    for point in points:
        context.keys.check_approved(deed("point.remove-force", point))
    for point in points:
        with context.keys.approved(deed("point.remove-force", point), "points.remove-force", point=point):
            pass


def check_none_refused(outcomes: Sequence[tuple[bytes, int, str]]) -> None:
    """Raise PointKept that names the points that stay."""
    refused = [(point, why) for point, _, why in outcomes if why]
    if refused:
        named = "; ".join(f"{point.hex()[:8]}: {why}" for point, why in refused[:_SHOWN])
        named += " …" if len(refused) > _SHOWN else ""
        done = len(outcomes) - len(refused)
        raise PointKept(
            f"{len(refused)} restore points stay ({named})" + (f"; {done} were removed" if done else ""),
            "a lock ends at its date; `point unpin` takes a pin away; else ask the provider",
        )


def removed_row(point: bytes, until_ns: int, job: str, place: str) -> dict[str, Any]:
    """Return a removed point as ``--json`` shows it."""
    until = show_moment(until_ns) if until_ns else None
    return {"point": point.hex(), "job": job, "repository": place, "removed": True, "recycled_until": until}


def points_here(context: JobContext, repository: str, job: str, *, recycled: bool) -> list[dict[str, Any]]:
    """Return the points of all tenants in a repository of this node (of one job), as the provider sees them."""
    rows: list[dict[str, Any]] = []
    with open_here(context, repository) as store:
        for tenant in sorted({*store.tenants(), *store.recycled_tenants()}):
            for name in sorted(store.jobs_of(tenant)):
                if job not in {"", name}:
                    continue
                place = {"tenant": tenant, "job": name, "repository": repository}
                if recycled:
                    rows += [
                        {
                            "point": each.ref.point_id.hex(),
                            "kind": "removed",
                            "committed": show_moment(each.ref.committed_ns),
                            "recycled_until": show_moment(each.until_ns),
                            "removed_by": each.by or "the provider",
                            **place,
                        }
                        for each in store.keeping.recycled(tenant, name)
                    ]
                    continue
                rows += [
                    {
                        "point": each.point_id.hex(),
                        "kind": "",
                        "committed": show_moment(each.committed_ns),
                        "pinned": each.pinned,
                        "locked_until": show_moment(each.locked_until_ns) if each.locked_until_ns else None,
                        **place,
                    }
                    for each in store.keeping.candidates(tenant, name)
                ]
    return rows
