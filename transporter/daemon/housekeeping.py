"""What a daemon does for its repositories now and then, whether or not a job runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from transporter.errors import TransporterError
from transporter.logs import get_logger
from transporter.repository import Repository
from transporter.service.provider import Provider

# Nobody waits for it: what is kept for days may stay some hours longer.
EVERY_SECONDS = 6 * 3600.0
# The room of a pack that a prune has removed is free once nobody has it open, and somebody may wait for just that.
LET_GO_SECONDS = 60.0
# A call cannot be cancelled: folders for each.
AT_ONCE = 500
log = get_logger()


async def keep_house(provider: Provider) -> None:
    """Remove what is kept for a while and whose time is over, until cancelled.

    An error is logged and met again next time.
    """
    while True:
        for name, repository in provider.repositories.items():
            await _logged(name, "replaced slots", partial(_purge, repository.store))
            await _logged(name, "points of the recycle bin", partial(_empty, provider, repository.store))
        await trio.sleep(EVERY_SECONDS)


async def let_go_of_removed_packs(provider: Provider) -> None:
    """Close the packs that a prune in another process has removed, until cancelled: a look at some open files."""
    while True:
        for repository in provider.repositories.values():
            repository.store.forget_removed_packs()
        await trio.sleep(LET_GO_SECONDS)


async def _logged(name: str, what: str, work: Callable[[], Awaitable[int]]) -> None:
    try:
        removed = await work()
    except TransporterError as error:
        log.warning(f"{what} were not removed", repository=name, code=error.code, what=error.what)
        return
    if removed:
        log.info(f"{what} removed", repository=name, count=removed)


async def _empty(provider: Provider, store: Repository) -> int:
    """Also finish removals that a crash cut short. A clock in doubt removes nothing, and is told by the log."""
    return await trio.to_thread.run_sync(store.keeping.purge, provider.drop_keys)


async def _purge(store: Repository) -> int:
    folders = await trio.to_thread.run_sync(store.slot_folders)
    removed = 0
    for at in range(0, len(folders), AT_ONCE):
        removed += await trio.to_thread.run_sync(store.purge_replaced_slots, folders[at : at + AT_ONCE])
    return removed
