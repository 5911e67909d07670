"""How a password's hash lies in the key database: under the master key; where a service locks it, under that one first.

    with a service   sealed = wrap(master key, wrap(key, hash)), kms_wrapped = the key, as the service wrapped it

The key is of this password alone, and stays when the password is changed. Whoever has the home and its master key gets
no hash without the service.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from transporter.errors import DamagedData, NoKey
from transporter.keys.derive import KEY_LENGTH
from transporter.keys.kms import Context, other_key
from transporter.keys.open_database import OpenDatabase
from transporter.keys.password import KdfParameters, PasswordHash, UserKey
from transporter.keys.wrap import WRAP_OVERHEAD, WrongKey, unwrap, wrap


@dataclass(frozen=True, slots=True)
class HashLock:
    """``service`` empty: the master key alone. ``wrapped``: the key as the service keeps it; ``kek``: that key."""

    service: str = ""
    wrapped: bytes = field(default=b"", repr=False)
    kek: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class HashRow:
    """A row of a password, or of an old one: what it says in clear, and the sealed hash."""

    name: str
    salt: bytes
    price: KdfParameters
    sealed: bytes = field(repr=False)
    kms: str
    kms_wrapped: bytes = field(repr=False)

    COLUMNS: ClassVar[str] = "name, salt, memory_kib, iterations, lanes, sealed, kms, kms_wrapped"

    @classmethod
    def of(cls, row: tuple[str, bytes, int, int, int, bytes, str, bytes]) -> HashRow:
        """Return a row that was selected by `COLUMNS`."""
        return cls(row[0], row[1], KdfParameters(*row[2:5]), row[5], row[6], row[7])


class HashLocks(OpenDatabase):
    """See the head of the file. What may ask a service is never called inside a transaction."""

    def new_hash_lock(self, service: str) -> HashLock:
        """Return the lock of a hash; asks the service, and has it prove that it opens what it closes."""
        if not service:
            return HashLock()
        kek = self._clock.random_bytes(KEY_LENGTH)
        return HashLock(service, self.kms.wrap(service, kek, self._hash_context(), prove=True), kek)

    def hash_lock(self, row: HashRow) -> HashLock:
        """Return the lock of a row. Raises ConfigError, `KMS_ERRORS`."""
        if not row.kms:
            return HashLock()
        return HashLock(row.kms, row.kms_wrapped, self.kms.unwrap(row.kms, row.kms_wrapped, self._hash_context()))

    def _seal_hash(self, key: PasswordHash, lock: HashLock, place: bytes) -> bytes:
        inner = wrap(lock.kek, key.raw, place, clock=self._clock) if lock.service else key.raw
        return wrap(self._kek, inner, place, clock=self._clock)

    def _open_hash(self, row: HashRow, place: bytes, held: UserKey | None = None) -> UserKey:
        """Return the user key of a row; ``held``: one that the caller has, for nobody to be asked again."""
        if held is not None and held.salt == row.salt and held.params == row.price:
            return UserKey(row.name, held.hash, row.kms)
        try:
            inner = unwrap(self._kek, row.sealed, place, length=KEY_LENGTH + (WRAP_OVERHEAD if row.kms else 0))
        except NoKey:
            raise DamagedData(f"the key database {self._path} is damaged", "put back a copy of it") from None
        if row.kms:
            try:
                inner = unwrap(self.hash_lock(row).kek, inner, place)
            except WrongKey:
                self.kms.forget(row.kms, row.kms_wrapped, self._hash_context())
                raise other_key(row.kms) from None
        return UserKey(row.name, PasswordHash.from_raw(inner, row.salt, row.price), row.kms)

    def _hash_context(self) -> Context:
        return {"transporter-purpose": "password hash", "transporter-home": self.around().home_id.hex()}
