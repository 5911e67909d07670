"""From Start to a running session: who may, with which keys, and then the work until it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from pipeline.run import open_tasks
from pipeline.trust_zone import Zone
from protocol.messages import Start, Started
from transporter.catalog import Peer
from transporter.config import NAME, NAME_REMEDY
from transporter.errors import DamagedData, RefusedByPeer, TransporterError
from transporter.events import EventBus
from transporter.keys.escrow import Escrow
from transporter.keys.node_key import NodeKey
from transporter.link.control_link import ControlLink
from transporter.link.data_link import DataLink
from transporter.link.pacing import keep_pace
from transporter.points.copied import copy_domain, is_job_of_copies
from transporter.points.keeping_rows import chain_digest
from transporter.points.run_keys import begin_run
from transporter.repository import PLAIN_KEY, PointRef
from transporter.service import answers
from transporter.service.backup import BackupService
from transporter.service.copying_in import CopyInService
from transporter.service.copying_out import CopyOutService
from transporter.service.copying_sealed import CopySealService, begin_sealing
from transporter.service.job_room import check_job_room
from transporter.service.lost import lost_claims
from transporter.service.opening import domain_of_point, open_here, place_of, usable_rings
from transporter.service.provider import Provider
from transporter.service.recovery import RecoveryService, as_stored, opened_here
from transporter.service.refusal import refuse
from transporter.service.sealing import SealedAtSource, SealedHere, TargetSealing, Unsealed, seals_here
from transporter.service.session import KEY_LENGTH, SESSION_ID_LENGTH, ServiceSession

Serve = Callable[[trio.MemoryReceiveChannel[DataLink]], Awaitable[None]]
MAX_CHANNELS = 32


async def serve_session(provider: Provider, link: ControlLink, peer: Peer, start: Start, _bus: EventBus) -> None:
    """Serve one session. What goes wrong is told to the initiator by the caller."""
    repository = provider.repository(peer, start.repository)
    if start.acceleration and (start.purpose, start.zone) != ("backup", Zone.NONE):
        raise RefusedByPeer(
            "network acceleration is for backups of zone none: sealed jobs do not share the names of their chunks",
            "switch it off for this job",
        )
    session = ServiceSession(
        provider,
        link,
        peer,
        start,
        repository,
        provider.clock.random_bytes(SESSION_ID_LENGTH),
        provider.clock.random_bytes(KEY_LENGTH),
    )
    await provider.claim(session)
    try:
        # Until the session ends, nothing goes that it was told of.
        with await provider.lookups.run(repository.store.session), session.scope:
            await _SERVED[start.purpose](session)
        if session.failure is not None:
            raise session.failure
        if session.scope.cancelled_caught:
            raise RefusedByPeer("the session was replaced: its run came back over a new link", "nothing to do")
    except TransporterError as error:
        # Before the channels close: an initiator that sees them break waits only so long for the reason, takes none for
        # a broken line, and dials again. What ends a session (a pack is written and synced) can take longer than that.
        await refuse(link, error)
        raise
    finally:
        session.close_channels()
        repository.store.forget_removed_packs()
        provider.release(session)
        session.ended.set()


async def _work(session: ServiceSession, started: Started, serve: Serve, head: bytes = b"") -> None:
    send, receive = trio.open_memory_channel[DataLink](MAX_CHANNELS)
    session.channels = send
    await session.link.send(started, head)
    async with open_tasks() as nursery:
        nursery.start_soon(keep_pace, session.flow, session.link)
        await serve(receive)
        nursery.cancel_scope.cancel()


# --- backup ---------------------------------------------------------------------------------------------------


async def _backup(session: ServiceSession) -> None:
    provider, start = session.provider, session.start
    if not start.resume:
        raise RefusedByPeer("a backup must name its run", "update the transporter there")
    if not NAME.match(start.job):
        # The key database calls a domain TENANT/JOB, and one of this node's own jobs PEER/REPOSITORY/JOB: a job with a
        # slash could be called what one of those is, and would be lent its keys.
        raise _no_name(start.job)
    store = session.repository.store
    # Here, and not at the first chunk: a run that can store nothing need not read for hours.
    await provider.lookups.run(store.check_room, session.tenant)
    parent = session.parent = await provider.lookups.run(_newest_sound, session)
    sealing, chunk_id_key = await provider.lookups.run(_target_sealing, session, parent)
    domain_empty = not await provider.lookups.run(store.knows_domain, session.domain)
    head, slots = await provider.lookups.run(_head_along, session, parent)
    lost = 0
    if Zone(start.zone) is Zone.SOURCE:
        lost = len(await provider.lookups.run(lost_claims, store, session.tenant, session.domain))
    started = Started(
        session=session.session_id,
        key_a=session.key_a or b"",
        domain=session.domain,
        chunk_id_key=chunk_id_key,
        parent=parent.point_id if parent else b"",
        parent_hash=parent.hash if parent else b"",
        repository_id=store.repository_id,
        tenant=session.tenant,
        domain_empty=domain_empty,
        chain=await provider.lookups.run(_chain, session),
        quota_left=await provider.lookups.run(store.quota_left, session.tenant),
        slots=slots,
        lost=lost,
    )
    # Last, and nothing awaited until the try: a session that is cancelled here would leave its writer and list open.
    writer = await provider.writes.run(store.writer, session.domain, session.tenant)
    service = BackupService(session, sealing, writer)
    try:
        await _work(session, started, service.run, head)
    finally:
        await service.close()


def _no_name(job: str) -> RefusedByPeer:
    return RefusedByPeer(f"{job!r} is not a usable name for a job", NAME_REMEDY)


def _chain(session: ServiceSession) -> bytes:
    store, job = session.repository.store, session.start.job
    refs = store.points(session.tenant, job)
    removed = [each.ref for each in store.keeping.recycled(session.tenant, job)]
    return chain_digest(((r.point_id, r.hash) for r in refs), ((r.point_id, r.hash) for r in removed))


def _head_along(session: ServiceSession, parent: PointRef | None) -> tuple[bytes, list[bytes]]:
    """Return the parent's head and slots, where they were asked for: it saves the initiator a round trip."""
    if parent is None or not session.start.head:
        return b"", []
    return answers.load_point(session.repository.store, session.tenant, session.start.job, parent.point_id)


