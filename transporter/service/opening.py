"""Points that this end sealed, or keeps plain: opened with the node's own key database."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.trust_zone import Zone
from transporter.errors import DamagedData, NoKey, RefusedByPeer, TransporterError, UsageError
from transporter.keys.key_ring import KeyRing
from transporter.points.assemble import OpenedPoint, Place
from transporter.points.copied import job_of_head
from transporter.points.domain import domain_of, shared_domain_of
from transporter.points.ways import KeysAtHand
from transporter.repository import PointMissing, PointRef
from transporter.repository.point_head import decode_head
from transporter.service.session import ServiceSession

# Jobs of one tenant whose points are opened for their keys when an accelerated run begins: some milliseconds each.
NEIGHBOURS_AT_MOST = 64


@dataclass(frozen=True)
class KeyPlace:
    """What a recovery is of: the place that the keys of its point are bound to, and the domain of its chunks here."""

    zone: Zone
    domain: bytes
    repository_id: bytes
    tenant: str


def place_of(session: ServiceSession) -> KeyPlace:
    """Return where the point of a recovery was made: of a copied one that is another repository, and perhaps tenant."""
    store, start = session.repository.store, session.start
    here = KeyPlace(Zone(start.zone), session.domain, store.repository_id, session.tenant)
    try:
        ref = store.point(session.tenant, start.job, start.point)
    except (PointMissing, DamagedData, UsageError):
        return here  # whoever asks for it hears of it
    if ref.origin is None:
        return here
    if ref.origin.resealed:
        return replace(here, domain=ref.domain)
    return KeyPlace(here.zone, ref.domain, ref.origin.repository_id, ref.origin.tenant)


def open_here(session: ServiceSession, job: str, point_id: bytes) -> OpenedPoint:
    """Open a point with this node's own key database.

    Raises NoKey, RefusedByPeer for a point sealed at the source, and for a copy of what was sealed for another tenant.
    """
    store = session.repository.store
    head = store.read_head(session.tenant, job, point_id)
    slots = list(store.slots_of(session.tenant, job, point_id).values())
    origin = store.point(session.tenant, job, point_id).origin
    tenant, repository_id = session.tenant, store.repository_id
    if origin is not None and not origin.resealed:
        if decode_head(head).encrypted and origin.tenant != session.tenant:
            # A copy is stored blind, and says itself where it comes from. Whoever holds copies of what this node sealed
            # for a tenant could bring them here as its own, and have them opened.
            raise RefusedByPeer(
                "the restore point is a copy of one that was sealed for another tenant",
                "whoever it was sealed for restores it, or whoever runs the repository",
            )
        tenant, repository_id = origin.tenant, origin.repository_id
    place = Place(tenant, job_of_head(job), repository_id, point_id, session.domain, session.start.zone)
    return KeysAtHand.of(session.provider.keys).open(head, slots, lambda _head: place)


def domain_of_point(session: ServiceSession, point: OpenedPoint) -> bytes:
    """Return the domain in which the chunks of a point lie: the job's own, or the one it shared at that time.

    Those of a copy lie where its object says: its head says where the original's did.
    """
    ref = session.repository.store.point(session.tenant, session.start.job, point.head.point_id)
    if ref.origin is not None:
        return ref.domain
    domain = point.head.domain
    if domain not in (domain_of(session.tenant, session.start.job), shared_domain_of(session.tenant)):
        raise DamagedData("the restore point names chunks of a domain that is not its job's", "run scrub at the target")
    return domain


def usable_rings(session: ServiceSession, parent: PointRef | None) -> list[KeyRing]:
    """Return the key rings whose chunks the run may use: of the parent, and of other jobs that share its domain.

    Only where this end seals. Under acceleration a chunk may have been sealed in a session of another job; a point
    holds the keys of all chunks that it needs, whoever sent them, so this one takes them into its own ring. None of
    another domain: they would bring its chunk-id key, and keys of chunks that are not in this one.
    """
    points = [(session.start.job, ref) for ref in _own(session, parent)]
    if session.start.acceleration:
        points += _neighbours(session)
    rings = (_ring_of(session, job, ref) for job, ref in points)
    return [ring for ring in rings if ring is not None]


def _own(session: ServiceSession, parent: PointRef | None) -> list[PointRef]:
    """Return the parent; or, after acceleration was switched on or off, the newest point of the job in this domain."""
    if parent is None or parent.domain == session.domain:
        return [] if parent is None else [parent]
    points = session.repository.store.points(session.tenant, session.start.job)
    return [ref for ref in points if ref.domain == session.domain][-1:]


def _neighbours(session: ServiceSession) -> list[tuple[str, PointRef]]:
    """Return the newest point of every other job of the tenant that is of the shared domain, newest first."""
    newest: dict[str, PointRef] = {}
    for ref in session.repository.store.points(session.tenant):
        if ref.domain == session.domain and ref.job != session.start.job:
            newest[ref.job] = ref
    found = sorted(newest.items(), key=lambda item: item[1].committed_ns, reverse=True)
    return found[:NEIGHBOURS_AT_MOST]


def _ring_of(session: ServiceSession, job: str, ref: PointRef) -> KeyRing | None:
    try:
        return open_here(session, job, ref.point_id).ring
    except (NoKey, TransporterError):
        # Its chunks cannot be used; the point itself stays what it is.
        return None
