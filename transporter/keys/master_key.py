"""The master key of a home: seals the secret columns of the key database.

As text one line, ``transporter-master-key-1 <64 hex digits>``. Where it lies is the affair of master_sources.py; by
default in the file `master.key`, mode 0600: then a thief of `keys.db` alone (a backup of it, say) gets nothing, and a
thief of the whole home everything.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final

from transporter.errors import DamagedData, NoKey
from transporter.keys.derive import KEY_LENGTH, MASTER_ID, MASTER_KEK, hkdf
from transporter.keys.private_file import check_private, create_private
from transporter.keys.secret import Secret

_MARK: Final = "transporter-master-key-1 "
_LONGEST: Final = 256
"""Bytes that are read of a file: a longer one is none of ours."""


class MasterKey(Secret):
    """``key_id`` (32 bytes, public) is kept in the database, to tell a wrong master key from damage."""

    __slots__ = ("kek", "key_id")
    KIND: ClassVar[str] = "master key"

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self.key_id = hkdf(self._secret, MASTER_ID)
        self.kek = hkdf(self._secret, MASTER_KEK)


def master_key_line(key: MasterKey) -> str:
    """Return the key as it stands in a file, a credential or a keyring: one line."""
    return f"{_MARK}{key.secret.hex()}\n"


def store_master_key(path: Path, key: MasterKey) -> None:
    """Write the file of a master key that came out of a bundle. Raises FileExistsError, DiskFull, ConfigError."""
    create_private(path, master_key_line(key).encode())


def parse_master_key(content: bytes, where: str) -> MasterKey:
    """Read that line; ``where`` it stood is for the message. Raises DamagedData."""
    try:
        text = content.decode("ascii").removesuffix("\n")
        if not text.startswith(_MARK) or len(text) != len(_MARK) + 2 * KEY_LENGTH:
            raise ValueError
        return MasterKey(bytes.fromhex(text.removeprefix(_MARK)))
    except ValueError:
        raise DamagedData(f"{where} is damaged: it holds no master key", "put back the file") from None


def load_master_key(path: Path) -> MasterKey:
    """Return the master key in the file ``path``.

    Raises:
        ConfigError: the file is open to other users.
        NoKey: there is none.
        DamagedData: the file is not what was written.
    """
    if not check_private(path):
        raise NoKey(f"{path} is missing, and the key database cannot be read without it", "put back the file")
    with path.open("rb") as file:
        return parse_master_key(file.read(_LONGEST), str(path))
