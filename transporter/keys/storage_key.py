"""The storage key of one restore point, and the slots it is wrapped in.

A slot is a way to open the point. It is bound to its place by its context (tenant, repository, point): a slot of
another point, put in this one's folder by whoever holds the repository, opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Final

from transporter.clock import Clock
from transporter.errors import CorruptedPoint, DamagedData, NoKey, UnsupportedFormat, WrongPassword
from transporter.keys.derive import STORAGE_RING, bind, hkdf
from transporter.keys.password import KdfParameters, PasswordHash, UserKey, hash_password
from transporter.keys.secret import SYSTEM, Secret
from transporter.keys.slot import (
    SlotInfo,
    SlotKind,
    SlotParts,
    check_slot,
    finish_slot,
    password_header,
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
) -> tuple[StorageKey, PasswordHash]:
    """Open a point by any of its slots, in the order of docs/security.md.

    ``find`` gives the password hash for what a slot says of itself, from the key database (by its salt) or from what
    was typed before; None if there is none. Only when no slot opened that way does ``ask`` get the password of a slot
    from a person (None: not known); it is stretched here.

    Raises:
        CorruptedPoint: there is no slot, or none that is sound: no password can ever open this point.
        WrongPassword: a password was given, and it is not the one.
        NoKey: sound slots, but no password for any of them.
        DamagedData: a slot for a known password was altered, or is that of another point.
    """
    sound, damage = _sort_out(slots)
    wrong: WrongPassword | None = None
    for look in (find, _stretching(ask)):
        for parts in sound:
            try:
                key = look(parts.info)
                if key is not None:
                    return _open(parts, _hash(key), context), _hash(key)
            except WrongPassword as error:
                wrong = error
            except DamagedData as error:
                damage = error
    if wrong is not None:
        raise wrong
    if not sound and not isinstance(damage, UnsupportedFormat):
        raise CorruptedPoint(
            f"this restore point cannot be opened: {damage.what if damage else 'it has neither slot nor salt left'}",
            "restore another point, or another copy of this one",
        )
    raise damage or NoKey("no password that opens this restore point is at hand", "give the password it was made with")


def _stretching(ask: Callable[[SlotInfo], bytes | None] | None) -> Callable[[SlotInfo], PasswordHash | None]:
    def look(info: SlotInfo) -> PasswordHash | None:
        password = None if ask is None else ask(info)
        return None if password is None else hash_password(password, info.salt, info.params)

    return look


def _sort_out(slots: Iterable[bytes]) -> tuple[list[SlotParts], DamagedData | None]:
    """Return the sound password slots, and what was wrong with the last of the others."""
    sound: list[SlotParts] = []
    damage: DamagedData | None = None
    for count, slot in enumerate(slots):
        if count == MAX_SLOTS:
            raise DamagedData("a restore point has more slots than anyone makes", "remove what was added to them")
        try:
            sound.append(read_slot(slot))
        except DamagedData as error:
            # A sound slot of a kind that this version cannot use says more than a damaged one: the point is not lost.
            damage = damage if isinstance(damage, UnsupportedFormat) else error
    return sound, damage


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
