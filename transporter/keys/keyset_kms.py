"""Private halves of keysets under a key management service, in place of a pass phrase.

The half lies under a random key, and the service wraps that: 32 bytes, as everything else that services wrap. The
service is asked each time a request is answered, and keeps its own record of it.
"""

from __future__ import annotations

from transporter.clock import Clock
from transporter.keys.derive import KEY_LENGTH
from transporter.keys.keyset import PrivateKeyset, PublicKeyset, SealedPrivate, open_under, seal_under
from transporter.keys.kms import Context, other_key
from transporter.keys.kms_access import KmsAccess
from transporter.keys.password import DEFAULT_PARAMETERS, SALT_LENGTH
from transporter.keys.wrap import WrongKey


def seal_private_by_kms(private: PrivateKeyset, access: KmsAccess, service: str, clock: Clock) -> SealedPrivate:
    """Put a private half under a service. Raises ConfigError, `KMS_ERRORS`."""
    kek = clock.random_bytes(KEY_LENGTH)
    wrapped = access.wrap(service, kek, _context(private.public), prove=True)
    # Salt and price are those of a pass phrase; here they say nothing, but have their form in tables and files.
    return SealedPrivate(bytes(SALT_LENGTH), DEFAULT_PARAMETERS, seal_under(kek, private, clock), service, wrapped)


def open_private_by_kms(public: PublicKeyset, sealed: SealedPrivate, access: KmsAccess) -> PrivateKeyset:
    """Return the private half. Raises ConfigError, `KMS_ERRORS`, DamagedData."""
    context = _context(public)
    try:
        return open_under(access.unwrap(sealed.kms, sealed.kms_wrapped, context), public, sealed.cryptogram)
    except WrongKey:
        raise other_key(sealed.kms) from None
    finally:
        # Not even for minutes: each answer of an escrow is the service's to allow.
        access.forget(sealed.kms, sealed.kms_wrapped, context)


def _context(public: PublicKeyset) -> Context:
    return {"transporter-purpose": "keyset", "transporter-keyset": public.id.hex()}
