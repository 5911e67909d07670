"""The whole manifest of an opened point, looked up in any order: fetched once, kept in files without a name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from transporter.jobs.browse import empty_manifest
from transporter.jobs.context import JobContext
from transporter.jobs.preamble import Preamble
from transporter.jobs.recovery import Recovery
from transporter.workloads.entry import Entry
from transporter.workloads.tree_index import TreeIndex, TreeIndexBuilder


async def read_tree(context: JobContext, recovery: Recovery) -> TreeIndex:
    """Read the manifest. Whoever calls closes what is returned. Raises DamagedData, DiskFull."""
    builder: TreeIndexBuilder | None = None

    async def use(preamble: Preamble, records: list[Entry]) -> None:
        nonlocal builder
        if builder is None:
            builder = TreeIndexBuilder(context.home.cache, preamble.roots)
        await trio.to_thread.run_sync(builder.add, records)

    try:
        await recovery.read_manifest(use)
        if builder is None:
            raise empty_manifest()
        return await trio.to_thread.run_sync(builder.finish)
    except BaseException:
        if builder is not None:
            builder.close()
        raise


@asynccontextmanager
async def open_tree(context: JobContext, recovery: Recovery) -> AsyncIterator[TreeIndex]:
    """Read the manifest, and let go of it at the end."""
    with await read_tree(context, recovery) as tree:
        yield tree
