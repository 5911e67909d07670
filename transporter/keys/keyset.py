"""Keysets: key pairs of the escrow office, a second way to open every point.

The public half travels to the sources, where every new storage key is wrapped for it too (RSA-4096, OAEP with SHA-256,
RFC 8017 section 7.1; the place and the slot's header are the label). The private half never leaves the escrow, and lies
there under a pass phrase of its own.

Anybody can wrap something for a public key. So a slot is signed by the node that made it, and the escrow opens none but
those of nodes that it knows: else a hostile target could make a point of its own, have it opened, and have it restored.

A keyset also signs what the escrow answers (Ed25519, RFC 8032); that key is derived from the primes of the RSA key:

    secret  = BLAKE3(bind("keyset signature", smaller prime, larger prime))
    Ed25519 = HKDF-SHA256(secret, "keyset signature", 32)
    id      = BLAKE3(bind("keyset id", SubjectPublicKeyInfo of the RSA key, Ed25519 public key)), first 16 bytes

People compare the id when a public half is imported: whoever exchanged it on its way would get every storage key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from transporter.clock import Clock
from transporter.errors import DamagedData, NoKey, WrongPassword
from transporter.keys.derive import KEY_LENGTH, KEYSET_ID, KEYSET_LABEL, KEYSET_SIGNATURE, KEYSET_SLOT, bind, hkdf
from transporter.keys.node_key import NodeKey, is_signed
from transporter.keys.password import DEFAULT_PARAMETERS, SALT_LENGTH, KdfParameters, hash_password
from transporter.keys.secret import SYSTEM
from transporter.keys.slot import KEYSET_ID as ID_LENGTH
from transporter.keys.slot import KeysetSlot, finish_slot, keyset_header, read_keyset_slot
from transporter.keys.storage_key import StorageKey
from transporter.keys.wrap import MAX_WRAPPED, WRAP_OVERHEAD, WrongKey, unwrap, wrap

BITS: Final = 4096
_EXPONENT: Final = 65537
_NUMBER: Final = BITS // 8
_SIGNING: Final = 32


@dataclass(frozen=True, slots=True)
class PublicKeyset:
    """The half that wraps. ``id``: see the head of the file; ``name`` is for people; ``signing``: its Ed25519 key."""

    id: bytes
    name: str
    created_ns: int
    key: rsa.RSAPublicKey = field(repr=False)
    signing: bytes = field(repr=False)

    @property
    def spki(self) -> bytes:
        """The RSA key, DER (RFC 5280 section 4.1)."""
        return _spki(self.key)

    @property
    def fingerprint(self) -> str:
        """The id as people compare it."""
        return fingerprint(self.id)

    @classmethod
    def from_keys(cls, spki: bytes, signing: bytes, name: str, created_ns: int) -> PublicKeyset:
        """Read a public half.

        Raises DamagedData for anything but an RSA key of 4,096 bits with the usual exponent in its one form, that
        wraps, and an Ed25519 key.
        """
        try:
            key: object = serialization.load_der_public_key(spki)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, rsa.RSAPublicKey) or len(signing) != _SIGNING or not _is_usable(key, spki):
            raise DamagedData(
                f"a keyset is an RSA key of {BITS} bits, and this is none", "export it again at the escrow"
            )
        return cls(keyset_id(spki, signing), name, created_ns, key, signing)

    def make_slot(self, storage_key: StorageKey, context: bytes, maker: NodeKey) -> bytes:
        """Return a slot that the private half opens at ``context`` (see `wrap.point_context`), signed by ``maker``."""
        bound = keyset_header(self.id, maker.public, self.name)
        cryptogram = self.key.encrypt(storage_key.secret, _oaep(context, bound))
        return finish_slot(bound, cryptogram + maker.sign(_slot_message(context, bound, cryptogram)))

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Tell whether the private half signed ``message``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.signing).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKeyset:
    """The half that opens."""

    public: PublicKeyset
    key: rsa.RSAPrivateKey = field(repr=False)

    def open_slot(self, slot: bytes, context: bytes) -> StorageKey:
        """Return the storage key in a slot of this keyset.

        Raises:
            NoKey: the slot is of another keyset, or of another kind.
            DamagedData: altered bytes, a slot of another point, or not signed by the node that it names.
        """
        parts = read_keyset_slot(slot)
        if parts is None or parts.keyset_id != self.public.id:
            raise NoKey("the slot is not one of this keyset", "use the keyset that it names")
        return self.open_parts(parts, context)

    def open_parts(self, parts: KeysetSlot, context: bytes) -> StorageKey:
        """As `open_slot`, of a slot of this keyset that was taken apart before."""
        if not is_signed(parts.maker, _slot_message(context, parts.bound, parts.cryptogram), parts.signature):
            raise _altered()
        try:
            plain = self.key.decrypt(parts.cryptogram, _oaep(context, parts.bound))
        except ValueError:
            raise _altered() from None
        if len(plain) != KEY_LENGTH:
            raise _altered()
        return StorageKey(plain)

    def sign(self, message: bytes) -> bytes:
        """Return a signature, 64 bytes. ``message`` begins with what it is for (derive.py)."""
        return _signing_key(self.key).sign(message)


@dataclass(frozen=True, slots=True)
class SealedPrivate:
    """A private half under a pass phrase: the salt and price of the pass phrase, and the cryptogram (wrap.py).

    Or, where ``kms`` names a service, under a key that the service wrapped (``kms_wrapped``): then salt and price say
    nothing (see keyset_kms.py).
    """

    salt: bytes
    parameters: KdfParameters
    cryptogram: bytes = field(repr=False)
    kms: str = ""
    kms_wrapped: bytes = field(default=b"", repr=False)


def keyset_id(spki: bytes, signing: bytes) -> bytes:
    """Return the id of a keyset."""
    return blake3(bind(KEYSET_ID, spki, signing)).digest(ID_LENGTH)


def fingerprint(identity: bytes) -> str:
    """Return an id in groups of four digits."""
    text = identity.hex()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def generate_keyset(name: str, clock: Clock = SYSTEM) -> PrivateKeyset:
    """Make a key pair; takes a second or a few. Its randomness is the library's own."""
    key = rsa.generate_private_key(_EXPONENT, BITS)
    public = PublicKeyset.from_keys(_spki(key.public_key()), _signing_public(key), name, clock.now_ns())
    return PrivateKeyset(public, key)


