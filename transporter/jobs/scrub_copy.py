"""Where a damaged repository is healed from: another repository of this node, or a folder with a copy.

A copy made file by file has every chunk under the name that it has in the original. One that `copy` made has the chunks
of a domain in another one. Which one is told by the points that both have: what has one hash needs the same chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from transporter.clock import Clock
from transporter.config import Config
from transporter.errors import DamagedData, UsageError
from transporter.home import Home
from transporter.repository import ChunkRecord, PointRef, Repository
from transporter.repository.supply import Copy

T = TypeVar("T")


def place_of(home: Home, config: Config, name: str) -> Path:
    """Return where a repository of the configuration lies. Raises ConfigError."""
    settings = config.repository(name)
    return home.repository_path(name, settings.path)


def place_of_copy(home: Home, config: Config, source: str) -> Path:
    """Return the folder that ``source`` means: a repository of the configuration, or a path with a ``/`` in it."""
    if source in config.repositories:
        return place_of(home, config, source)
    path = Path(source)
    if not path.is_absolute():
        raise UsageError(
            f"--from {source}: neither a repository of this node, nor PEER/REPOSITORY, nor an absolute path",
            "`transporter repository list` shows the repositories",
        )
    return path


def same_domains(store: Repository, there: Iterable[tuple[bytes, bytes, T]]) -> dict[bytes, list[T]]:
    """Return for each domain of a repository what holds the same chunks elsewhere, of the newest points first.

    ``there``: of the points elsewhere, oldest first: id, hash where it was made, and what is to be returned for it
    (hashable).
    """
    here: dict[tuple[bytes, bytes], bytes] = {}
    for tenant in store.tenants():
        for ref in store.points(tenant):
            named = name_of(ref)
            if named is not None:
                here[named] = ref.domain
    found: dict[bytes, dict[T, None]] = {}
    for point, point_hash, one in there:
        domain = here.get((point, point_hash))
        if domain is not None:
            found.setdefault(domain, {})[one] = None
    return {domain: list(reversed(those)) for domain, those in found.items()}


def name_of(ref: PointRef) -> tuple[bytes, bytes] | None:
    """Return id and hash of a point where it was made; None for one that was sealed anew: its chunks are its own."""
    if ref.origin is None:
        return ref.point_id, ref.hash
    return None if ref.origin.resealed else (ref.point_id, ref.origin.hash)


class CopyHere:
    """A repository of this node that has the chunks of another one, under the same names or others."""

    def __init__(self, copy: Repository, domains: dict[bytes, list[bytes]]) -> None:
        self._copy = copy
        self._domains = domains

    def _of(self, domain: bytes) -> list[bytes]:
        return [domain, *(each for each in self._domains.get(domain, ()) if each != domain)]

    def have(self, domain: bytes, ids: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        """Return the keys under which each chunk is stored."""
        found = [self._copy.have(each, list(ids)) for each in self._of(domain)]
        return [tuple(dict.fromkeys(key for keys in each for key in keys)) for each in zip(*found, strict=True)]

    def read(self, domain: bytes, chunk_id: bytes, key_ids: Sequence[bytes] | None = None) -> ChunkRecord:
        """Return the proven record of a chunk under one of ``key_ids``. Raises DamagedData, ChunkMissing."""
        problem: DamagedData | None = None
        for each in self._of(domain):
            try:
                return self._copy.read(each, chunk_id, key_ids)
            except DamagedData as error:
                problem = problem or error
        assert problem is not None
        raise problem


def copy_here(copy: Repository, store: Repository) -> CopyHere:
    """Return ``copy`` as what ``store`` is healed from."""
    points = [ref for tenant in copy.tenants() for ref in copy.points(tenant)]
    named = [(name, ref.domain) for ref in points if (name := name_of(ref)) is not None]
    return CopyHere(copy, same_domains(store, ((*name, domain) for name, domain in named)))


@contextmanager
def open_copy(home: Home, config: Config, source: str, store: Repository, clock: Clock) -> Iterator[Copy | None]:
    """Open the copy, for reading only; yields None where ``source`` is empty. Raises what opening raises."""
    if not source:
        yield None
        return
    place = place_of_copy(home, config, source)
    if place.resolve() == store.path.resolve():
        raise UsageError(f"--from {source} is the repository itself", "name a copy of it")
    with Repository.open(place, clock, writable=False) as copy:
        yield copy_here(copy, store)
