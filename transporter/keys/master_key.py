"""The master key of a home: seals the secret columns of the key database.

File `master.key`, mode 0600: one line ``transporter-master-key-1 <64 hex digits>``. A thief of `keys.db` alone (a
backup of it, say) gets nothing; a thief of the whole home gets everything. A pass phrase or a KMS over it comes later.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final

from transporter.clock import Clock
from transporter.errors import DamagedData, NoKey
from transporter.keys.derive import KEY_LENGTH, MASTER_ID, MASTER_KEK, hkdf
from transporter.keys.private_file import check_private, create_private
from transporter.keys.secret import SYSTEM, Secret

_MARK: Final = "transporter-master-key-1 "


class MasterKey(Secret):
    """``key_id`` (32 bytes, public) is kept in the database, to tell a wrong master key from damage."""

    __slots__ = ("kek", "key_id")
    KIND: ClassVar[str] = "master key"

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self.key_id = hkdf(self._secret, MASTER_ID)
        self.kek = hkdf(self._secret, MASTER_KEK)


def load_master_key(path: Path, *, create: bool, clock: Clock = SYSTEM) -> MasterKey:
    """Return the master key in ``path``, making it first where ``create`` allows and there is none.

    Raises:
        ConfigError: the file is open to other users.
        NoKey: there is none, and a new one would be of no use.
        DamagedData: the file is not what was written.
    """
    if not check_private(path):
        if not create:
            raise NoKey(f"{path} is missing, and the key database cannot be read without it", "put back the file")
        line = _MARK + clock.random_bytes(KEY_LENGTH).hex() + "\n"
        try:
            create_private(path, line.encode())
        except FileExistsError:
            pass  # another process was first: its key is the one
        check_private(path)
    content = path.read_bytes()
    try:
        text = content.decode("ascii").removesuffix("\n")
        if not text.startswith(_MARK) or len(text) != len(_MARK) + 2 * KEY_LENGTH:
            raise ValueError
        return MasterKey(bytes.fromhex(text.removeprefix(_MARK)))
    except ValueError:
        raise DamagedData(f"{path} is damaged: it holds no master key", "put back the file") from None
