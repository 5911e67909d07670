"""Between a change of a password and the processes that help it.

| order | answer |
| --- | --- |
| Begin | none |
| Some | Done |

Any order may be answered with ``Failed``; nothing follows it. The end of the stream means: end after the batch at hand.
"""

from __future__ import annotations

from typing import Self

import msgspec

from transporter.jobs.points_here import Visited
from transporter.keys.password import KdfParameters, PasswordHash, UserKey
from transporter.workloads.worker_channel import Failed


class Hash(msgspec.Struct, frozen=True):
    """A password's hash. A secret: it goes through the socket pair and nowhere else."""

    raw: bytes
    salt: bytes
    memory_kib: int
    iterations: int
    lanes: int

    def __repr__(self) -> str:
        return "Hash()"

    @classmethod
    def of(cls, known: PasswordHash) -> Self:
        """Take one apart."""
        price = known.parameters
        return cls(known.raw, known.salt, price.memory_kib, price.iterations, price.lanes)

    def together(self) -> PasswordHash:
        """Put it together again."""
        return PasswordHash.from_raw(self.raw, self.salt, KdfParameters(self.memory_kib, self.iterations, self.lanes))


class Change(msgspec.Struct, frozen=True):
    """A change: the old hash, and the new one under the password's name."""

    old: Hash
    name: str
    new: Hash

    def key(self) -> UserKey:
        """The new key."""
        return UserKey(self.name, self.new.together())


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """The repository, as `PlaceHere`, and the changes."""

    path: str
    name: str
    own: str
    keep: float
    changes: list[Change]


class Some(msgspec.Struct, tag="some", frozen=True):
    """A batch."""

    points: list[tuple[str, str, bytes]]


class Done(msgspec.Struct, tag="done", frozen=True):
    """What became of it. ``undecided``: points that no slot opens; whoever has more keys may still open them."""

    points: int
    replaced: int
    added: int
    kept_until_ns: int
    unreadable: list[bytes]
    undecided: list[bytes]

    def visited(self) -> Visited:
        """As `PointsHere.batch` returns it; without the undecided."""
        points = self.points - len(self.undecided)
        return Visited(points, self.replaced, self.added, self.kept_until_ns, list(self.unreadable))


Order = Begin | Some
Answer = Done | Failed
