"""An escrow and a backup node are two homes: who steals one must not have the other's keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transporter.errors import UsageError

if TYPE_CHECKING:
    from transporter.config import Config
    from transporter.home import Home


def refuse_escrow(home: Home) -> None:
    """Raise UsageError where the private half of a keyset is kept."""
    from transporter.keys.database_schema import is_escrow

    if is_escrow(home.keys_db):
        raise UsageError(
            "this home is an escrow: it keeps the private half of a keyset",
            "make backups in a home of their own: transporter --home NODE init",
        )


def refuse_backup_node(home: Home, config: Config) -> None:
    """Raise UsageError where jobs, repositories, peers or passwords are."""
    from transporter.catalog import Catalog
    from transporter.keys.database import KeyDatabase

    with Catalog(home.catalog_db) as catalog, KeyDatabase(home.keys_db) as keys:
        if config.jobs or config.repositories or catalog.peers() or keys.list():
            raise UsageError(
                "this home is a backup node: who steals it would have the second key beside the first",
                "keep private halves in a home of their own, the escrow: transporter --home ESCROW init",
            )
