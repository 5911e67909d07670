"""What a daemon does for its repositories now and then, whether or not a job runs."""

from __future__ import annotations

import structlog
import trio

from transporter.errors import TransporterError
from transporter.repository import Repository
from transporter.service.provider import Provider

# Nobody waits for it: what is kept for days may stay some hours longer.
EVERY_SECONDS = 6 * 3600.0
# A call cannot be cancelled: folders for each.
AT_ONCE = 500
log = structlog.get_logger()


async def keep_house(provider: Provider) -> None:
    """Remove replaced slots whose time is over, until cancelled; a disk's error is logged and met again next time."""
    while True:
        for name, repository in provider.repositories.items():
            try:
                removed = await _purge(repository.store)
            except TransporterError as error:
                log.warning("replaced slots were not removed", repository=name, code=error.code, what=error.what)
                continue
            if removed:
                log.info("replaced slots removed", repository=name, slots=removed)
        await trio.sleep(EVERY_SECONDS)


async def _purge(store: Repository) -> int:
    folders = await trio.to_thread.run_sync(store.slot_folders)
    removed = 0
    for at in range(0, len(folders), AT_ONCE):
        removed += await trio.to_thread.run_sync(store.purge_replaced_slots, folders[at : at + AT_ONCE])
    return removed
