"""A service's slot on a point: made before the run seals, put together at its commit, opened by who may use the key.

    key = 32 random bytes, of this slot alone
    wrapped by the service, with the context  transporter-purpose "restore point", transporter-tenant, transporter-point
    cryptogram = wrap(key, storage key, bind(context of the point, header))

So the service needs to be there when a run begins and not when it ends; and what the service, or whoever forges a slot,
gives back opens nothing unless it is that key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transporter.clock import Clock
from transporter.errors import KMS_ERRORS, DamagedData, KmsWrongKey, TransporterError
from transporter.keys.derive import KEY_LENGTH, bind
from transporter.keys.kms import Context, KmsKey, other_key
from transporter.keys.kms_access import KmsAccess
from transporter.keys.secret import SYSTEM
from transporter.keys.slot import KmsSlot, finish_slot, kms_header
from transporter.keys.storage_key import StorageKey
from transporter.keys.wrap import WrongKey, unwrap, wrap


@dataclass(frozen=True, slots=True)
class PreparedKmsSlot:
    """All that a slot needs of its service. ``name``: of the service at this node."""

    name: str
    key: KmsKey
    wrapped: bytes = field(repr=False)
    kek: bytes = field(repr=False)

    def make_slot(self, storage_key: StorageKey, context: bytes, clock: Clock = SYSTEM) -> bytes:
        """Return the slot of a point; nobody is asked."""
        bound = kms_header(self.key.provider, self.key.reference, self.name, self.wrapped)
        return finish_slot(bound, wrap(self.kek, storage_key.secret, bind(context, bound), clock=clock))


def kms_point_context(tenant: str, point: bytes) -> Context:
    """Return what a service binds the key of a point's slot to."""
    return {
        "transporter-purpose": "restore point",
        "transporter-tenant": tenant,
        "transporter-point": point.hex(),
    }


def prepare_kms_slot(access: KmsAccess, name: str, tenant: str, point: bytes, clock: Clock) -> PreparedKmsSlot:
    """Ask the service for all that the slot of a point will need. Raises ConfigError, `KMS_ERRORS`."""
    key = access.key(name)
    kek = clock.random_bytes(KEY_LENGTH)
    wrapped = access.wrap(name, kek, kms_point_context(tenant, point), prove=False)
    return PreparedKmsSlot(name, key, wrapped, kek)


def services_for(access: KmsAccess, slot: KmsSlot) -> list[str]:
    """Return the services of this home that may have the key of a slot, the one of its name first; nobody is asked."""
    fitting = [name for name in access.names() if access.service(name).provider == slot.provider]
    fitting = [name for name in fitting if access.service(name).may_be(slot.reference)]
    return sorted(fitting, key=lambda name: name != slot.name)


def open_kms_slot(access: KmsAccess, slot: KmsSlot, tenant: str, point: bytes, context: bytes) -> StorageKey:
    """Return the storage key in a service's slot.

    Raises:
        KmsWrongKey: no service of this home has the key, or none is of its kind.
        KmsUnreachable, KmsRefused, KmsKeyDisabled, KmsBadAnswer: as the service that came nearest to it.
        DamagedData: the slot was altered, or is of another point.
    """
    worst: TransporterError = KmsWrongKey(
        f"the restore point was wrapped by the key {slot.reference}, and no [kms.NAME] here has it",
        "add that service to config.toml",
    )
    for name in services_for(access, slot):
        try:
            return _open_by(access, name, slot, tenant, point, context)
        except KmsWrongKey:
            continue  # another one may have it
        except KMS_ERRORS as error:
            worst = error
    raise worst


def _open_by(access: KmsAccess, name: str, slot: KmsSlot, tenant: str, point: bytes, context: bytes) -> StorageKey:
    if access.key(name).reference != slot.reference:
        # Nobody's service is asked to open what another key is said to have wrapped: it would say so, and record it.
        raise other_key(name)
    where = kms_point_context(tenant, point)
    kek = access.unwrap(name, slot.wrapped, where)
    try:
        return StorageKey(unwrap(kek, slot.cryptogram, bind(context, slot.bound)))
    except WrongKey:
        access.forget(name, slot.wrapped, where)
        raise DamagedData(
            f"what [kms.{name}] unwrapped is not the key of this slot: the slot was put together from parts of others, "
            "or the service answers wrongly",
            "use another copy of this point, and look at the service",
        ) from None
