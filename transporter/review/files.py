"""Of files: who else can read keys, and what a thief of a copy would have."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from transporter.config import RepositoryConfig
from transporter.home import Home
from transporter.keys.open_database import MASTER_KEY_NAME
from transporter.review.finding import Finding, Severity
from transporter.review.installation import Installation

# What must be nobody else's business; config.toml holds no secret, but says where the data is.
_PRIVATE = ("keys.db", "keys.db-wal", MASTER_KEY_NAME, "audit.log", "identity.key", "catalog.db", "config.toml")


def review_private_files(home: Home) -> Iterator[Finding]:
    """Yield files that others may use. Before anything is opened: what is open to others is not opened."""
    for path in (home.path, *(home.path / name for name in _PRIVATE)):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            continue
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o077:
            right = "700" if path == home.path else "600"
            yield Finding(
                "readable-by-others",
                Severity.SERIOUS,
                f"file {path.name if path != home.path else path}",
                f"others may use it (mode {mode:04o})",
                f"chmod {right} {path}; if others had access, change the passwords",
            )
        elif found.st_uid != os.geteuid():
            yield Finding(
                "of-another-user",
                Severity.WARNING,
                f"file {path.name}",
                "it belongs to another user than the one who runs this",
                f"run it as that user, or chown {path}",
            )


def review_repositories(home: Installation) -> Iterator[Finding]:
    """Yield what is found about the repositories of this node."""
    for name, settings in home.config.repositories.items():
        place = home.home.repository_path(name, settings.path)
        if place.is_dir() and stat.S_IMODE(place.stat().st_mode) & 0o077:
            yield Finding(
                "readable-by-others",
                Severity.WARNING,
                f"repository {name}",
                "other users of this machine may look into it",
                f"chmod 700 {place}",
            )
        if not settings.encrypt_at_rest:
            yield Finding(
                "repository-plain",
                Severity.NOTE,
                f"repository {name}",
                "jobs that are not sealed lie in it as they are",
                f'encrypt_at_rest = "PASSWORD" in [repositories.{name}], for new jobs',
            )
        if float(settings.keep_replaced_slots) <= 0:
            yield Finding(
                "replaced-slots-not-kept",
                Severity.WARNING,
                f"repository {name}",
                "a thief of a tenant's identity can make its points useless at once, by replacing their slots",
                f"take keep_replaced_slots out of [repositories.{name}]",
            )
        yield from _removable(name, settings)


def _removable(name: str, settings: RepositoryConfig) -> Iterator[Finding]:
    """How easily what lies in a repository can be deleted, by whom."""
    if not settings.immutable:
        yield Finding(
            "no-immutability",
            Severity.WARNING,
            f"repository {name}",
            "nothing in it is locked: whoever has the right to remove points, or this node, can remove them all",
            f'immutable = "14d" in [repositories.{name}], and another copy that this machine cannot delete',
        )
    else:
        yield Finding(
            "immutable-but-for-root",
            Severity.NOTE,
            f"repository {name}",
            "its points are locked for a while, but whoever takes over this machine can delete its files: no lock "
            "outlives its root",
            "keep another copy that this machine cannot delete: another peer, a snapshot, a disk on a shelf",
        )
    if not settings.recycle:
        yield Finding(
            "no-recycle-bin",
            Severity.NOTE,
            f"repository {name}",
            "what is removed is gone at once, and tenants are not told before it is",
            f'recycle = "7d" in [repositories.{name}]',
        )


def review_copies_of_home(home: Installation) -> Iterator[Finding]:
    """Yield what a copy of this folder would give away."""
    if home.passwords and (home.home.path / MASTER_KEY_NAME).exists():
        yield Finding(
            "master-key-beside-database",
            Severity.NOTE,
            f"file {MASTER_KEY_NAME}",
            "who has a copy of the whole home (its backup, a stolen disk) has its keys",
            "keep the home on an encrypted disk, and its backups sealed",
        )
