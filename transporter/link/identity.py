"""A node's identity: an ECDSA P-256 key pair and a short-lived self-signed certificate.

Peers pin the SHA-256 of the public key (SPKI, RFC 5280 section 4.1), so that the certificate can be renewed without
pairing again.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from transporter.clock import Clock
from transporter.errors import ConfigError

LIFETIME = datetime.timedelta(days=90)
RENEW_WHEN_LEFT = datetime.timedelta(days=30)
# A peer whose clock is behind ours must not find the certificate "not yet valid".
BACKDATED = datetime.timedelta(days=1)
_KEY_FILE = "identity.key"
_CERTIFICATE_FILE = "identity.crt"


@dataclass(frozen=True)
class Identity:
    """This node's key and certificate; ``pin`` is the SHA-256 of its public key (32 bytes)."""

    name: str
    pin: bytes
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def pin_of(certificate: x509.Certificate) -> bytes:
    """Return the SHA-256 of the certificate's SubjectPublicKeyInfo."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


def fingerprint_text(pin: bytes) -> str:
    """Return a pin as people read it aloud: ``SHA256:`` and hexadecimal groups."""
    text = pin.hex()
    return "SHA256:" + ":".join(text[at : at + 4] for at in range(0, len(text), 4))


def tenant_name(node: str, pin: bytes) -> str:
    """Return which tenant a node is where it stores something.

    The tenant is the identity: its pin. A name can be chosen by anybody, and could be another tenant's.
    """
    return f"{node}-{pin.hex()[:8]}"


def create_identity(folder: Path, name: str, clock: Clock) -> Identity:
    """Make a key pair in ``folder`` (mode 0600) and its first certificate. Refuses to replace one that exists."""
    path = folder / _KEY_FILE
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError("this home has an identity already", "use another --home for another node") from None
    with os.fdopen(handle, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return _with_certificate(folder, name, key, clock)


def load_identity(folder: Path, name: str, clock: Clock) -> Identity:
    """Read the identity, renewing its certificate well before it ends.

    Raises ConfigError when there is none, or when others can read the key.
    """
    path = folder / _KEY_FILE
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("this home has no identity", "run `transporter init` first") from None
    if mode & 0o077:
        raise ConfigError(
            f"the private key {path} can be read by others", "chmod 600 the file; if in doubt, make a new home"
        )
    try:
        key: object = serialization.load_pem_private_key(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} does not hold an ECDSA key", "restore the file from a copy of the home")
    certificate = _usable_certificate(folder, key, clock)
    if certificate is None:
        return _with_certificate(folder, name, key, clock)
    return Identity(name, pin_of(certificate), certificate, key)


def _usable_certificate(folder: Path, key: ec.EllipticCurvePrivateKey, clock: Clock) -> x509.Certificate | None:
    try:
        certificate = x509.load_pem_x509_certificate((folder / _CERTIFICATE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    left = certificate.not_valid_after_utc - _now(clock)
    same_key = certificate.public_key() == key.public_key()
    return certificate if same_key and left > RENEW_WHEN_LEFT else None


def _now(clock: Clock) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(clock.now_ns() / 1e9, datetime.UTC)


def _with_certificate(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, clock: Clock) -> Identity:
    now = _now(clock)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / _CERTIFICATE_FILE
    fresh = path.with_suffix(".new")
    fresh.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    fresh.replace(path)
    return Identity(name, pin_of(certificate), certificate, key)
