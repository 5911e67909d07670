"""From Start to a running session: who may, with which keys, and then the work until it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from pipeline.run import open_tasks
from pipeline.trust_zone import Zone
from protocol.messages import Start, Started
from transporter.catalog import Peer
from transporter.errors import DamagedData, RefusedByPeer, TransporterError
from transporter.events import EventBus
from transporter.link.control_link import ControlLink
from transporter.link.data_link import DataLink
from transporter.link.pacing import keep_pace
from transporter.points.run_keys import begin_run
from transporter.repository import PLAIN_KEY, PointRef
from transporter.service import answers
from transporter.service.backup import BackupService
from transporter.service.opening import domain_of_point, open_here, usable_rings
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
        with session.scope:
            await (_backup if start.purpose == "backup" else _recovery)(session)
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
    store = session.repository.store
    parent = session.parent = await provider.lookups.run(_newest_sound, session)
    sealing, chunk_id_key = await provider.lookups.run(_target_sealing, session, parent)
    domain_empty = not await provider.lookups.run(store.knows_domain, session.domain)
    writer = await provider.writes.run(store.writer, session.domain, session.tenant)
    service = BackupService(session, sealing, writer)
    head, slots = await provider.lookups.run(_head_along, session, parent)
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
        slots=slots,
    )
    try:
        await _work(session, started, service.run, head)
    finally:
        await service.close()


def _head_along(session: ServiceSession, parent: PointRef | None) -> tuple[bytes, list[bytes]]:
    """Return the parent's head and slots, where they were asked for: it saves the initiator a round trip."""
    if parent is None or not session.start.head:
        return b"", []
    return answers.load_point(session.repository.store, session.tenant, session.start.job, parent.point_id)


def _newest_sound(session: ServiceSession) -> PointRef | None:
    """Return the newest point of the job that proves itself: a damaged one must not stop the job for ever."""
    store = session.repository.store
    for ref in reversed(store.points(session.tenant, session.start.job)):
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
    at_rest = session.repository.config.encrypt_at_rest
    if not seals_here(zone, encrypt_at_rest=bool(at_rest)):
        chunk_id_key = provider.keys.ensure_plain_domain_key(session.key_label)
        return Unsealed(chunk_id_key), chunk_id_key.secret
    password = start.password if zone is Zone.TARGET else at_rest
    user_key = provider.keys.user_key(password)
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
    for ring in rings[1:]:
        keys.add(ring)
    sealing = SealedHere(
        keys, lambda: provider.keys.user_key(password), provider.clock, lambda: provider.keys.forget_runs(label)
    )
    return sealing, keys.chunk_id_key.secret


# --- recovery -------------------------------------------------------------------------------------------------


async def _recovery(session: ServiceSession) -> None:
    provider, start = session.provider, session.start
    store = session.repository.store
    if Zone(start.zone) is Zone.SOURCE:
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
        repository_id=store.repository_id,
        tenant=session.tenant,
    )
    await _work(session, started, service.run)
