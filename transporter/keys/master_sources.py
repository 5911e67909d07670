"""The places where a master key may lie, one class for each: put there, get, drop.

| kind | where | what opens it |
| file | `master.key` in the home, mode 0600 | whoever has the home |
| credential | $CREDENTIALS_DIRECTORY/NAME | the unit, on the machine (or TPM) it was encrypted for |
| keyring | the desktop's keyring | the user's session |
| passphrase | in the database, wrapped under Argon2id of the pass phrase | whoever knows it |
| kms | in the database, wrapped by a service | whoever may use the service's key |

Each move makes a new master key: an old copy of the home with the old key opens nothing that is written later.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from transporter.clock import Clock
from transporter.errors import NoKey, UsageError, WrongPassword
from transporter.keys import master_keyring
from transporter.keys.credential import read_credential
from transporter.keys.derive import bind
from transporter.keys.kms import Context
from transporter.keys.kms_access import KmsAccess
from transporter.keys.master_key import MasterKey, load_master_key, master_key_line, parse_master_key
from transporter.keys.master_lock import DEFAULT_CREDENTIAL, DEFAULT_FILE, Kind, Lock
from transporter.keys.pass_phrase import PASS_PHRASES, PassPhrases
from transporter.keys.password import DEFAULT_PARAMETERS, SALT_LENGTH, KdfParameters, hash_password
from transporter.keys.private_file import check_private, create_private, sync_folder
from transporter.keys.wrap import WrongKey, unwrap, wrap

_PLACE: Final = bind(b"master key")


@dataclass(frozen=True)
class Surroundings:
    """What the places need. ``home_id``: 16 bytes of the database, public: what a service's wrapping is bound to."""

    folder: Path
    home_id: bytes
    kms: KmsAccess
    clock: Clock
    parameters: KdfParameters = DEFAULT_PARAMETERS
    pass_phrases: PassPhrases = PASS_PHRASES

    @property
    def context(self) -> Context:
        """What a service binds the master key to."""
        return {"transporter-purpose": "master key", "transporter-home": self.home_id.hex()}


class Source(Protocol):
    """One kind of place."""

    def lock(self, name: str, around: Surroundings, key: MasterKey) -> Lock:
        """Return what names a place that is free, for ``key``; nothing is put there yet."""

    def put(self, lock: Lock, around: Surroundings, key: MasterKey) -> Lock:
        """Put the key there, durably; return the lock that opens it."""

    def get(self, lock: Lock, around: Surroundings) -> MasterKey:
        """Return the key. Raises NoKey, WrongPassword, DamagedData, ConfigError, `KMS_ERRORS`."""

    def drop(self, lock: Lock, around: Surroundings) -> None:
        """Destroy what lies there, if anything does."""


class _File:
    def lock(self, _name: str, around: Surroundings, key: MasterKey) -> Lock:
        free = not (around.folder / DEFAULT_FILE).exists()
        return Lock("file", DEFAULT_FILE if free else f"master-{key.key_id[:4].hex()}.key")

    def put(self, lock: Lock, around: Surroundings, key: MasterKey) -> Lock:
        create_private(around.folder / lock.name, master_key_line(key).encode())
        return lock

    def get(self, lock: Lock, around: Surroundings) -> MasterKey:
        return load_master_key(around.folder / lock.name)

    def drop(self, lock: Lock, around: Surroundings) -> None:
        path = around.folder / lock.name
        if not check_private(path):
            return
        # As good as it goes: journals, snapshots and flash memory keep copies.
        with path.open("r+b") as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        sync_folder(around.folder)


class _Credential:
    def lock(self, name: str, _around: Surroundings, _key: MasterKey) -> Lock:
        return Lock("credential", name or DEFAULT_CREDENTIAL)

    def put(self, lock: Lock, around: Surroundings, key: MasterKey) -> Lock:
        if self.get(lock, around) != key:
            raise UsageError(
                "a credential is made before it is used, and not by this program",
                "transporter keys master-key make | systemd-creds encrypt - FILE",
            )
        return lock

    def get(self, lock: Lock, _around: Surroundings) -> MasterKey:
        return parse_master_key(read_credential(lock.name), f"the credential {lock.name!r}")

    def drop(self, lock: Lock, around: Surroundings) -> None:
        """The credential is the operator's, who removes it."""


