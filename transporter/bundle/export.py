"""Writing a bundle: sealed piece by piece under a temporary name, then published at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from transporter import __version__
from transporter.bundle import manifest as names
from transporter.bundle.manifest import Manifest, encode_manifest
from transporter.bundle.reading import Bundle
from transporter.bundle.snapshot import Snapshot, read_bounded, take_snapshot
from transporter.bundle.stream import SealedWriter, read_header
from transporter.catalog import SCHEMA_VERSION as CATALOG_VERSION
from transporter.catalog import Catalog
from transporter.clock import Clock
from transporter.config import Config, parse_config
from transporter.errors import ConfigError, DiskFull, JobFailed, UsageError
from transporter.given_path import unusable
from transporter.home import Home
from transporter.keys.database import KeyDatabase
from transporter.keys.database_schema import SCHEMA_VERSION as KEYS_VERSION
from transporter.keys.deeds import Deed, deed
from transporter.keys.password import DEFAULT_PARAMETERS, KdfParameters
from transporter.keys.private_file import sync_folder
from transporter.link.identity import Identity, load_identity

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Exported:
    """What was written, how long it is, and the id that the audit trail knows it by (32 bytes)."""

    manifest: Manifest
    bundle_id: bytes
    length: int


def export_bundle(
    home: Home,
    path: Path,
    password: bytes,
    *,
    with_keysets: bool,
    clock: Clock,
    parameters: KdfParameters = DEFAULT_PARAMETERS,
    approval: str = "",
) -> Exported:
    """Write a bundle of ``home`` to ``path``, which must not be there yet. The daemon and jobs may run.

    The export is entered in the audit trail before anything is read: the copy of it holds its own export.

    It is refused for a home that no import would take, and what was written is read back before it gets its name.

    ``approval``: what two operators signed, armoured, where they must agree to ``with_keysets``.

    Raises UsageError (the file is there, a password that is none), ConfigError, NoKey, DamagedData, DiskFull,
    JobFailed; NeedsApproval, RefusedByPeer.
    """
    if os.path.lexists(path):
        raise _exists(path)
    config, text = _configuration(home)
    identity = load_identity(home.path, config.node.name, clock)
    with KeyDatabase(home.keys_db, clock=clock) as keys, _published(path, clock) as file:
        writer = SealedWriter(file, password, parameters, clock)
        if approval:
            keys.present(approval)
        _check(keys)
        entry: dict[str, str | bool] = {"bundle": writer.bundle_id.hex(), "file": str(path), "keysets": with_keysets}
        if with_keysets:
            # Used up before the copy is taken: the bundle, too, has it as used.
            with keys.approved(giving_out_keysets(config), "config.export", **entry):
                pass
        else:
            keys.record("config.export", **entry)
        with take_snapshot(home, text, keys, with_keysets=with_keysets) as snapshot:
            manifest = _manifest(home, config, identity, keys, snapshot, with_keysets=with_keysets, clock=clock)
            writer.write(encode_manifest(manifest))
            for member in manifest.members:
                for piece in snapshot.pieces(member.name):
                    writer.write(piece)
        writer.finish()
        length = file.tell()
        _read_back(file, password)
    return Exported(manifest, writer.bundle_id, length)


def giving_out_keysets(config: Config) -> Deed:
    """Return what it is to write a bundle with private halves: as much as `keyset export --private` of each."""
    return deed("config.export-keysets", config.node.name)


def _check(keys: KeyDatabase) -> None:
    """Find now what would have an import refused, not when the node has burnt down. Raises DamagedData, NoKey."""
    for info in keys.list():
        if not info.kms:  # what a service locks opens where that service is, or not at all
            keys.user_key(info.name)
    keys.audit.verify(keys.audit_head())


def _read_back(file: BinaryIO, password: bytes) -> None:
    file.flush()
    file.seek(0)
    Bundle(file, read_header(file)).unlock(password).prove()


def _configuration(home: Home) -> tuple[Config, bytes]:
    limit = names.LIMITS[names.CONFIG]
    try:
        text = read_bounded(home.config_path, limit)
        config = parse_config(text.decode(), home.config_path)
    except OSError as error:
        raise ConfigError(f"cannot read {home.config_path}: {error.strerror}", "check its permissions") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{home.config_path} is not UTF-8", "save the file as UTF-8") from None
    if len(text) > limit:
        raise ConfigError(f"{home.config_path} is longer than {limit >> 20} MiB", "shorten it")
    return config, text


def _manifest(
    home: Home,
    config: Config,
    identity: Identity,
    keys: KeyDatabase,
    snapshot: Snapshot,
    *,
    with_keysets: bool,
    clock: Clock,
) -> Manifest:
    private = [info.public.name for info in keys.keysets() if info.private is not None]
    with Catalog(home.catalog_db) as catalog:
        peers = len(catalog.peers())
    return Manifest(
        node=config.node.name,
        pin=identity.pin,
        created_ns=clock.now_ns(),
        program=__version__,
        keys_version=KEYS_VERSION,
        catalog_version=CATALOG_VERSION,
        members=snapshot.members(),
        repositories={name: settings.path for name, settings in config.repositories.items()},
        jobs=len(config.jobs),
        peers=peers,
        passwords=len(keys.list()),
        private_keysets=private if with_keysets else [],
        left_out=[] if with_keysets else private,
    )


@contextmanager
def _published(path: Path, clock: Clock) -> Iterator[BinaryIO]:
    """Yield a file that gets the name ``path`` when the body has ended well: on the disk, and never over another.

    Mode 0600. A kill leaves at most the temporary name, `.NAME.<random>.part`; what it holds is sealed.
    """
    temporary = path.with_name(f".{path.name}.{clock.random_bytes(8).hex()}.part")
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(path, error) from None
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _name(temporary, path)
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"no room left for {path}", "free some room, or choose another place") from None
        where = error.filename or path
        raise JobFailed(f"{where} cannot be used: {error.strerror}", "look at the disk and its rights") from None
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _name(temporary: Path, path: Path) -> None:
    """Give the file its name, unless another has it. Raises UsageError, OSError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno in _FULL or os.path.lexists(path):
            raise
        # File systems of removable media know no second name; that nobody took this one meanwhile was just looked at.
        temporary.rename(path)


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path} is there already", "choose another name: a bundle never replaces a file")
