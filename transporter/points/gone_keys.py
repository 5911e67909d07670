"""What becomes of the storage keys of restore points that have gone: they go, too, unless the point lies elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    """Those that a home has."""

    home: Home
    config: Config
    identity: Identity
    catalog: Catalog
    keys: KeyDatabase = field(repr=False)

    def drop(self, place: str, points: Sequence[bytes]) -> None:
        """Forget the storage keys of points that went from ``place``: PEER/REPOSITORY, or ANYWHERE for one of ours.

        Not of those that are known to lie at another destination of this home, or in a repository of this node, too.
        It holds for what a tenant removes as well: it may have copies of points of this home, under their ids.
        """
        if not points:
            return
        own = tenant_name(self.config.node.name, self.identity.pin)
        kept = self.catalog.elsewhere(place, points)
        for name, settings in self.config.repositories.items():
            kept |= lying_there(self.home.repository_path(name, settings.path), own, points)
        self.keys.drop_storage_keys([point for point in points if point not in kept])
