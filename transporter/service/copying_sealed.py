"""A copy session that seals: plain points come in, and are sealed here, under a password of this node.

The conductor sees its own, plain forms all the way: a chunk counts as there if it lies here under a key that the points
of this session hold, and its digest is that of the plain record, computed from what was read back and opened again. So
it proves what it copied as it does where nothing is sealed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from pipeline.trust_zone import Zone
from protocol.control import Received
from protocol.messages import Chunk, CommitCopy, Committed, Digests, Forms, GetDigests, GetForms
from transporter.errors import KMS_ERRORS, DamagedData, NoKey, RefusedByPeer
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.derive import KEY_LENGTH
from transporter.keys.escrow import Escrow
from transporter.keys.key_ring import KeyRing
from transporter.keys.node_key import NodeKey
from transporter.points.assemble import Place, PointFacts
from transporter.points.copied import (
    NO_DIGEST,
    PLAIN_FORM,
    CopyToCommit,
    Form,
    commit_copy,
    digest_of,
    encode_keys,
    forms_of,
    ids_of,
    job_of_head,
)
from transporter.points.needed_chunks import NeededChunks
from transporter.points.run_keys import begin_run
from transporter.repository import PLAIN_KEY, ChunkMissing, ChunkRecord, Origin, PackWriter
from transporter.repository.point_head import PointHead, decode_head
from transporter.repository.points import OriginalHash
from transporter.service.copying_in import CopyInService
from transporter.service.job_room import check_job_room
from transporter.service.opening import open_here
from transporter.service.sealing import SealedHere
from transporter.service.session import ServiceSession


def begin_sealing(session: ServiceSession) -> SealedHere:
    """Make the keys of a session. Raises UnknownPassword, and what a key management service raises."""
    provider, start = session.provider, session.start
    if Zone(start.zone) is not Zone.TARGET:
        raise RefusedByPeer("a copy that the target seals is of zone target", "update the transporter there")
    password = start.password or session.repository.config.encrypt_at_rest
    if not password:
        raise RefusedByPeer("the repository has no password to seal under", "name one of that node: --password NAME")
    user_key = provider.keys.user_key(password)
    label = f"/copied/{session.tenant}/{start.job}/{session.domain.hex()}"
    check_job_room(provider.keys, f"/copied/{session.tenant}/", label)
    ring = _newest_ring(session)
    # Of each session its own, remembered until its points are there: what an interrupted one stored is used again.
    keys = begin_run(provider.keys, user_key, label, session.session_id, ring, provider.clock)
    return SealedHere(
        keys,
        lambda: provider.keys.user_key(password, held=user_key),
        provider.clock,
        Escrow(provider.keys.active_keysets, NodeKey(provider.identity.key)),
        lambda: provider.keys.forget_runs(label),
    )


def _newest_ring(session: ServiceSession) -> KeyRing | None:
    """Return the keys of the newest point that was sealed so, if it opens: its chunks can be used again."""
    store, job = session.repository.store, session.start.job
    for ref in reversed(store.points(session.tenant, job)):
        if ref.origin is not None and ref.origin.resealed and ref.domain == session.domain:
            with suppress(NoKey, DamagedData, RefusedByPeer, *KMS_ERRORS):
                return open_here(session, job, ref.point_id).ring
    return None


class CopySealService(CopyInService):
    """Serves one such session, from Started to its end."""

    def __init__(self, session: ServiceSession, writer: PackWriter, sealing: SealedHere) -> None:
        super().__init__(session, writer)
        # A point is there as long as the session is: only its end says that the keys are in the rings of all of them.
        self._sealing = replace(sealing, forget=lambda: None)
        self._forget = sealing.forget
        self._opener = sealing.keys.ring().opener()

    async def committed(self) -> None:
        """All went well: nothing was stored that no point needs."""
        await self._provider.lookups.run(self._forget)

    def _to_record(self, header: Chunk, stored: memoryview) -> ChunkRecord:
        return self._sealing.to_record(header, stored)

    async def _forms(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, GetForms)
        self._session.check_peer()
        found = await self._provider.lookups.run(self._store.have, self._session.domain, ids_of(message.ids))
        shown = [() if self._sealing.choose(keys) is None else (PLAIN_KEY,) for keys in found]
        await self._session.link.send(Forms(), encode_keys(shown))

    async def _digests(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, GetDigests)
        forms = forms_of(message.forms)
        read = await self._provider.lookups.run(self._plain_digests, message.domain, forms)
        await self._session.link.send(Digests(digests=read))

    def _plain_digests(self, domain: bytes, forms: Sequence[Form]) -> bytes:
        return b"".join(self._plain_digest(domain, chunk_id) for chunk_id, _ in forms)

    def _plain_digest(self, domain: bytes, chunk_id: bytes) -> bytes:
        """Return the hash that the plain record of a chunk has in ``domain``, from the sealed one as it lies here."""
        with suppress(ChunkMissing, DamagedData, NoKey):
            sealed = self._store.read(self._session.domain, chunk_id, self._sealing.key_ids)
            data = self._opener.open(chunk_id, sealed.codec, sealed.plain_length, sealed.stored)
            plain = bytes((PLAIN_FORM,)) + data
            return digest_of(domain, ChunkRecord(chunk_id, PLAIN_KEY, sealed.codec, sealed.plain_length, plain))
        return NO_DIGEST

    async def _commit(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, CommitCopy)
        self._session.check_peer()
        needs, self._needs = self._needs, NeededChunks(self._store.scratch)
        try:
            seal = partial(self._seal_and_commit, message, bytes(received.payload), needs)
            point_hash = await self._provider.writes.run(seal)
        finally:
            needs.close()
        await self._session.link.send(Committed(point=message.point, hash=point_hash))

    def _seal_and_commit(self, message: CommitCopy, raw: bytes, needs: NeededChunks) -> bytes:
        session, store, sealing = self._session, self._store, self._sealing
        origin = Origin(message.repository_id, message.tenant, message.committed_ns, message.hash)
        head = self._check(message, raw, origin, needs)
        place = Place(
            tenant=session.tenant,
            job=head.job,
            repository_id=store.repository_id,
            point_id=head.point_id,
            domain=session.domain,
            zone=Zone.TARGET,
            parent=head.parent,
            parent_hash=head.parent_hash,
        )
        # Its chunks keep the names that they have; so it takes what they were named by.
        sealing.keys.chunk_id_key = ChunkIdKey(head.chunk_id_key)
        keys, user_key = self._provider.keys, sealing.user_key()
        sealing.keys.kms_slot = keys.prepare_kms_slot(user_key, session.tenant, head.point_id)
        facts = PointFacts(
            kind=head.kind,
            created_ns=head.created_ns,
            workload=head.workload,
            manifest=head.manifest,
            fsi=head.fsi or [],
            needs_hash=head.needs_hash,
            statistics=head.statistics,
        )
        sealing.trim(needs.parts(), lambda ids: store.have(session.domain, ids))
        sealed, slots = sealing.assemble(place, facts)
        copy = CopyToCommit(
            session.tenant,
            session.start.job,
            session.domain,
            head.point_id,
            replace(origin, resealed=True),
            sealed,
            slots,
        )
        point_hash = commit_copy(store, copy, needs.parts(), needs.digest(), sealing.key_ids)
        late = sealing.committed()
        if late is not None:
            keep = float(session.repository.config.keep_replaced_slots)
            store.replace_slots(session.tenant, session.start.job, [late], keep)
        return point_hash

    def _check(self, message: CommitCopy, raw: bytes, origin: Origin, needs: NeededChunks) -> PointHead:
        """Return the head of a plain point after proving that it is the one that the conductor copies."""
        head = decode_head(raw)
        job = job_of_head(self._session.start.job)
        if (head.point_id, head.job, head.tenant) != (message.point, job, message.tenant):
            raise RefusedByPeer("the restore point is not the one that was announced", "update the transporter there")
        if head.encrypted or len(head.chunk_id_key) != KEY_LENGTH:
            raise RefusedByPeer("the target can seal only a restore point that is not sealed", "copy it as it is")
        proof = OriginalHash(origin, head.point_id, head.domain, head.job, raw)
        for part in needs.parts():
            proof.update(part)
        if proof.digest() != message.hash:
            raise DamagedData("the restore point is not what was committed where it comes from", "scrub it there")
        return head
