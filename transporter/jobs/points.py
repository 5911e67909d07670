"""Restore points as the initiating side sees them: asked from the target, resolved from what a person typed."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import trio
from msgspec import Meta

from pipeline.trust_zone import Zone
from transporter.errors import CannotConnect, DamagedData, RefusedByPeer, UsageError
from transporter.jobs.context import JobContext
from transporter.retention import show_moment

if TYPE_CHECKING:
    from transporter.link.control_link import ControlLink

ANSWER_SECONDS = 60.0
LATEST = "latest"
# The kind of a point that the target cannot read any more.
DAMAGED = "damaged"
# A row takes some 600 bytes of memory here: a point a minute for a year are 300 MB.
ROWS_AT_MOST = 500_000
# What a target says is shown on terminals: no control characters.
_Word = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class PointRow(msgspec.Struct, frozen=True):
    """One line of ``points``: what the target may know of a point. Sizes in bytes."""

    point: Annotated[bytes, Meta(min_length=16, max_length=16)]
    job: _Word
    kind: _Word
    created_ns: _Count
    # Empty in the row of a point that is damaged: nothing of it can be said.
    zone: _Word = ""
    encrypted: bool = False
    parent: Annotated[bytes, Meta(max_length=16)] = b""
    workload: _Word = "tree"
    size: _Count = msgspec.field(default=0, name="bytes")
    files: _Count = 0
    skipped: _Count = 0
    pinned: _Word | None = None
    # Who set the pin in the first place (empty: the provider), and when.
    pinned_by: _Word = ""
    pinned_ns: _Count = 0
    locked_until_ns: _Count = 0
    # By the provider's clock; 0, and the others empty, from a provider that does not know copies.
    committed_ns: _Count = 0
    domain: Annotated[bytes, Meta(max_length=16)] = b""
    point_hash: Annotated[bytes, Meta(max_length=32)] = msgspec.field(default=b"", name="hash")
    # Of a copy: the repository where the point was made, and when it came here.
    origin: Annotated[bytes, Meta(max_length=16)] = b""
    copied_ns: _Count = 0
    resealed: bool = False

    @property
    def is_copy(self) -> bool:
        """Whether it was made in another repository."""
        return bool(self.origin)

    def public(self) -> dict[str, Any]:
        """Return the row as ``points --json`` prints it."""
        created = datetime.datetime.fromtimestamp(self.created_ns / 1e9, datetime.UTC)
        copied = datetime.datetime.fromtimestamp(self.copied_ns / 1e9, datetime.UTC)
        return {
            "point": self.point.hex(),
            "job": self.job,
            "kind": self.kind,
            "created": created.isoformat(),
            "zone": self.zone,
            "encrypted": self.encrypted,
            "bytes": self.size,
            "files": self.files,
            "skipped": self.skipped,
            "parent": self.parent.hex(),
            "workload": self.workload,
            "pinned": self.pinned,
            "pinned_by": None if self.pinned is None else self.pinned_by or "the provider",
            "pinned_at": show_moment(self.pinned_ns) if self.pinned_ns else None,
            "locked_until": show_moment(self.locked_until_ns) if self.locked_until_ns else None,
            "copied": copied.isoformat() if self.is_copy else "",
            "origin": self.origin.hex(),
        }


@dataclass(frozen=True)
class Where:
    """A repository at a peer, and a job in it."""

    peer: str
    repository: str
    job: str

    def __str__(self) -> str:
        return f"{self.peer}/{self.repository}"


def where_of(context: JobContext, job: str, source: str) -> Where:
    """Return where the points of a job are: ``source`` (PEER/REPOSITORY) when given, else as configured."""
    if not source:
        configured = context.config.job(job)
        return Where(configured.peer, configured.repository, job)
    peer, slash, repository = source.partition("/")
    if not slash or not peer or not repository:
        raise UsageError(f"{source!r} does not name a repository at a peer", "write PEER/REPOSITORY")
    return Where(peer, repository, job)


async def list_points(context: JobContext, where: Where) -> list[PointRow]:
    """Ask the target for restore points, oldest first; an empty job means all jobs of this node there."""
    # Here: whoever asks nobody must not wait for the import of what makes a line.
    from protocol.messages import ListPoints, Points, Refused
    from transporter.link.broken import LinkBroken
    from transporter.link.control_link import refusal_to_error
    from transporter.link.dial import dial_control

    rows: list[PointRow] = []
    try:
        async with dial_control(context.peer(where.peer), context.identity) as link:
            await link.send(ListPoints(repository=where.repository, job=where.job))
            more = True
            while more:
                with trio.fail_after(ANSWER_SECONDS):
                    received = await link.receive()
                if isinstance(received.message, Refused):
                    raise refusal_to_error(received.message.code, received.message.what, received.message.remedy)
                if not isinstance(received.message, Points):
                    raise RefusedByPeer("the peer did not list its points", "update the transporter there")
                page = msgspec.msgpack.decode(received.payload, type=list[PointRow])
                if where.job and any(row.job != where.job for row in page):
                    raise RefusedByPeer(
                        f"the peer was asked for the restore points of {where.job!r} and names one of another job",
                        "find out what happened to the target before you restore from it",
                    )
                more = received.message.more
                if more and not page:
                    raise RefusedByPeer("the peer lists restore points without end", "update the transporter there")
                rows += page
                if len(rows) > ROWS_AT_MOST:
                    raise RefusedByPeer("the peer lists too many restore points", "name one job: --job")
            await _check_chains(context, where, rows, link)
    except (LinkBroken, trio.TooSlowError) as error:
        reason = "it is silent" if isinstance(error, trio.TooSlowError) else str(error)
        raise CannotConnect(f"the peer did not answer: {reason}", "check the line and try again") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedByPeer("the peer's list of points is not valid", "update the transporter there") from error
    return rows


async def _check_chains(context: JobContext, where: Where, rows: list[PointRow], link: ControlLink) -> None:
    """Compare what is listed with what this home committed there; look closer where that is not the same."""
    from transporter.jobs.ask import ask_on
    from transporter.jobs.chain import as_expected, check_chain, read_chain

    listed: dict[str, list[tuple[bytes, bytes]]] = {}
    for row in rows:
        listed.setdefault(row.job, []).append((row.point, row.point_hash))
    known = {job for destination, job in context.catalog.chain_places() if destination == str(where)}
    mine = {job for job, settings in context.config.jobs.items() if settings.to == str(where)}
    for job in sorted(known | (mine & listed.keys())):
        if (where.job and job != where.job) or not all(point_hash for _, point_hash in listed.get(job, [])):
            continue
        if not as_expected(context.catalog, str(where), job, listed.get(job, [])):
            there = await read_chain(ask_on(link), where.repository, job)
            await check_chain(context, str(where), job, there)


def expected_zone(context: JobContext, job: str, stated: str) -> str:
    """Return the trust zone that a point must be of: as stated, else as configured, else the strictest.

    Never what the target says: it could call a sealed point plain, and serve plaintext of its own making.
    """
    configured = context.config.jobs.get(job)
    return stated or (configured.encrypt if configured is not None else Zone.SOURCE)


def choose_point(rows: list[PointRow], text: str, job: str, zone: str) -> PointRow:
    """Return the point that ``text`` names: ``latest``, an id in hex, or its unique beginning.

    Raises UsageError, and RefusedByPeer when the target says that it is of another zone than ``zone``.
    """
    row = named_point(rows, text, job)
    if row.zone != zone:
        raise RefusedByPeer(
            f"the target says that restore point {row.point.hex()[:8]} is of trust zone {row.zone!r}, not {zone!r}",
            "if the job was changed since, say which zone you mean: --zone",
        )
    return row


def named_point(rows: list[PointRow], text: str, job: str) -> PointRow:
    """Return the point that ``text`` names, of whatever zone. Raises UsageError, DamagedData."""
    row = _named(rows, text, job)
    if row.kind == DAMAGED:
        raise DamagedData(
            f"restore point {row.point.hex()[:8]} is damaged",
            f"use an older one (`transporter points --job {job}`), and run scrub at the target",
        )
    return row


def check_newest(context: JobContext, where: Where, text: str, point: bytes, created_ns: int) -> None:
    """Refuse a point that was served as ``latest`` and is older than the one that this node committed last.

    ``created_ns`` is that of the opened head: in zone ``source`` no word of the target's. Raises RefusedByPeer.
    """
    last = context.catalog.last_point(where.job)
    if text != LATEST or last is None or last.destination != str(where) or point == last.point:
        return
    if created_ns < last.committed_ns:
        raise RefusedByPeer(
            f"the target shows {point.hex()[:8]} as the newest restore point, but this node committed "
            f"{last.point.hex()[:8]} after it",
            "somebody removed or withholds points there; to use an older one, name it",
        )


def _named(rows: list[PointRow], text: str, job: str) -> PointRow:
    if not rows:
        raise UsageError(f"job {job!r} has no restore points there", "run the job first, or name the right job")
    if text == LATEST:
        return rows[-1]
    found = [row for row in rows if row.point.hex().startswith(text.lower())]
    if len(found) != 1 or not text:
        many = "several restore points begin" if found else "no restore point begins"
        raise UsageError(f"{many} with {text!r}", f"`transporter points --job {job}` lists them")
    return found[0]
