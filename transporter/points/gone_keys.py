"""What becomes of the storage keys of restore points that have gone: they go, too, unless the point lies elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transporter.catalog import Catalog
from transporter.config import Config
from transporter.home import Home
from transporter.keys.database import KeyDatabase
from transporter.link.identity import Identity, tenant_name
from transporter.repository.whereabouts import lying_there

ANYWHERE = ""
"""Of what went from a repository of this node: every destination of this home counts as elsewhere."""


@dataclass(frozen=True)
class GoneKeys:
    """``own``: the tenant that this node is in its own ``repositories``, which are given by their names."""

    catalog: Catalog
    keys: KeyDatabase = field(repr=False)
    repositories: Mapping[str, Path]
    own: str

    def drop(self, place: str, points: Sequence[bytes]) -> None:
        """Forget the storage keys of points that went from ``place``: PEER/REPOSITORY, or ANYWHERE for one of ours.

        Not of those that are known to lie at another destination of this home, or in a repository of this node, too.
        It holds for what a tenant removes as well: it may have copies of points of this home, under their ids.
        """
        if not points:
            return
        kept = self.catalog.elsewhere(place, points)
        for root in self.repositories.values():
            kept |= lying_there(root, self.own, points)
        self.keys.drop_storage_keys([point for point in points if point not in kept])


def gone_keys(home: Home, config: Config, identity: Identity, catalog: Catalog, keys: KeyDatabase) -> GoneKeys:
    """Return what drops the keys of a home."""
    roots = {
        name: Path(settings.path) if settings.path else home.repository_path(name)
        for name, settings in config.repositories.items()
    }
    return GoneKeys(catalog, keys, roots, tenant_name(config.node.name, identity.pin))
