"""One nursery per pipeline: the first failure stops every stage, and its own error is what the caller sees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

import trio


async def run_stages(stages: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run all stages until each has returned.

    Raises the first stage's own exception (from the group, so that nothing is lost); cancellation of the caller
    stops all of them. Work that is already in a thread ends its small unit first.
    """
    async with open_tasks() as nursery:
        for stage in stages:
            nursery.start_soon(stage)


@asynccontextmanager
async def open_tasks() -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose first failure leaves it as itself, with the whole group as its cause."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        first = first_error(group)
        if first is None:
            raise
        raise first from group


def first_error(group: BaseExceptionGroup[BaseException]) -> Exception | None:
    """Return the first ordinary exception in ``group``; None when it holds only cancellation or worse.

    One whose class says ``OUTRANKS`` goes before all others: what happens in the same moment must not hide it.
    """
    errors = list(_ordinary(group))
    return next((error for error in errors if getattr(error, "OUTRANKS", False)), errors[0] if errors else None)


def _ordinary(group: BaseExceptionGroup[BaseException]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _ordinary(error)
        elif isinstance(error, Exception):
            yield error
