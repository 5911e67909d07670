"""Features of a repository that older programs do not know: they are named in its format file, and refused there."""

from __future__ import annotations

from msgspec.structs import replace

from transporter.repository.layout import Layout
from transporter.repository.upgrade import read_format_file, write_format_file


def add_feature(layout: Layout, name: str) -> None:
    """Name a feature in the format file, durably, before it is used; only the writer of a repository may call it.

    Raises OSError, DamagedData.
    """
    version, content = read_format_file(layout)
    if name not in content.features:
        write_format_file(layout, replace(content, features=sorted({*content.features, name})), version)