def seal_private(
    private: PrivateKeyset,
    pass_phrase: bytes,
    *,
    parameters: KdfParameters = DEFAULT_PARAMETERS,
    clock: Clock = SYSTEM,
) -> SealedPrivate:
    """Put a private half under a pass phrase. Raises UsageError for an empty one."""
    salt = clock.random_bytes(SALT_LENGTH)
    kek = hash_password(pass_phrase, salt, parameters).kek
    return SealedPrivate(salt, parameters, seal_under(kek, private, clock))


def seal_under(kek: bytes, private: PrivateKeyset, clock: Clock) -> bytes:
    """Return the cryptogram of a private half under a key of 32 bytes."""
    der = private.key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return wrap(kek, der, _private_place(private.public.id), clock=clock)


def open_private(public: PublicKeyset, sealed: SealedPrivate, pass_phrase: bytes) -> PrivateKeyset:
    """Return the private half.

    Raises:
        WrongPassword: sound, and under another pass phrase.
        DamagedData: altered, or of another keyset.
    """
    kek = hash_password(pass_phrase, sealed.salt, sealed.parameters).kek
    try:
        return open_under(kek, public, sealed.cryptogram)
    except WrongKey:
        raise WrongPassword(
            f"the pass phrase is not the one of the keyset {public.name!r}", "try another pass phrase"
        ) from None


def open_under(kek: bytes, public: PublicKeyset, cryptogram: bytes) -> PrivateKeyset:
    """Return a private half that was sealed under a key of 32 bytes. Raises WrongKey, DamagedData."""
    length = len(cryptogram) - WRAP_OVERHEAD
    if not 1 <= length <= MAX_WRAPPED:
        raise _damaged_private()
    der = unwrap(kek, cryptogram, _private_place(public.id), length=length)
    try:
        key: object = serialization.load_der_private_key(der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != public.key:
        raise _damaged_private()
    if _signing_public(key) != public.signing:
        raise _damaged_private()
    return PrivateKeyset(public, key)


def _spki(key: rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _is_usable(key: rsa.RSAPublicKey, spki: bytes) -> bool:
    """Tell whether a key is of our kind, in its one form, and wraps: else every later backup would fail with it."""
    numbers = key.public_numbers()
    if key.key_size != BITS or numbers.e != _EXPONENT or numbers.n % 2 == 0 or _spki(key) != spki:
        return False
    try:
        key.encrypt(bytes(KEY_LENGTH), _oaep(b"", b""))
    except ValueError:
        return False
    return True


def _signing_key(key: rsa.RSAPrivateKey) -> Ed25519PrivateKey:
    numbers = key.private_numbers()
    primes = [prime.to_bytes(_NUMBER, "big") for prime in sorted((numbers.p, numbers.q))]
    secret = blake3(bind(KEYSET_SIGNATURE, *primes)).digest()
    return Ed25519PrivateKey.from_private_bytes(hkdf(secret, KEYSET_SIGNATURE))


def _signing_public(key: rsa.RSAPrivateKey) -> bytes:
    return _signing_key(key).public_key().public_bytes_raw()


def oaep(label: bytes) -> padding.OAEP:
    """Return the one padding that is used here (RFC 8017 section 7.1): SHA-256 throughout."""
    return padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=label)


def _oaep(context: bytes, bound: bytes) -> padding.OAEP:
    return oaep(bind(KEYSET_LABEL, context, bound))


def _slot_message(context: bytes, bound: bytes, cryptogram: bytes) -> bytes:
    return bind(KEYSET_SLOT, context, bound, cryptogram)


def _private_place(identity: bytes) -> bytes:
    return bind(b"keyset private half", identity)


def _altered() -> DamagedData:
    return DamagedData(
        "a keyset's slot was altered, or belongs to another restore point", "use another copy of this restore point"
    )


def _damaged_private() -> DamagedData:
    return DamagedData("the private half of a keyset is damaged", "import it again from its export")
