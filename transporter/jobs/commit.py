"""The end of a backup: everything durable, then one atomic commit, and only then what this home remembers of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import trio

from pipeline.run import open_tasks
from pipeline.trust_zone import Zone
from protocol import messages
from protocol.limits import MAX_KEY_IDS
from protocol.messages import Committed, Message, PutSlot, Started
from protocol.messages import Needs as NeedsMessage
from transporter.catalog import LastPoint
from transporter.config import JobConfig
from transporter.jobs.chain import note_committed, note_committing
from transporter.jobs.context import JobContext
from transporter.jobs.needs import ID_LENGTH, Needs
from transporter.jobs.parent import Parent
from transporter.jobs.reading import Reading
from transporter.link.resilient import ResilientLink
from transporter.points.assemble import Place, PointFacts, assemble_sealed, encode_facts
from transporter.points.run_keys import RunKeys


@dataclass(frozen=True)
class Commit:
    """What a point is made of, apart from its content."""

    context: JobContext
    name: str
    job: JobConfig
    run_id: bytes
    kind: str
    started: Started
    parent: Parent
    keys: RunKeys | None = field(repr=False)


async def commit_point(commit: Commit, link: ResilientLink, reading: Reading, needs: Needs, skipped: int) -> None:
    """Commit the point and remember it. Safe to be repeated after a lost link: the same point commits once."""
    facts = PointFacts(
        kind=commit.kind,
        created_ns=commit.context.clock.now_ns(),
        workload=commit.job.workload,
        manifest=reading.manifest_chunks,
        fsi=reading.fsi_chunks,
        needs_hash=needs.digest(),
        statistics={"bytes": reading.bytes_total, "files": reading.files, "skipped": skipped},
    )
    slots: list[tuple[bytes, bytes]] = []
    ask: Message
    if commit.keys is not None and commit.keys.crowded:
        await _trim_keys(commit.keys, link, needs)
    if Zone(commit.job.encrypt) is Zone.SOURCE:
        head, slots = await trio.to_thread.run_sync(_sealed, commit, facts)
        ask, payload = messages.Commit(point=commit.run_id), head
    else:
        ask, payload = messages.CommitPlain(point=commit.run_id), encode_facts(facts)

    def before() -> Iterator[tuple[Message, bytes]]:
        for part in needs.parts():
            yield NeedsMessage(ids=part), b""
        for slot_id, slot in slots:
            yield PutSlot(point=commit.run_id, slot=slot_id), slot

    await trio.to_thread.run_sync(note_committing, commit.context, commit.job.to, commit.name, commit.run_id)
    committed = await link.tell(before, ask, payload, Committed)
    await reading.keep_manifest()
    await trio.to_thread.run_sync(_remember, commit, committed.hash)


async def _trim_keys(keys: RunKeys, link: ResilientLink, needs: Needs) -> None:
    """Let go of the keys of old runs none of whose chunks this point needs."""
    answers: set[bytes | None] = set()

    async def ask(ids: list[bytes]) -> None:
        answers.update(await link.have(ids))

    for part in needs.parts():
        ids = [part[at : at + ID_LENGTH] for at in range(0, len(part), ID_LENGTH)]
        # One answer names so many keys at most; of more ids, some would count as unknown.
        async with open_tasks() as nursery:
            for at in range(0, len(ids), MAX_KEY_IDS):
                nursery.start_soon(ask, ids[at : at + MAX_KEY_IDS])
        if not all(key_id is not None and keys.opens(key_id) for key_id in answers):
            return
    keys.keep_only({key_id for key_id in answers if key_id is not None})


def _sealed(commit: Commit, facts: PointFacts) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    if commit.keys is None:
        raise ValueError("a point of zone source is sealed with the keys of its run")
    started, context = commit.started, commit.context
    place = Place(
        tenant=started.tenant,
        job=commit.name,
        repository_id=started.repository_id,
        point_id=commit.run_id,
        domain=started.domain,
        zone=commit.job.encrypt,
        parent=commit.parent.point,
        parent_hash=commit.parent.point_hash,
    )
    user_key = context.keys.user_key(commit.job.password, held=commit.keys.user_key)
    head, slots, storage_key = assemble_sealed(place, facts, commit.keys, user_key, context.clock, context.escrow)
    context.keys.put_storage_key(commit.run_id, storage_key, user_key)
    return head, slots


def _remember(commit: Commit, point_hash: bytes) -> None:
    context = commit.context
    note_committed(context, commit.job.to, commit.name, commit.run_id, point_hash)
    context.catalog.put_last_point(
        LastPoint(
            commit.name,
            commit.job.to,
            commit.run_id,
            point_hash,
            commit.started.domain,
            context.home.manifest_path(commit.name),
            context.clock.now_ns(),
        )
    )
    if commit.keys is not None:
        context.keys.forget_runs(f"{commit.job.to}/{commit.name}")
