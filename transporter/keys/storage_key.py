"""The storage key of one restore point, and the slots it is wrapped in.

A slot is a way to open the point. It is bound to its place by its context (tenant, repository, point): a slot of
another point, put in this one's folder by whoever holds the repository, opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Final

from transporter.clock import Clock
from transporter.errors import (
    KMS_ERRORS,
    CorruptedPoint,
    DamagedData,
    NoKey,
    TransporterError,
    UnsupportedFormat,
    WrongPassword,
)
from transporter.keys.derive import STORAGE_RING, bind, hkdf
from transporter.keys.password import KdfParameters, PasswordHash, UserKey, hash_password
from transporter.keys.secret import SYSTEM, Secret
from transporter.keys.slot import (
    KmsSlot,
    SlotInfo,
    SlotKind,
    SlotParts,
    check_slot,
    finish_slot,
    password_header,
    read_keyset_slot,
    read_kms_slot,
    read_slot,
    read_slot_public,
)
from transporter.keys.wrap import unwrap, wrap

MAX_SLOTS: Final = 64
"""Slots of one point that are looked at: each may cost an Argon2id, and whoever holds the repository could add many."""

__all__ = [
    "MAX_SLOTS",
    "SlotInfo",
    "SlotKind",
    "StorageKey",
    "check_slot",
    "make_password_slot",
    "open_parts",
    "open_slot",
    "open_slot_with_password",
    "read_slot_public",
    "unlock",
]


class StorageKey(Secret):
    """Wraps every session key, metakey and the chunk-id key of one restore point."""

    __slots__ = ()
    KIND: ClassVar[str] = "storage key"

    @property
    def ring_kek(self) -> bytes:
        """The key that wraps the key ring."""
        return hkdf(self._secret, STORAGE_RING)


def make_password_slot(
    storage_key: StorageKey,
    key: PasswordHash | UserKey,
    salt: bytes,
    params: KdfParameters,
    context: bytes,
    *,
    hint_name: str = "",
    clock: Clock = SYSTEM,
) -> bytes:
    """Return a slot that the password behind ``key`` opens at ``context`` (see `wrap.context`).

    ``salt`` and ``params`` must be those of ``key`` (ValueError else: nobody could open the slot).
    ``hint_name`` is PUBLIC: whoever holds the repository reads it; leave it empty unless that is wanted.
    """
    key = _hash(key)
    if key.salt != salt or key.parameters != params:
        raise ValueError("the salt and parameters of a slot are those of its password hash")
    bound = password_header(SlotInfo(SlotKind.PASSWORD, bytes(salt), params, hint_name, key.verifier))
    return finish_slot(bound, wrap(key.kek, storage_key.secret, bind(context, bound), clock=clock))


def open_slot(slot: bytes, key: PasswordHash | UserKey, context: bytes) -> StorageKey:
    """Return the storage key in ``slot``.

    Raises:
        WrongPassword: the slot is sound and was made with another password (its verifier says so).
        CorruptedPoint: the slot holds no salt.
        DamagedData: altered bytes, or a slot of another point.
    """
    return _open(read_slot(slot), _hash(key), context)


def open_parts(parts: SlotParts, key: PasswordHash, context: bytes) -> StorageKey:
    """As `open_slot`, of a slot that was taken apart before."""
    return _open(parts, key, context)


def open_slot_with_password(slot: bytes, password: bytes, context: bytes) -> tuple[StorageKey, PasswordHash]:
    """Stretch ``password`` with the slot's own salt and parameters, then open; raises as `open_slot`, or UsageError."""
    parts = read_slot(slot)
    key = hash_password(password, parts.info.salt, parts.info.params)
    return _open(parts, key, context), key


def unlock(
    slots: Iterable[bytes],
    context: bytes,
    find: Callable[[SlotInfo], PasswordHash | UserKey | None],
    ask: Callable[[SlotInfo], bytes | None] | None = None,
    by_kms: Callable[[KmsSlot], StorageKey] | None = None,
) -> tuple[StorageKey, PasswordHash | None]:
    """Open a point by any of its slots, in the order of docs/security.md; the hash is None where a service opened it.

    ``find`` gives the password hash for what a slot says of itself, from the key database (by its salt) or from what
    was typed before; None if there is none. Only when no slot opened that way does ``ask`` get the password of a slot
    from a person (None: not known); it is stretched here. Between the two ``by_kms`` opens slots of services.

    Raises:
        CorruptedPoint: there is no slot, or none that is sound: no password can ever open this point.
        WrongPassword: a password was given, and it is not the one.
        NoKey: sound slots, but no password for any of them.
        DamagedData: a slot for a known password was altered, or is that of another point.
        `KMS_ERRORS`: there was nothing else to try, and a service failed.
    """
    found = _sort_out(slots)
    failed = _Failed(found.damage)
    for look in (find, None, _stretching(ask)):
        if look is None:
            key = _by_services(found.services, by_kms, failed)
            if key is not None:
                return key, None
            continue
        for parts in found.sound:
            with failed.noted():
                known = look(parts.info)
                if known is not None:
                    return _open(parts, _hash(known), context), _hash(known)
    raise failed.told(found)


