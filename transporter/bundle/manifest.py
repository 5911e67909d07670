"""What a bundle holds: the list at its beginning, and how large each member may be.

    plaintext of a bundle = length u32 | manifest (msgpack of `Manifest`) | the members' bytes, in the manifest's order

A member's name chooses one of the places below; no path ever comes out of a bundle. All members are there, each once,
in the order of `LIMITS`. Versions of the two databases stand in the manifest, so that a newer one is refused before
anything is written.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from transporter.bundle.stream import HEADER_LENGTH, SEGMENT, TAG, damaged
from transporter.catalog import SCHEMA_VERSION as CATALOG_VERSION
from transporter.errors import UnsupportedFormat
from transporter.keys.database_schema import SCHEMA_VERSION as KEYS_VERSION

CONFIG: Final = "config.toml"
IDENTITY_KEY: Final = "identity.key"
IDENTITY_CERTIFICATE: Final = "identity.crt"
MASTER: Final = "master"
KEYS: Final = "keys.db"
AUDIT: Final = "audit.log"
CATALOG: Final = "catalog.db"

MAX_DATABASE: Final = 512 << 20
"""Bytes of a database or trail. A database is copied in memory, so that it never lies on a disk in clear: that takes
two and a half times its size. Some two million restore points have room in it."""

LIMITS: Final = {
    CONFIG: 1 << 20,
    IDENTITY_KEY: 16 << 10,
    IDENTITY_CERTIFICATE: 16 << 10,
    MASTER: 32,
    KEYS: MAX_DATABASE,
    AUDIT: MAX_DATABASE,
    CATALOG: MAX_DATABASE,
}
"""Every member, in its order, and how many bytes it has at most."""

MAX_MANIFEST: Final = 2 << 20
"""Bytes: names and paths of all repositories come out of a config.toml of at most 1 MiB."""

_PLAIN_AT_MOST: Final = 4 + MAX_MANIFEST + sum(LIMITS.values())
MAX_FILE: Final = HEADER_LENGTH + _PLAIN_AT_MOST + TAG * (_PLAIN_AT_MOST // SEGMENT + 1)
"""Bytes of a whole bundle: a longer file is none, and is not read."""

_Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
_Path = Annotated[str, Meta(max_length=1 << 20)]


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of them: its name out of `LIMITS`, how many bytes, and their BLAKE3."""

    name: str
    length: Annotated[int, Meta(ge=0)]
    blake3: _Hash


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which node, when (its own clock), and what is in it. ``pin``: SHA-256 of the node's public key.

    ``repositories``: name → path, empty for one inside the home; their data is not in a bundle. ``private_keysets``:
    names of keysets whose private halves are in it; ``left_out``: of those that the node has and that are not.
    """

    node: _Name
    pin: _Hash
    created_ns: _Time
    program: _Name
    keys_version: _Count
    catalog_version: _Count
    members: Annotated[list[Member], Meta(max_length=len(LIMITS))]
    repositories: dict[_Name, _Path]
    jobs: _Count
    peers: _Count
    passwords: _Count
    private_keysets: list[_Name]
    left_out: list[_Name]


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the beginning of a bundle's plaintext, its length in front."""
    body = msgspec.msgpack.encode(manifest)
    if len(body) > MAX_MANIFEST:
        raise ValueError("a manifest is too long")
    return len(body).to_bytes(4, "big") + body


def decode_manifest(body: bytes) -> Manifest:
    """Read a manifest strictly. Raises DamagedData, and UnsupportedFormat for databases of a newer version."""
    try:
        manifest = msgspec.msgpack.decode(body, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise damaged("its list of contents is not one that this version writes") from None
    if manifest.keys_version > KEYS_VERSION or manifest.catalog_version > CATALOG_VERSION:
        raise UnsupportedFormat(
            f"the bundle was exported by a newer version ({manifest.program})",
            "import it with that version or a later one",
        )
    if [member.name for member in manifest.members] != list(LIMITS):
        raise damaged("it does not hold what a bundle holds")
    if any(member.length > LIMITS[member.name] for member in manifest.members):
        raise damaged("a member is larger than any can be")
    return manifest
