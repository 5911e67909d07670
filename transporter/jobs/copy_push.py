"""A copy that somebody else conducts: this node, where the points are, pushes them in a tenant's name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from transporter.errors import DamagedData, JobFailed
from transporter.events import JobFinished
from transporter.jobs.context import JobContext
from transporter.jobs.copy import CopyRun
from transporter.jobs.copy_ends import CopyRow, CopySource, CopyTarget
from transporter.jobs.copy_plan import CopyOrder, End, Group, list_end
from transporter.jobs.copy_there import open_target_there
from transporter.jobs.points import DAMAGED
from transporter.points.copied import job_of_head
from transporter.points.mandate import Mandate


@dataclass(frozen=True)
class Pushed:
    """What is asked for: points of ``job`` of ``tenant`` in ``repository``, to the peer ``target``."""

    tenant: str
    job: str
    repository: str
    target: str
    mandate: Mandate
    signed: bytes = field(repr=False)


async def push_points(context: JobContext, pushed: Pushed) -> JobFinished:
    """Push them. Raises what keeps any of them from being copied."""
    order = CopyOrder(pushed.job, End("", pushed.repository), End(pushed.target, pushed.mandate.repository))
    return await _Push(context, order, pushed=pushed).run()


@dataclass
class _Push(CopyRun):
    pushed: Pushed | None = None

    async def _groups(self) -> list[Group]:
        """Return the points that the mandate names, as they lie here: each must be the one that it names."""
        pushed = self.pushed
        assert pushed is not None
        there = await list_end(self.context, self.order.source, pushed.job)
        named = dict(pushed.mandate.points)
        rows = [each for each in there if each.tenant == pushed.tenant and each.row.point in named]
        rows = [each for each in rows if each.row.kind != DAMAGED and each.row.job == pushed.job]
        if len(rows) != len(named):
            raise DamagedData("not every restore point that was named is there, and sound", "copy again")
        domains = {each.row.domain for each in rows}
        if len(domains) != 1:
            raise JobFailed("the points that were named are of several domains", "update the transporter there")
        rows.sort(key=lambda each: each.row.committed_ns)
        return [Group(pushed.mandate.job, job_of_head(pushed.mandate.job), domains.pop(), rows, {})]

    async def _bring_pins(self, group: Group, rows: Sequence[CopyRow]) -> None:
        """The conductor does: a pin is a tenant's own, and this node is another one."""

    async def _confirm(self) -> None:
        """The conductor does."""

    @asynccontextmanager
    async def _open_target(self, group: Group, source: CopySource) -> AsyncIterator[CopyTarget]:
        pushed = self.pushed
        assert pushed is not None
        name = pushed.mandate.name
        opened = open_target_there(
            self.context,
            pushed.target,
            pushed.mandate.repository,
            group.job,
            name,
            self.run_id,
            self.order.label,
            pushed.signed,
        )
        async with opened as there:
            self._ends.append(there)
            yield there