class _Keyring:
    def lock(self, _name: str, around: Surroundings, key: MasterKey) -> Lock:
        return Lock("keyring", f"{around.home_id.hex()}/{key.key_id[:4].hex()}")

    def put(self, lock: Lock, _around: Surroundings, key: MasterKey) -> Lock:
        master_keyring.put(lock.name, master_key_line(key).strip())
        return lock

    def get(self, lock: Lock, _around: Surroundings) -> MasterKey:
        return parse_master_key(master_keyring.get(lock.name).encode("utf-8", "replace"), "what the keyring keeps")

    def drop(self, lock: Lock, _around: Surroundings) -> None:
        master_keyring.drop(lock.name)


class _PassPhrase:
    def lock(self, _name: str, _around: Surroundings, _key: MasterKey) -> Lock:
        return Lock("passphrase")

    def put(self, _lock: Lock, around: Surroundings, key: MasterKey) -> Lock:
        salt, price = around.clock.random_bytes(SALT_LENGTH), around.parameters
        kek = hash_password(around.pass_phrases.new(), salt, price).kek
        sealed = wrap(kek, key.secret, _PLACE, clock=around.clock)
        return Lock("passphrase", "", salt, price.memory_kib, price.iterations, price.lanes, sealed)

    def get(self, lock: Lock, around: Surroundings) -> MasterKey:
        # Checked before anything is computed: whoever can write the database could ask for all memory there is.
        price = KdfParameters(lock.memory_kib, lock.iterations, lock.lanes)

        def opens(pass_phrase: bytes) -> bytes:
            kek = hash_password(pass_phrase, lock.salt, price).kek
            try:
                return unwrap(kek, lock.sealed, _PLACE)
            except WrongKey:
                raise WrongPassword(
                    "the pass phrase is not the one of this key database", "try another pass phrase"
                ) from None

        return MasterKey(around.pass_phrases.try_each(opens))

    def drop(self, lock: Lock, around: Surroundings) -> None:
        """It stood in the row that was replaced."""


class _Kms:
    def lock(self, name: str, _around: Surroundings, _key: MasterKey) -> Lock:
        return Lock("kms", name)

    def put(self, lock: Lock, around: Surroundings, key: MasterKey) -> Lock:
        return Lock("kms", lock.name, sealed=around.kms.wrap(lock.name, key.secret, around.context, prove=True))

    def get(self, lock: Lock, around: Surroundings) -> MasterKey:
        return MasterKey(around.kms.unwrap(lock.name, lock.sealed, around.context))

    def drop(self, lock: Lock, around: Surroundings) -> None:
        """It stood in the row that was replaced."""


SOURCES: Final[dict[Kind, Source]] = {
    "file": _File(),
    "credential": _Credential(),
    "keyring": _Keyring(),
    "passphrase": _PassPhrase(),
    "kms": _Kms(),
}


def source_of(target: str) -> tuple[Source, Kind, str]:
    """Return the kind of place that ``target`` names, as config.toml writes it, and the name after the colon."""
    kind, _colon, name = target.partition(":")
    for known, source in SOURCES.items():
        if known == kind:
            return source, known, name
    raise UsageError(f"{target!r} is no place for the master key", "see `transporter keys master-key --help`")


def new_master_key(target: str, around: Surroundings) -> MasterKey:
    """Return the key for a new place: a random one; for a credential the one that it holds already."""
    source, kind, name = source_of(target)
    if kind == "credential":
        return source.get(Lock("credential", name or DEFAULT_CREDENTIAL), around)
    return MasterKey.generate(around.clock)


def not_the_key(lock: Lock, folder: Path) -> NoKey:
    """Return the error about a key that is sound, and not that of the database."""
    if lock.kind == "file":
        return NoKey(
            f"{folder / lock.name} is not the master key of this key database", "put back the file that was with it"
        )
    return NoKey(
        f"the master key that came from {lock.text()} is not that of this key database",
        "use the one that was with it",
    )
