"""What the key database must know of its home's configuration: the services, and what locks a new database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from transporter.kms_config import KmsConfig

CONFIG_NAME: Final = "config.toml"


@dataclass(frozen=True)
class KeySettings:
    """``master``: as config.toml writes it. ``kms``: the services by name."""

    master: str = "file"
    kms: dict[str, KmsConfig] = field(default_factory=dict)


def settings_beside(path: Path) -> Callable[[], KeySettings]:
    """Return how to read the configuration that stands beside the key database ``path``; again when it was changed.

    Where there is none (a key database by itself), the defaults hold. Raises ConfigError, then.
    """
    file = path.with_name(CONFIG_NAME)
    known: dict[tuple[int, int], KeySettings] = {}

    def read() -> KeySettings:
        try:
            found = file.stat()
        except FileNotFoundError:
            return KeySettings()
        version = found.st_mtime_ns, found.st_size
        if version not in known:
            from transporter.config import load_config

            config = load_config(file)
            known.clear()
            known[version] = KeySettings(config.keys.master, dict(config.kms))
        return known[version]

    return read