def _by_services(
    services: list[KmsSlot], by_kms: Callable[[KmsSlot], StorageKey] | None, failed: _Failed
) -> StorageKey | None:
    for slot in services if by_kms is not None else ():
        with failed.noted():
            assert by_kms is not None
            return by_kms(slot)
    return None


@dataclass(slots=True)
class _Failed:
    """What the ways that were tried failed with; the most telling one is raised."""

    damage: DamagedData | None
    wrong: WrongPassword | None = None
    service: TransporterError | None = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except WrongPassword as error:
            self.wrong = error
        except KMS_ERRORS as error:
            self.service = error
        except DamagedData as error:
            self.damage = error

    def told(self, found: _Found) -> TransporterError:
        if self.wrong is not None:
            return self.wrong
        if found.keysets and self.service is None and (self.damage is not None or not (found.sound or found.services)):
            broken = f" ({self.damage.what})" if self.damage is not None else ""
            return NoKey(f"no password opens this restore point{broken}", _what_helps(found))
        ways = found.sound or found.services or found.keysets
        if not (ways or isinstance(self.damage, UnsupportedFormat)):
            return CorruptedPoint(
                "this restore point cannot be opened: "
                f"{self.damage.what if self.damage else 'it has neither slot nor salt left'}",
                "restore another point, or another copy of this one",
            )
        if self.service is not None and found.sound:
            remedy = f"{self.service.remedy}; or give the password that the point was made with"
            return type(self.service)(self.service.what, remedy)
        return (
            self.service
            or self.damage
            or NoKey("no password that opens this restore point is at hand", _what_helps(found))
        )


def _what_helps(found: _Found) -> str:
    ways = [
        "give the password it was made with" if found.sound else "",
        f"add the service with the key {found.services[0].reference} to config.toml" if found.services else "",
        f"ask keyset {found.keysets[0]!r} for the key: `transporter recover request`" if found.keysets else "",
    ]
    return " or ".join(way for way in ways if way)


def _stretching(ask: Callable[[SlotInfo], bytes | None] | None) -> Callable[[SlotInfo], PasswordHash | None]:
    def look(info: SlotInfo) -> PasswordHash | None:
        password = None if ask is None else ask(info)
        return None if password is None else hash_password(password, info.salt, info.params)

    return look


@dataclass(slots=True)
class _Found:
    """The sound slots, names of keysets, and what was wrong with the last of the others."""

    sound: list[SlotParts] = field(default_factory=list)
    services: list[KmsSlot] = field(default_factory=list)
    keysets: list[str] = field(default_factory=list)
    damage: DamagedData | None = None


def _sort_out(slots: Iterable[bytes]) -> _Found:
    found = _Found()
    for count, slot in enumerate(slots):
        if count == MAX_SLOTS:
            raise DamagedData("a restore point has more slots than anyone makes", "remove what was added to them")
        try:
            keyset, service = read_keyset_slot(slot), read_kms_slot(slot)
            if keyset is not None:
                found.keysets.append(keyset.name)
            elif service is not None:
                found.services.append(service)
            else:
                found.sound.append(read_slot(slot))
        except DamagedData as error:
            # A sound slot of a kind that this version cannot use says more than a damaged one: the point is not lost.
            found.damage = found.damage if isinstance(found.damage, UnsupportedFormat) else error
    return found


def _hash(key: PasswordHash | UserKey) -> PasswordHash:
    return key.hash if isinstance(key, UserKey) else key


def _open(parts: SlotParts, key: PasswordHash, context: bytes) -> StorageKey:
    if not key.verifies(parts.info.verifier):
        raise WrongPassword("the password is not the one of this restore point", "try another password")
    # A verifier that matches beside a commitment that does not is no wrong password: a slot was put together from two.
    try:
        return StorageKey(unwrap(key.kek, parts.cryptogram, bind(context, parts.bound)))
    except NoKey:
        raise DamagedData("a slot was put together from parts of others", "use another copy of this point") from None
