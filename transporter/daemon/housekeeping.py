"""What a daemon does for its repositories now and then, whether or not a job runs."""

from __future__ import annotations

import structlog
import trio

from transporter.errors import TransporterError
from transporter.service.provider import Provider

# Nobody waits for it: what is kept for days may stay some hours longer.
EVERY_SECONDS = 6 * 3600.0
log = structlog.get_logger()


async def keep_house(provider: Provider) -> None:
    """Remove replaced slots whose time is over, until cancelled; a disk's error is logged and met again next time."""
    while True:
        for name, repository in provider.repositories.items():
            try:
                removed = await trio.to_thread.run_sync(repository.store.purge_replaced_slots)
            except TransporterError as error:
                log.warning("replaced slots were not removed", repository=name, code=error.code, what=error.what)
                continue
            if removed:
                log.info("replaced slots removed", repository=name, slots=removed)
        await trio.sleep(EVERY_SECONDS)
