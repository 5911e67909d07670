"""Pushes a tenant's points to another node when it conducts a copy from there: the daemon's own job, in its name."""

from __future__ import annotations

from collections.abc import Callable

from protocol.messages import CopiedTo, CopyTo
from transporter.catalog import Peer
from transporter.errors import IdentityRefused
from transporter.events import EventBus, Progress
from transporter.jobs.context import JobContext
from transporter.jobs.copy_push import Pushed, push_points
from transporter.link.routes import Parking
from transporter.points.mandate import Mandate
from transporter.service.provider import Provider, Push


def pusher(provider: Provider) -> Push:
    """Return how ``provider`` copies points to another node in a tenant's name."""
    parking = Parking(provider.parked, provider.tickets)

    async def push(
        tenant: Peer, asked: CopyTo, mandate: Mandate, signed: bytes, note: Callable[[int], None]
    ) -> CopiedTo:
        target = provider.catalog.peer_by_pin(asked.peer)
        if target is None:
            raise IdentityRefused("the two are not paired any more", "pair the two")
        bus = EventBus()
        bus.subscribe(lambda event: note(event.bytes_sent) if isinstance(event, Progress) else None)
        context = JobContext(
            provider.home,
            provider.config,
            provider.identity,
            provider.catalog,
            provider.keys,
            provider.clock,
            bus,
            parking,
            throttle=provider.throttle,
            ceiling=asked.bytes_per_second,
        )
        pushed = Pushed(tenant.tenant, asked.job, asked.repository, target.name, mandate, signed)
        done = await push_points(context, pushed)
        return CopiedTo(
            points=done.points,
            chunks=done.chunks,
            chunks_new=done.chunks_new,
            bytes_new=done.bytes_new,
            bytes_stored=done.bytes_written,
            bytes_sent=done.bytes_sent,
        )

    return push
