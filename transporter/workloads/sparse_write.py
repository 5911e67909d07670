"""Writing pieces of content, whole or without their zero pages."""

from __future__ import annotations

import os
from collections.abc import Callable

PAGE = 4096
"""Bytes of a page: the block of the common file systems, and so the smallest hole they can keep."""
ZERO_PAGE = bytes(PAGE)


def write_at(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``. Raises ``OSError``."""
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def write_pages(write: Callable[[memoryview, int], None], data: memoryview, offset: int) -> None:
    """Call ``write(part, offset)`` for ``data`` but leave out pages (aligned in the file) that are all zero.

    The file must read as zeros there. The first bytes of all pages are looked at together: only a page that begins
    with a zero is compared.
    """
    total = len(data)
    head = min(-offset % PAGE, total)
    start = head if head and _is_zero(data[:head]) else 0
    firsts = bytes(data[head::PAGE])
    page = firsts.find(0)
    while page >= 0:
        position = head + page * PAGE
        end = min(position + PAGE, total)
        if _is_zero(data[position:end]):
            if start < position:
                write(data[start:position], offset + start)
            start = end
        page = firsts.find(0, page + 1)
    if start < total:
        write(data[start:], offset + start)


def _is_zero(page: memoryview) -> bool:
    return bytes(page) == ZERO_PAGE[: len(page)]
