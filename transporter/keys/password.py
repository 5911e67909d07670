"""From a password to the user key: Argon2id (RFC 9106), then HKDF into a KEK and a verifier.

A password is *bytes used as given*: no Unicode normalisation, no trimming, no change of case. The one thing that is
taken off is the newline at the end of a password file (see `read_password_file`), since editors add it unasked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from transporter.errors import DamagedData, JobFailed, UsageError
from transporter.keys.derive import KEY_LENGTH, PASSWORD_KEK, PASSWORD_VERIFIER, hkdf, same

SALT_LENGTH: Final = 16
"""Bytes of a salt, no more and no fewer (RFC 9106 section 3.1 recommends 16)."""

MAX_MEMORY_KIB: Final = 1024 * 1024
"""1 GiB: RFC 9106's second option asks for 64 MiB; beyond 1 GiB a hostile slot could exhaust a small node."""

MAX_ITERATIONS: Final = 16
"""With the most memory, 16 passes take some ten seconds: dear, yet no standstill."""

MAX_LANES: Final = 16
"""Each lane is a thread; more than a small server has is of use to an attacker only."""

MAX_PASSWORD_LENGTH: Final = 4096
"""Bytes. Longer ones are a wrong file given by mistake, not a password."""


@dataclass(frozen=True, slots=True)
class KdfParameters:
    """The price of one guess. Out of range raises `DamagedData`: such numbers come from stored bytes only.

    ``memory_kib`` 8 × lanes … 1 GiB, ``iterations`` 1 … 16, ``lanes`` 1 … 16. The default is the second recommended
    option of RFC 9106: 64 MiB, 3 passes, 4 lanes.
    """

    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4

    def __post_init__(self) -> None:
        fine = (
            1 <= self.lanes <= MAX_LANES
            and 1 <= self.iterations <= MAX_ITERATIONS
            and 8 * self.lanes <= self.memory_kib <= MAX_MEMORY_KIB
        )
        if not fine:
            raise DamagedData(
                "the password parameters are outside what this version accepts",
                "the bytes were damaged or made to exhaust this machine; use another copy of the slot",
            )


DEFAULT_PARAMETERS: Final = KdfParameters()


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """The user key: what stands for a password once it has been stretched.

    ``raw`` is the Argon2id output (32 bytes) and is what the key database keeps, sealed. ``kek`` wraps storage keys.
    ``verifier`` is public (it stands in slots) and tells a wrong password from damaged data. ``salt`` and
    ``parameters`` are those it was made with: a slot that named others could never be opened.
    """

    kek: bytes = field(repr=False)
    verifier: bytes = field(repr=False)
    raw: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    parameters: KdfParameters

    @classmethod
    def from_raw(cls, raw: bytes, salt: bytes, parameters: KdfParameters) -> PasswordHash:
        """Split a raw Argon2id output, which anyone who has it can do without the password."""
        check_salt(salt)
        return cls(hkdf(raw, PASSWORD_KEK), hkdf(raw, PASSWORD_VERIFIER), raw, bytes(salt), parameters)

    def verifies(self, verifier: bytes) -> bool:
        """Say whether ``verifier`` was made from the same password, salt and parameters."""
        return same(self.verifier, verifier)


@dataclass(frozen=True, slots=True)
class UserKey:
    """A password hash under the name that this node's operators gave the password.

    ``kms``: the service that locks the hash here, and gets a slot on every new point; empty for none.
    """

    name: str
    hash: PasswordHash = field(repr=False)
    kms: str = ""

    @property
    def salt(self) -> bytes:
        """The 16-byte salt it was made with."""
        return self.hash.salt

    @property
    def params(self) -> KdfParameters:
        """The price it was made at."""
        return self.hash.parameters


def check_salt(salt: bytes) -> None:
    """Refuse a salt that is not exactly 16 bytes."""
    if len(salt) != SALT_LENGTH:
        raise DamagedData(f"a salt has {SALT_LENGTH} bytes, not {len(salt)}", "use another copy of the slot")


def check_password(password: bytes) -> None:
    """Refuse an empty or an absurdly long password (`UsageError`)."""
    if not password:
        raise UsageError("the password is empty", "give at least one character")
    if len(password) > MAX_PASSWORD_LENGTH:
        raise UsageError(
            f"the password is longer than {MAX_PASSWORD_LENGTH} bytes", "check that the right file was given"
        )


def hash_password(password: bytes, salt: bytes, parameters: KdfParameters = DEFAULT_PARAMETERS) -> PasswordHash:
    """Stretch ``password`` (bytes as given) with Argon2id version 1.3; releases the GIL, costs ~0.1–0.3 s.

    Raises:
        UsageError: the password is empty or longer than 4,096 bytes.
        DamagedData: the salt is not 16 bytes (parameters were checked when they were built).
        JobFailed: the machine has not the memory that the parameters ask for.
    """
    # Imported here: most commands work with hashes that are kept, and stretch nothing.
    from argon2.exceptions import HashingError
    from argon2.low_level import ARGON2_VERSION, Type, hash_secret_raw

    check_password(password)
    check_salt(salt)
    try:
        raw = hash_secret_raw(
            secret=bytes(password),
            salt=bytes(salt),
            time_cost=parameters.iterations,
            memory_cost=parameters.memory_kib,
            parallelism=parameters.lanes,
            hash_len=KEY_LENGTH,
            type=Type.ID,
            version=ARGON2_VERSION,
        )
    except (HashingError, MemoryError):
        raise JobFailed(
            f"the password could not be stretched: {parameters.memory_kib // 1024} MiB of memory are needed for it",
            "free some memory and try again",
        ) from None
    return PasswordHash.from_raw(raw, salt, parameters)


def strip_newline(content: bytes) -> bytes:
    r"""Take off exactly one newline at the end, ``\n`` or ``\r\n``; a second one belongs to the password."""
    if content.endswith(b"\r\n"):
        return content[:-2]
    return content.removesuffix(b"\n")


def read_password_file(path: Path) -> bytes:
    r"""Return the password in a file: its bytes without exactly ONE newline (``\n`` or ``\r\n``) at the end.

    So ``printf x``, ``echo x`` and an editor on either system give the same password; spaces, other newlines and a
    lone ``\r`` belong to the password. Pipes and ``/dev/stdin`` can be read as well as files.

    Raises:
        UsageError: not readable, empty (also after the newline is gone), or longer than 4,096 bytes.
    """
    try:
        with path.open("rb", buffering=0) as file:
            content = b""
            while len(content) <= MAX_PASSWORD_LENGTH + 2 and (piece := file.read(MAX_PASSWORD_LENGTH)):
                content += piece
    except OSError as error:
        raise UsageError(
            f"the password file {path} cannot be read: {error.strerror}", "check its path and its rights"
        ) from None
    password = strip_newline(content)
    check_password(password)
    return password
