"""Making a home from a bundle: all of it, proved, or nothing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from transporter.bundle import manifest as names
from transporter.bundle.manifest import Manifest, Member
from transporter.bundle.reading import OpenBundle, Put
from transporter.bundle.staging import check_place, nobody_at_work, publish, staging_folder, sync_tree
from transporter.bundle.stream import damaged
from transporter.catalog import Catalog
from transporter.clock import Clock
from transporter.config import Config, load_config
from transporter.errors import ConfigError, NoKey
from transporter.home import Home
from transporter.keys.database import KeyDatabase
from transporter.keys.derive import KEY_LENGTH
from transporter.keys.master_key import MasterKey, store_master_key
from transporter.keys.open_database import MASTER_KEY_NAME
from transporter.link.identity import load_identity

_DATABASES: Final = (names.KEYS, names.CATALOG)


@dataclass(frozen=True)
class Imported:
    """What became of a bundle. ``aside``: where the home lies that was there before.

    ``missing``: name → path of repositories whose folders are not here; ``files``: others that the configuration names.
    """

    manifest: Manifest
    home: Path
    aside: Path | None
    missing: dict[str, Path]
    files: list[str]


def import_bundle(bundle: OpenBundle, path: Path, *, replace: bool, clock: Clock) -> Imported:
    """Make the home ``path`` from ``bundle``. See `staging` for its steps, and for what a kill leaves.

    Raises:
        ConfigError: there is a home already (``replace`` puts it aside), or the place cannot be used.
        JobBusy: a daemon or a job of that home runs.
        DamagedData, UnsupportedFormat: the bundle is not whole, or one of its members is not sound.
        DiskFull, JobFailed: the file system refuses.
    """
    path = Path(os.path.realpath(path))
    aside = check_place(path, replace=replace)
    with ExitStack() as stack:
        if aside:
            stack.enter_context(nobody_at_work(Home(path)))
        folder = stack.enter_context(staging_folder(path, clock))
        _write_members(bundle, folder)
        config = _prove(bundle, folder, clock)
        _take_up(bundle, config, Home(folder), Home(path), clock)
        sync_tree(folder)
        old = publish(folder, path, aside=aside, clock=clock)
    return Imported(bundle.manifest, path, old, _missing_repositories(config, Home(path)), _missing_files(config))


def check_import(path: Path, *, replace: bool) -> None:
    """Raise what can be known before anybody types a password: ConfigError, JobBusy."""
    path = Path(os.path.realpath(path))
    if check_place(path, replace=replace):
        with nobody_at_work(Home(path)):
            pass


def _write_members(bundle: OpenBundle, folder: Path) -> None:
    """Write every member to its place in ``folder``; the master key, once it is known whole, as its file."""
    master = bytearray()
    with ExitStack() as files:

        def taker(member: Member) -> Put:
            if member.name == names.MASTER:
                return master.extend
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            return files.enter_context(open(os.open(folder / member.name, flags, 0o600), "wb")).write

        bundle.each(taker)
    if len(master) != KEY_LENGTH:
        raise damaged("its master key is none")
    store_master_key(folder / MASTER_KEY_NAME, MasterKey(bytes(master)))


def _prove(bundle: OpenBundle, folder: Path, clock: Clock) -> Config:
    """Open everything as a node would. Raises DamagedData, UnsupportedFormat."""
    manifest = bundle.manifest
    for name in _DATABASES:
        _prove_database(folder / name)
    try:
        config = load_config(folder / names.CONFIG)
        identity = load_identity(folder, config.node.name, clock)
        with KeyDatabase(folder / names.KEYS, clock=clock) as keys:
            _prove_keys(bundle, keys)
        with Catalog(folder / names.CATALOG) as catalog:
            catalog.peers()
    except (ConfigError, NoKey) as error:
        # Its hash was right: so no sound node exported it.
        raise damaged(error.what) from None
    except RecursionError:
        raise damaged("its configuration is none") from None
    if (config.node.name, identity.pin) != (manifest.node, manifest.pin):
        raise damaged("its identity is not that of the node that it names")
    return config


def _prove_keys(bundle: OpenBundle, keys: KeyDatabase) -> None:
    """Open what the master key opens, and find the export itself in the trail, no later than the database remembers."""
    infos = keys.list()
    for info in infos:
        if not info.kms:  # the service that locks it may not be reached from here, or be why there is an import
            keys.user_key(info.name)
    keys.keysets()
    head, identity = keys.audit_head(), bundle.bundle_id.hex()
    keys.audit.verify(head)
    exported = (each["n"] for each in keys.audit.entries() if each.get("bundle") == identity)
    if next(exported, head.number + 1) > head.number or len(infos) != bundle.manifest.passwords:
        raise damaged("its key database and audit trail are not those of this export")


def _prove_database(path: Path) -> None:
    """Raise DamagedData unless this is a sound SQLite file that holds tables alone: no trigger, no view."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            kinds = {kind for (kind,) in database.execute("SELECT DISTINCT type FROM sqlite_master")}
            if not kinds <= {"table", "index"}:
                raise damaged(f"{path.name} holds what no home has in it")
            if database.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
                raise damaged(f"{path.name} is damaged within")
    except sqlite3.DatabaseError:
        raise damaged(f"{path.name} is no database") from None


def _take_up(bundle: OpenBundle, config: Config, staged: Home, home: Home, clock: Clock) -> None:
    """Make the changes that belong to the new place: where manifests lie, and the entry in the audit trail."""
    with Catalog(staged.catalog_db) as catalog:
        for job in config.jobs:
            last = catalog.last_point(job)
            if last is not None:
                catalog.put_last_point(replace(last, manifest=home.manifest_path(job)))
    with KeyDatabase(staged.keys_db, clock=clock) as keys:
        created = bundle.manifest.created_ns
        keys.came_from_bundle(bundle=bundle.bundle_id.hex(), exported_ns=created, home=str(home.path))


def _missing_repositories(config: Config, home: Home) -> dict[str, Path]:
    paths = {name: home.repository_path(name, settings.path) for name, settings in config.repositories.items()}
    return {name: path for name, path in paths.items() if not path.is_dir()}


def _missing_files(config: Config) -> list[str]:
    file = config.link.outbound_proxy_password_file
    return [file] if file and not os.path.exists(file) else []
