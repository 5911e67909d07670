"""The keys of one run: made at its start, remembered (wrapped) until its point is committed, then forgotten.

A run that is killed leaves chunks at the target that only its own session key opens. The key database keeps that key,
wrapped, from before the first chunk leaves until the commit; so the next run can use those chunks instead of sending
them again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transporter.clock import Clock
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.database import KeyDatabase
from transporter.keys.key_ring import KeyRing
from transporter.keys.kms_slot import PreparedKmsSlot
from transporter.keys.password import UserKey
from transporter.keys.session_key import ChunkSealer, MetaKey, SessionKey

# Below this nobody asks which keys a point still needs: 128 of them are 20 KiB in its head.
OLDER_KEYS = 128


@dataclass
class RunKeys:
    """What one run seals with, and every older key that its point may need."""

    chunk_id_key: ChunkIdKey = field(repr=False)
    session_key: SessionKey = field(repr=False)
    metakey: MetaKey = field(repr=False)
    older_session_keys: dict[bytes, SessionKey] = field(default_factory=dict, repr=False)
    older_metakeys: dict[bytes, MetaKey] = field(default_factory=dict, repr=False)
    # What the point's slot needs of a key management service, from before anything was sealed; None: no such slot.
    kms_slot: PreparedKmsSlot | None = field(default=None, repr=False)
    # What the run began with: at its end no service is asked for it again.
    user_key: UserKey | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._data_sealer = ChunkSealer(self.session_key)
        self._metadata_sealer = ChunkSealer(self.metakey)
        self._fsi_sealer = ChunkSealer(self.metakey.fsi)
        self._note_fsi()

    def sealer(self, *, metadata: bool, fsi: bool = False) -> ChunkSealer:
        """Return the sealer for data, for metadata chunks, or for those of the file-system index."""
        if fsi:
            return self._fsi_sealer
        return self._metadata_sealer if metadata else self._data_sealer

    def opens(self, key_id: bytes) -> bool:
        """Tell whether a chunk sealed under ``key_id`` can be part of this run's point."""
        return (
            key_id in (self.session_key.key_id, self.metakey.key_id, self.metakey.fsi.key_id)
            or key_id in self.older_session_keys
            or key_id in self.older_metakeys
            or key_id in self._older_fsi
        )

    @property
    def key_ids(self) -> frozenset[bytes]:
        """The ids of all keys whose chunks can be part of this run's point."""
        own = (self.session_key.key_id, self.metakey.key_id, self.metakey.fsi.key_id)
        return frozenset((*own, *self.older_session_keys, *self.older_metakeys, *self._older_fsi))

    def ring(self) -> KeyRing:
        """Return all keys of the point, own run first."""
        return KeyRing(
            self.chunk_id_key,
            (self.session_key, *self.older_session_keys.values()),
            (self.metakey, *self.older_metakeys.values()),
        )

    @property
    def crowded(self) -> bool:
        """Whether it is time to ask which of the older keys are still needed."""
        return len(self.older_session_keys) + len(self.older_metakeys) > OLDER_KEYS

    def keep_only(self, used: set[bytes]) -> None:
        """Let go of every older key whose id is not in ``used``."""
        self.older_session_keys = {key_id: key for key_id, key in self.older_session_keys.items() if key_id in used}
        self.older_metakeys = {
            key_id: key for key_id, key in self.older_metakeys.items() if key_id in used or key.fsi.key_id in used
        }
        self._note_fsi()

    def _note_fsi(self) -> None:
        self._older_fsi = {key.fsi.key_id for key in self.older_metakeys.values()}

    def add(self, ring: KeyRing) -> None:
        """Take in the keys of an older point."""
        self.older_session_keys.update({key.key_id: key for key in ring.session_keys})
        self.older_metakeys.update({key.key_id: key for key in ring.meta_keys})
        self._note_fsi()


def begin_run(
    keys: KeyDatabase,
    user_key: UserKey,
    job: str,
    run_id: bytes,
    parent: KeyRing | None,
    clock: Clock,
    *,
    domain: str = "",
    fresh: ChunkIdKey | None = None,
) -> RunKeys:
    """Make the keys of a run and remember them durably before anything is sealed under them.

    The chunk-id key is the domain's: from the key database, else from the parent point (a rebuilt home), else new.
    Keys of earlier runs of this job that never committed come along, so that their chunks are used. ``domain`` names
    the domain where several jobs share it (and then ``parent`` must be of it); else it is the job's own. ``fresh`` is a
    random key: the one that the domain gets if it has to have a new one.
    """
    domain = domain or job
    if keys.domain_key(domain) is None and parent is not None and parent.chunk_id_key is not None:
        keys.put_domain_key(domain, parent.chunk_id_key, user_key)
    run = RunKeys(
        keys.ensure_domain_key(domain, user_key, fresh),
        SessionKey.generate(clock),
        MetaKey.generate(clock),
        user_key=user_key,
    )
    for earlier in keys.runs(job):
        run.older_session_keys[earlier.session_key.key_id] = earlier.session_key
        run.older_metakeys[earlier.metakey.key_id] = earlier.metakey
    run._note_fsi()
    if parent is not None:
        run.add(parent)
    keys.remember_run(job, run_id, run.session_key, run.metakey, user_key)
    return run
