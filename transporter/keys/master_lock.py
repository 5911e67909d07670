"""Where the master key of a key database lies: a row of that database, public, and part of the same transactions.

It stands there and not in config.toml because both change together: a key database is opened by exactly the way that
its own row names, at whatever moment a process that was moving it died.

Row ``lock`` of the table ``meta``: JSON of `Lock`, at most 4 KiB; none in databases of before: a file `master.key`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from transporter.errors import DamagedData
from transporter.keys.kms import MAX_WRAPPED_BY_KMS

MAX_LOCK: Final = 4096
Kind = Literal["file", "credential", "keyring", "passphrase", "kms"]


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``name``: of the file beside the database, the credential, the keyring's entry, or the service.

    ``salt``, ``memory_kib``, ``iterations``, ``lanes``: of a pass phrase. ``sealed``: the master key, wrapped under the
    pass phrase (wrap.py) or by the service.
    """

    kind: Kind
    name: Annotated[str, Meta(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    salt: Annotated[bytes, Meta(max_length=64)] = b""
    memory_kib: int = 0
    iterations: int = 0
    lanes: int = 0
    sealed: Annotated[bytes, Meta(max_length=MAX_WRAPPED_BY_KMS)] = msgspec.field(default=b"")

    def __repr__(self) -> str:
        return f"Lock({self.text()})"

    def text(self) -> str:
        """Return it as config.toml writes it."""
        if self.kind == "credential":
            return self.kind if self.name == DEFAULT_CREDENTIAL else f"{self.kind}:{self.name}"
        return f"{self.kind}:{self.name}" if self.kind == "kms" else self.kind


DEFAULT_CREDENTIAL: Final = "transporter-master-key"
DEFAULT_FILE: Final = "master.key"


def encode_lock(lock: Lock) -> bytes:
    """Return the row."""
    return msgspec.json.encode(lock)


def decode_lock(row: bytes | None) -> Lock:
    """Read the row. Raises DamagedData."""
    if row is None:
        return Lock("file", DEFAULT_FILE)
    try:
        if len(row) > MAX_LOCK:
            raise ValueError
        lock = msgspec.json.decode(row, type=Lock)
        if lock.kind == "file" and ("/" in lock.name or lock.name in {"", ".", ".."}):
            raise ValueError
    except ValueError:
        raise DamagedData(
            "the key database does not say in any known way where its master key lies", "put back a copy of it"
        ) from None
    return lock
