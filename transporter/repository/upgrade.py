"""Bringing a repository of an older format version up to date, one version at a time.

A step does its work so that it can be done again, and readers of the old version still read until it is done. Then the
format file of the next version takes the old one's place: write, fsync, rename, fsync of the folder. So a crash leaves
the old version or the new one, and the next upgrade goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from transporter.errors import UnsupportedFormat
from transporter.repository import files, format_file, limits
from transporter.repository.errors import RepositoryMissing
from transporter.repository.layout import FOLDERS, Layout
from transporter.repository.lease import Lease

Step = Callable[[Layout, format_file.Format], format_file.Format]
"""Does what leads from a version to the next one; returns what the next format file says."""

STEPS: Final[Mapping[int, Step]] = {}
"""By the version that a step begins with. There is but one version yet."""


def upgrade(path: Path, steps: Mapping[int, Step] = STEPS) -> tuple[int, int]:
    """Bring a repository up to date; return its version before and now.

    RepositoryMissing, RepositoryBusy (it is in use), UnsupportedFormat (it is of a newer version, or of one that is too
    old), DamagedData.
    """
    layout = Layout(path)
    before = read_format_file(layout)[0]
    with files.disk_errors("upgrade the repository"):
        for folder in FOLDERS:
            files.make_folders(layout.root / folder, layout.root)
    lease = Lease(layout.lease)
    try:
        while True:
            version, content = read_format_file(layout)
            if version == limits.FORMAT_VERSION:
                return before, version
            step = steps.get(version)
            if step is None:
                raise UnsupportedFormat(
                    f"the repository has format version {version}, and this program cannot lead it on",
                    "upgrade it with an older version of transporter first",
                )
            with files.disk_errors("upgrade the repository"):
                write_format_file(layout, step(layout, content), version + 1)
    finally:
        lease.release()


def read_format_file(layout: Layout) -> tuple[int, format_file.Format]:
    """Return the version, and what the format file says. RepositoryMissing, UnsupportedFormat, DamagedData."""
    try:
        raw = files.read_small(layout.format, format_file.LONGEST)
    except (FileNotFoundError, NotADirectoryError):
        raise RepositoryMissing(f"there is no repository in {layout.root}", "look at its path") from None
    except OSError as error:
        raise files.translate(error, "read the repository's format file") from error
    content = format_file.decode(raw, older=True)
    return format_file.version_of(raw), content


def write_format_file(layout: Layout, content: format_file.Format, version: int) -> None:
    """Let a format file take the old one's place; a crash leaves the old or the new one. Raises OSError."""
    temporary = layout.journal / "format.tmp"
    files.unlink(temporary)
    fd = files.create(temporary)
    try:
        files.write(fd, format_file.encode(content, version))
        files.sync(fd)
    finally:
        os.close(fd)
    files.replace(temporary, layout.format)
    files.sync_folder(layout.root)
