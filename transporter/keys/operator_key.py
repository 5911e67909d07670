"""Operators' key pairs (Ed25519, RFC 8032), with which they ask for and give approvals.

    public line   "transporter-operator-1 " base64 of the public key (32 bytes) " " name
    fingerprint   BLAKE3(bind("operator id", public key)), first 16 bytes, in groups of four digits

The private half is the operator's own: on his machine or a stick, under a pass phrase, never in a home. As a file: one
JSON object: ``transporter_operator`` (1), ``name``, ``public`` (base64), ``salt``, ``memory_kib``, ``iterations``,
``lanes`` (of the pass phrase, Argon2id), ``sealed`` (the private half, wrap.py, bound to name and public key),
``checksum`` (BLAKE3, hex, of the object without it, as compact JSON with sorted keys).
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

from transporter.clock import Clock
from transporter.errors import DamagedData, UnsupportedFormat, UsageError, WrongPassword
from transporter.keys.derive import KEY_LENGTH, OPERATOR_ID, bind, same
from transporter.keys.keyset import fingerprint
from transporter.keys.password import DEFAULT_PARAMETERS, SALT_LENGTH, KdfParameters, hash_password
from transporter.keys.secret import SYSTEM
from transporter.keys.wrap import WrongKey, unwrap, wrap

MAX_FILE: Final = 4096
"""Bytes: a private half as a file has some 500."""

MAX_NAME: Final = 64
"""Characters of an operator's name: it stands on one line of a table."""

ID_LENGTH: Final = 16
_MARK: Final = "transporter-operator-1 "
_LINE: Final = re.compile(r"transporter-operator-1 ([A-Za-z0-9+/]{43}=) (.{1,64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class PublicOperator:
    """``name`` is for people; ``key`` is the Ed25519 public key, 32 bytes."""

    name: str
    key: bytes

    @property
    def id(self) -> bytes:
        """16 bytes; see the head of the file."""
        return blake3(bind(OPERATOR_ID, self.key)).digest(ID_LENGTH)

    @property
    def fingerprint(self) -> str:
        """The id as people compare it."""
        return fingerprint(self.id)

    @property
    def line(self) -> str:
        """What `operator add` takes."""
        return f"{_MARK}{base64.b64encode(self.key).decode()} {self.name}"


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """The half that signs."""

    public: PublicOperator
    private: Ed25519PrivateKey = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """Return a signature, 64 bytes. ``message`` begins with what it is for (derive.py)."""
        return self.private.sign(message)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    transporter_operator: Literal[1]
    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
    public: Annotated[bytes, Meta(min_length=32, max_length=32)]
    salt: Annotated[bytes, Meta(min_length=SALT_LENGTH, max_length=SALT_LENGTH)]
    memory_kib: int
    iterations: int
    lanes: int
    sealed: Annotated[bytes, Meta(max_length=256)]
    checksum: str


def is_signed_by(key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether ``signature`` of ``message`` is by ``key``; False also for bytes that are no key or signature."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def generate_operator(name: str, clock: Clock = SYSTEM) -> OperatorKey:
    """Make a key pair. Raises UsageError for a name that is no short line."""
    check_operator_name(name)
    return _with(name, clock.random_bytes(KEY_LENGTH))


def check_operator_name(name: str) -> None:
    """Refuse a name that is no short line. Raises UsageError."""
    if not sound_name(name):
        raise UsageError(f"an operator's name is one line of 1 to {MAX_NAME} characters", "choose another")


def sound_name(name: str) -> bool:
    """Tell whether a name can stand in a table and in the audit trail."""
    return 1 <= len(name) <= MAX_NAME and name.isprintable() and name == name.strip()


def read_public(text: str) -> PublicOperator:
    """Read a public line. Raises DamagedData."""
    match = _LINE.fullmatch(text.removesuffix("\n").removesuffix("\r"))
    if match is None or not sound_name(match[2]):
        raise DamagedData("this is no operator's public key", "give the line that `transporter operator create` prints")
    return PublicOperator(match[2], base64.b64decode(match[1]))


def seal_operator(
    operator: OperatorKey,
    pass_phrase: bytes,
    *,
    parameters: KdfParameters = DEFAULT_PARAMETERS,
    clock: Clock = SYSTEM,
) -> str:
    """Return the private half as a file, under a pass phrase. Raises UsageError for an empty one."""
    salt = clock.random_bytes(SALT_LENGTH)
    kek = hash_password(pass_phrase, salt, parameters).kek
    public = operator.public
    sealed = wrap(kek, operator.private.private_bytes_raw(), _place(public.name, public.key), clock=clock)
    content: dict[str, Any] = {
        "transporter_operator": 1,
        "name": public.name,
        "public": base64.b64encode(public.key).decode(),
        "salt": base64.b64encode(salt).decode(),
        "memory_kib": parameters.memory_kib,
        "iterations": parameters.iterations,
        "lanes": parameters.lanes,
        "sealed": base64.b64encode(sealed).decode(),
    }
    return json.dumps(content | {"checksum": _checksum(content)}, indent=1) + "\n"


def open_operator(data: bytes, pass_phrase: bytes) -> OperatorKey:
    """Read a file. Raises DamagedData, UnsupportedFormat, WrongPassword."""
    parsed = _parsed(data)
    price = KdfParameters(parsed.memory_kib, parsed.iterations, parsed.lanes)
    kek = hash_password(pass_phrase, parsed.salt, price).kek
    try:
        secret = unwrap(kek, parsed.sealed, _place(parsed.name, parsed.public))
    except WrongKey:
        raise WrongPassword(
            f"the pass phrase is not the one of the operator's key {parsed.name!r}", "try another pass phrase"
        ) from None
    operator = _with(parsed.name, secret)
    if operator.public.key != parsed.public:
        raise _damaged("it was altered")
    return operator


def name_in(data: bytes) -> str:
    """Return whose key a file is, as it says itself. Raises DamagedData, UnsupportedFormat."""
    return _parsed(data).name


def _parsed(data: bytes) -> _File:
    try:
        content = json.loads(data) if len(data) <= MAX_FILE else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or "transporter_operator" not in content:
        raise _damaged("this is none, or only a part of one")
    if content["transporter_operator"] != 1:
        raise UnsupportedFormat("the operator's key is of a newer version", "use the version that made it")
    try:
        parsed = msgspec.convert(content, _File)
    except msgspec.ValidationError:
        raise _damaged("it is not as it was made") from None
    rest = {name: value for name, value in content.items() if name != "checksum"}
    if not sound_name(parsed.name) or not same(_checksum(rest).encode(), parsed.checksum.encode()):
        raise _damaged("it was altered or cut")
    return parsed


def _with(name: str, secret: bytes) -> OperatorKey:
    private = Ed25519PrivateKey.from_private_bytes(secret)
    return OperatorKey(PublicOperator(name, private.public_key().public_bytes_raw()), private)


def _place(name: str, public: bytes) -> bytes:
    return bind(b"operator private half", name.encode(), public)


def _checksum(content: dict[str, Any]) -> str:
    return blake3(json.dumps(content, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def _damaged(why: str) -> DamagedData:
    return DamagedData(f"the file of an operator's key is damaged: {why}", "use a copy of it, or make a new key")
