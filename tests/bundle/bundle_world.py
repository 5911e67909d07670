"""Homes with something in every place, their bundles, and bundles that nobody exported."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path

from transporter.bundle.export import Exported, export_bundle
from transporter.bundle.importing import Imported, import_bundle
from transporter.bundle.reading import open_bundle
from transporter.bundle.stream import SealedReader, SealedWriter, open_stream, read_header
from transporter.catalog import Catalog, Invitation, LastPoint, Peer
from transporter.clock import SystemClock
from transporter.config import JobConfig
from transporter.config_edit import put_job, write_skeleton
from transporter.home import Home
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.database import KeyDatabase
from transporter.keys.password import KdfParameters
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.keys.storage_key import StorageKey
from transporter.link.identity import create_identity

CHEAP = KdfParameters(8, 1, 1)
PASSWORD = b"the password of the bundle"
POINT = b"p" * 16


class Drawn(SystemClock):
    """A clock whose random bytes are given: a key is used twice only where a test forges."""

    def __init__(self, draws: list[bytes]) -> None:
        self.draws = draws

    def random_bytes(self, count: int) -> bytes:
        return self.draws.pop(0) if self.draws else super().random_bytes(count)


def sealed(pieces: Iterable[bytes], password: bytes = PASSWORD, draws: Iterable[bytes] = ()) -> bytes:
    """Any plaintext as a bundle's outer form; ``draws``: its salt and its id."""
    file = io.BytesIO()
    writer = SealedWriter(file, password, CHEAP, Drawn(list(draws)))
    for piece in pieces:
        writer.write(piece)
    writer.finish()
    return file.getvalue()


def resealed(data: bytes, pieces: Iterable[bytes]) -> bytes:
    """Another plaintext as that very bundle, with its salt and its id: what is inside is all that does not fit."""
    header = read_header(io.BytesIO(data))
    return sealed(pieces, draws=[header.salt, header.bundle_id])


def unsealed(data: bytes, password: bytes = PASSWORD) -> SealedReader:
    """A reader of a bundle that lies in memory."""
    file = io.BytesIO(data)
    return open_stream(file, read_header(file), password)


def whole(data: bytes, password: bytes = PASSWORD, length: int = -1) -> bytes:
    """All of its plaintext, proved to the end; ``length`` of it where that is known."""
    reader, found = unsealed(data, password), bytearray()
    while len(found) != length:
        found += reader.read(1 << 16)
        if length < 0 and reader._ended and not reader._opened:
            break
    reader.finish()
    return bytes(found)


class Node:
    """A home that has something in every place a bundle takes from, and the secrets that it holds."""

    def __init__(self, path: Path) -> None:
        self.clock = SystemClock()
        self.home = Home.create(path)
        self.identity = create_identity(path, "office", self.clock)
        write_skeleton(self.home.config_path, "office", "")
        job = JobConfig(to="offsite/main", encrypt="source", password="office", paths=["/srv/docs"])
        put_job(self.home.config_path, "docs", job)
        with self.keys() as keys, Catalog(self.home.catalog_db) as catalog:
            key = keys.add_password("office", b"correct horse battery staple")
            self.storage_key, self.domain = StorageKey.generate(), ChunkIdKey.generate()
            keys.put_storage_key(POINT, self.storage_key, key)
            keys.put_domain_key("docs", self.domain, key)
            self.session_key, self.metakey = SessionKey.generate(), MetaKey.generate()
            keys.remember_run("docs", b"r" * 16, self.session_key, self.metakey, key)
            catalog.put_peer(Peer("offsite", hashlib.sha256(b"peer").digest(), "192.0.2.1:6180", offers=("main",)))
            number = catalog.run_started("docs", "backup", 1)
            catalog.run_finished(number, finished_ns=2, exit_status=0, point=POINT)
            manifest = self.home.manifest_path("docs")
            catalog.put_last_point(LastPoint("docs", "offsite/main", POINT, b"h" * 32, b"d" * 16, manifest, 2))
            catalog.add_invitation(Invitation(b"i" * 32, "main", 1 << 62))
            self.secrets = [
                keys.user_key("office").hash.raw,
                *(key.secret for key in (self.storage_key, self.domain, self.session_key, self.metakey)),
            ]
        self.master = bytes.fromhex((path / "master.key").read_text().split()[1])
        self.secrets += [self.master, self.home.identity_key.read_bytes().splitlines()[1]]

    def keys(self) -> KeyDatabase:
        return KeyDatabase(self.home.keys_db, clock=self.clock, parameters=CHEAP)

    def export(self, to: Path, *, with_keysets: bool = False) -> Exported:
        return export_bundle(self.home, to, PASSWORD, with_keysets=with_keysets, clock=self.clock, parameters=CHEAP)


def imported(bundle: Path, home: Path, *, replace: bool = False, password: bytes = PASSWORD) -> Imported:
    with open_bundle(bundle) as file:
        return import_bundle(file.unlock(password), home, replace=replace, clock=SystemClock())


def nothing_left(folder: Path, *but: str) -> bool:
    """Whether a folder holds only what is named: no home, no staging folder, no temporary file."""
    return set(os.listdir(folder)) == set(but)
