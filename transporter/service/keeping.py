"""Questions about what becomes of points: the chain of a job, removal, pins, the recycle bin. A tenant's own alone.

A tenant only adds, unless the provider gave it the right to remove: whoever steals its identity must not be able to
destroy what it has stored. What is locked, or kept by the provider's minimum, it cannot remove with that right either.
"""

from __future__ import annotations

from protocol.control import Received
from protocol.keeping_messages import (
    Chain,
    GetChain,
    PinPoint,
    PointPinned,
    PointsRemoved,
    PointUndeleted,
    RemovePoints,
    UndeletePoint,
)
from protocol.limits import POINT_ID
from transporter.catalog import Peer
from transporter.errors import RefusedByPeer
from transporter.link.control_link import ControlLink
from transporter.logs import get_logger
from transporter.points.keeping_rows import ROWS_AT_ONCE, RemovedRow, chain_of, encode_rows
from transporter.repository import ClockDoubtful, Outcome, Waived
from transporter.service.provider import OpenRepository, Provider

log = get_logger()


async def answer_keeping(provider: Provider, link: ControlLink, peer: Peer, received: Received) -> bool:
    """Answer a question of this kind; False for any other."""
    message = received.message
    if isinstance(message, GetChain):
        await answer_get_chain(provider, link, peer, message)
    elif isinstance(message, RemovePoints):
        await _answer_remove(provider, link, peer, message)
    elif isinstance(message, PinPoint):
        await _answer_pin(provider, link, peer, message)
    elif isinstance(message, UndeletePoint):
        await _answer_undelete(provider, link, peer, message)
    else:
        return False
    return True


async def answer_get_chain(provider: Provider, link: ControlLink, peer: Peer, message: GetChain) -> None:
    """Send ids and hashes of a job's points, and what keeps each of them."""
    repository = provider.repository(peer, message.repository)
    store = repository.store
    rows = await provider.lookups.run(chain_of, store, peer.tenant, message.job)
    answer = Chain(
        total=len(rows),
        now_ns=store.keeping.clock.now_ns(),
        recycle=int(store.keeping.rules.recycle),
        may_remove=message.repository in peer.removes,
        doubt=await provider.lookups.run(_doubt, repository),
    )
    await link.send(answer, encode_rows(rows[message.first : message.first + ROWS_AT_ONCE]))


def _doubt(repository: OpenRepository) -> str:
    try:
        repository.store.keeping.clock.believed_ns()
    except ClockDoubtful as error:
        return error.what
    return ""


def check_may_remove(peer: Peer, repository: str) -> None:
    """Raise RefusedByPeer unless this tenant may remove points there."""
    if repository not in peer.removes:
        raise RefusedByPeer(
            f"{peer.name} may add restore points to {repository!r}, but not remove any",
            f"ask the provider: `peer allow-remove {peer.name} {repository}` there",
        )


async def _answer_remove(provider: Provider, link: ControlLink, peer: Peer, message: RemovePoints) -> None:
    repository = provider.repository(peer, message.repository)
    check_may_remove(peer, message.repository)
    ids = [message.points[at : at + POINT_ID] for at in range(0, len(message.points), POINT_ID)]
    # On the lane of what flushes disks: the chunks of others must not wait.
    async with provider.replacing_slots(peer.tenant):
        outcomes = await provider.slots.run(_remove, provider, repository, peer, message, ids)
    rows = [RemovedRow(each.point_id, each.until_ns, each.refused[:300]) for each in outcomes]
    await link.send(PointsRemoved(), encode_rows(rows))


def _remove(
    provider: Provider, repository: OpenRepository, peer: Peer, message: RemovePoints, ids: list[bytes]
) -> list[Outcome]:
    outcomes = repository.store.keeping.remove(
        peer.tenant,
        message.job,
        ids,
        peer.tenant,
        waived=Waived(pins=message.force),
        on_gone=provider.drop_keys,
    )
    removed = [each.point_id.hex() for each in outcomes if not each.refused]
    if removed:
        facts = {"tenant": peer.tenant, "job": message.job, "repository": repository.name}
        provider.keys.record("points.remove", **facts, points=removed, forced=message.force)
        log.info("points removed", peer=peer.name, job=message.job, points=len(removed))
    return outcomes


async def _answer_pin(provider: Provider, link: ControlLink, peer: Peer, message: PinPoint) -> None:
    repository = provider.repository(peer, message.repository)
    was = await provider.slots.run(_pin, repository, peer, message)
    await link.send(PointPinned(was=was))


def _pin(repository: OpenRepository, peer: Peer, message: PinPoint) -> bool:
    keeping = repository.store.keeping
    if message.copied:
        why, by, when = message.reason, message.by, message.at_ns
        return keeping.bring_pin(peer.tenant, message.job, message.point, why, peer.tenant, by, when)
    if not message.reason:
        return keeping.unpin(peer.tenant, message.job, message.point, peer.tenant)
    return keeping.pin(peer.tenant, message.job, message.point, message.reason, peer.tenant)


async def _answer_undelete(provider: Provider, link: ControlLink, peer: Peer, message: UndeletePoint) -> None:
    repository = provider.repository(peer, message.repository)
    check_may_remove(peer, message.repository)
    await provider.slots.run(_undelete, provider, repository, peer, message)
    await link.send(PointUndeleted())


def _undelete(provider: Provider, repository: OpenRepository, peer: Peer, message: UndeletePoint) -> None:
    repository.store.keeping.undelete(peer.tenant, message.job, message.point)
    facts = {"tenant": peer.tenant, "job": message.job, "repository": repository.name}
    provider.keys.record("points.undelete", **facts, points=[message.point.hex()])
