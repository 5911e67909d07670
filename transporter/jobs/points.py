"""Restore points as the initiating side sees them: asked from the target, resolved from what a person typed."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import trio
from msgspec import Meta

from pipeline.trust_zone import Zone
from protocol.messages import ListPoints, Points, Refused
from transporter.errors import CannotConnect, DamagedData, RefusedByPeer, UsageError
from transporter.jobs.context import JobContext
from transporter.link.broken import LinkBroken
from transporter.link.control_link import refusal_to_error
from transporter.link.dial import dial_control

ANSWER_SECONDS = 60.0
LATEST = "latest"
# The kind of a point that the target cannot read any more.
DAMAGED = "damaged"
# A row takes some 600 bytes of memory here: a point a minute for a year are 300 MB.
ROWS_AT_MOST = 500_000
# What a target says is shown on terminals: no control characters.
_Word = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
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

    def public(self) -> dict[str, Any]:
        """Return the row as ``points --json`` prints it."""
        created = datetime.datetime.fromtimestamp(self.created_ns / 1e9, datetime.UTC)
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
    except (LinkBroken, trio.TooSlowError) as error:
        reason = "it is silent" if isinstance(error, trio.TooSlowError) else str(error)
        raise CannotConnect(f"the peer did not answer: {reason}", "check the line and try again") from error
    except msgspec.DecodeError as error:
        raise RefusedByPeer("the peer's list of points is not valid", "update the transporter there") from error
    return rows


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
    row = _named(rows, text, job)
    if row.kind == DAMAGED:
        raise DamagedData(
            f"restore point {row.point.hex()[:8]} is damaged",
            f"use an older one (`transporter points --job {job}`), and run scrub at the target",
        )
    if row.zone != zone:
        raise RefusedByPeer(
            f"the target says that restore point {row.point.hex()[:8]} is of trust zone {row.zone!r}, not {zone!r}",
            "if the job was changed since, say which zone you mean: --zone",
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
