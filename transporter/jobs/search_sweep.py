"""Points searched side by side, in path order, so that a file that did not change is one finding and not one for each.

Each source gives its blocks in path order. What is known of all sources up to a path is settled, merged and let go of:
memory holds the hits of one block of each source at most, and one of blocks that sources share.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from transporter.errors import DamagedData
from transporter.workloads.fsi_query import BlockHits, Hit


class Source(Protocol):
    """One point."""

    async def next(self) -> BlockHits | None:
        """Return the next block, None behind the last. Raises DamagedData: there will be no other."""


@dataclass(frozen=True)
class Finding:
    """A version of a file, and the numbers of the sources that have it, ascending (the newest point first)."""

    hit: Hit
    sources: Sequence[int]


@dataclass
class _Group:
    """Sources that stand at the same place of the same block: looked at once."""

    block: BlockHits
    position: int = 0
    members: list[int] = field(default_factory=list)


async def sweep(
    sources: Sequence[Source],
    found: Callable[[list[Finding]], Awaitable[bool]],
    failed: Callable[[int, DamagedData], None],
) -> None:
    """Hand findings, in path order, to ``found``, until it returns False.

    A source that fails is told of to ``failed``, and is over; the others go on.
    """
    groups: dict[tuple[int, int], _Group] = {}

    async def advance(members: Sequence[int]) -> None:
        for number in members:
            try:
                block = await sources[number].next()
            except DamagedData as error:
                failed(number, error)
                continue
            if block is not None:
                groups.setdefault((id(block), 0), _Group(block)).members.append(number)

    await advance(range(len(sources)))
    while groups:
        border = min(group.block.last_key for group in groups.values())
        parts: list[_Taken] = []
        moved: dict[tuple[int, int], _Group] = {}
        ended: list[int] = []
        for group in groups.values():
            block, start = group.block, group.position
            # A block that lies in no order (nobody of ours made it) is over, too, when its last path is reached.
            over = block.last_key <= border
            end = len(block.hits) if over else block.until(border, start)
            group.members.sort()
            if end > start:
                parts.append(_Taken(block.hits[start:end], group.members))
            if over:
                ended += group.members
            else:
                moved.setdefault((id(block), end), _Group(block, end)).members.extend(group.members)
        groups = moved
        if parts and not await found(_merged(parts)):
            return
        await advance(sorted(ended))


@dataclass(frozen=True)
class _Taken:
    hits: tuple[Hit, ...]
    members: list[int]


def _merged(parts: list[_Taken]) -> list[Finding]:
    """Return one finding for each version of each path; of one path the newest version first."""
    if len(parts) == 1:
        return [Finding(hit, parts[0].members) for hit in parts[0].hits]
    versions: dict[Hit, list[int]] = {}
    for part in parts:
        for hit in part.hits:
            known = versions.get(hit)
            versions[hit] = part.members if known is None else [*known, *part.members]
    return sorted(
        (Finding(hit, sorted(numbers)) for hit, numbers in versions.items()),
        key=lambda finding: (finding.hit.key, finding.sources[0]),
    )