def _newest_sound(session: ServiceSession) -> PointRef | None:
    """Return the newest point of the job that proves itself: a damaged one must not stop the job for ever."""
    store = session.repository.store
    for ref in reversed(store.points(session.tenant, session.start.job)):
        if ref.origin is not None:
            # A copy's chunks lie in a domain of their own, and its keys are bound to another place.
            continue
        try:
            store.read_head(session.tenant, session.start.job, ref.point_id)
        except DamagedData:
            continue
        return ref
    return None


def _target_sealing(session: ServiceSession, parent: PointRef | None) -> tuple[TargetSealing, bytes]:
    provider, start = session.provider, session.start
    zone = Zone(start.zone)
    if zone is Zone.SOURCE:
        return SealedAtSource(), b""
    label = f"{session.tenant}/{start.job}"
    check_job_room(provider.keys, f"{session.tenant}/", session.key_label)
    at_rest = session.repository.config.encrypt_at_rest
    if not seals_here(zone, encrypt_at_rest=bool(at_rest)):
        chunk_id_key = provider.keys.ensure_plain_domain_key(session.key_label)
        return Unsealed(chunk_id_key), chunk_id_key.secret
    password = start.password if zone is Zone.TARGET else at_rest
    user_key = provider.keys.user_key(password)
    kms_slot = provider.keys.prepare_kms_slot(user_key, session.tenant, start.resume)
    rings = usable_rings(session, parent)
    # Remembered for each session, not for each run: a run that redials has one key for each of its sessions, and its
    # point needs them all.
    keys = begin_run(
        provider.keys,
        user_key,
        label,
        session.session_id,
        rings[0] if rings else None,
        provider.clock,
        domain=session.key_label,
    )
    keys.kms_slot = kms_slot
    for ring in rings[1:]:
        keys.add(ring)
    sealing = SealedHere(
        keys,
        lambda: provider.keys.user_key(password, held=user_key),
        provider.clock,
        Escrow(provider.keys.active_keysets, NodeKey(provider.identity.key)),
        lambda: provider.keys.forget_runs(label),
    )
    return sealing, keys.chunk_id_key.secret


# --- recovery -------------------------------------------------------------------------------------------------


async def _recovery(session: ServiceSession) -> None:
    provider, start = session.provider, session.start
    place = await provider.lookups.run(place_of, session)
    if place.zone is Zone.SOURCE:
        session.domain = place.domain
        service = RecoveryService(session, None, as_stored)
        chunk_id_key = b""
    else:
        point = await provider.lookups.run(open_here, session, start.job, start.point)
        session.domain = domain_of_point(session, point)
        chunk_id_key = point.chunk_id_key.secret
        if point.ring is None:
            service = RecoveryService(session, frozenset({PLAIN_KEY}), as_stored)
        else:
            service = RecoveryService(session, point.opener.key_ids, opened_here(point))
    started = Started(
        session=session.session_id,
        key_a=session.key_a or b"",
        domain=session.domain,
        chunk_id_key=chunk_id_key,
        repository_id=place.repository_id,
        tenant=place.tenant,
    )
    await _work(session, started, service.run)


# --- copies ---------------------------------------------------------------------------------------------------


async def _copy_out(session: ServiceSession) -> None:
    await _work(session, _copy_started(session), CopyOutService(session).run)


async def _copy_in(session: ServiceSession) -> None:
    provider, start = session.provider, session.start
    if not (start.resume and start.name and start.job):
        raise RefusedByPeer("a copy must name its run, its job and its chunks", "update the transporter there")
    if not is_job_of_copies(start.job):
        raise _no_name(start.job)
    session.domain = copy_domain(session.tenant, start.name)
    store = session.repository.store
    started = _copy_started(session)
    sealing = await provider.lookups.run(begin_sealing, session) if start.purpose == "copy-seal" else None
    # Last, and nothing awaited until the try, as for a backup.
    writer = await provider.writes.run(store.writer, session.domain, session.tenant)
    service = CopyInService(session, writer) if sealing is None else CopySealService(session, writer, sealing)
    try:
        await _work(session, started, service.run)
    finally:
        await service.close()


def _copy_started(session: ServiceSession) -> Started:
    store = session.repository.store
    return Started(
        session=session.session_id,
        key_a=session.key_a or b"",
        domain=session.domain,
        quota_left=store.quota_left(session.tenant),
        repository_id=store.repository_id,
        tenant=session.tenant,
    )


_SERVED: dict[str, Callable[[ServiceSession], Awaitable[None]]] = {
    "backup": _backup,
    "recovery": _recovery,
    "copy-in": _copy_in,
    "copy-seal": _copy_in,
    "copy-out": _copy_out,
}
