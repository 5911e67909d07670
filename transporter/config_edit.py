"""Changes to ``config.toml`` made by commands: comments and order of what people wrote are kept."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from transporter.config import JobConfig, RepositoryConfig, parse_config
from transporter.errors import ConfigError
from transporter.quantities import Duration, Size, exact_duration, exact_size
from transporter.retention import KeepPolicy
from transporter.throttle.windows import ALWAYS

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_SKELETON = """\
# The configuration of this transporter; docs/handbook.md explains every key.
# Check it with `transporter check-config`. Unknown keys are refused.

[node]
name = {name}
# Where `transporter serve` listens. Empty: only outbound connections.
listen = {listen}
# What invitations tell others to dial, where that differs from `listen`.
# address = "backup.example.org:6180"

# [repositories.main]          # added by `transporter repository add`
# quota = "2TiB"
# immutable = "14d"            # so long nobody removes a new point, not even this node
# recycle = "7d"               # so long a removed point can be brought back
# keep_at_least = "30d"        # so long no tenant removes a point

# [jobs.docs]                  # added by `transporter backup --job docs …`
# to = "offsite/main"
# encrypt = "source"           # source, target or none
# password = "office"          # a password of this home (source) or of the peer's (target)
# paths = ["/srv/docs"]
# compression = "adaptive"     # adaptive, lz4 or zstd
# keep = {{ last = 7, daily = 30, monthly = 12 }}   # what retention keeps after each run

# [copies.vault]               # restore points go on to another repository, as they are
# from = "offsite/main"        # PEER/REPOSITORY, or a repository of this home
# to = "second/main"
# continuous = true            # as soon as a point appears

# [limits]
# redial_for = "15m"           # how long a job tries to get a lost link back
# connect_timeout = "15s"      # how long to wait until a connection is made; a handshake has 10 s, always
# max_streams = 32             # data channels of one session, at most

# [link]
# outbound_proxy = "socks5://user@proxy.example.org:1080"   # or http://…, or "none": not even those of the environment
# outbound_proxy_password_file = "/etc/transporter/proxy-password"
# data = "auto"                # direct data channels, or WebSockets where nothing else passes
# congestion = "bbr"           # what data channels ask the kernel for on long lines; or "system"

# [keys]
# master = "file"              # what locks the key database; moved by `transporter keys master-key set`

# [kms.main]                   # a key management service; the handbook shows one of each kind
# kind = "aws"                 # or "transit": OpenBao, Vault
# key = "arn:aws:kms:eu-central-1:123456789012:key/…"

# [throttle.daemon]            # also [throttle.peers.NAME], [throttle.jobs.NAME]; the strictest holds
# "Mon-Fri 08:00-18:00" = "20Mbit"
# "always" = "100Mbit"         # the first window that holds counts; none: unlimited
"""


def write_skeleton(path: Path, name: str, listen: str) -> None:
    """Write the first configuration of a home. Raises ``ConfigError`` when the values are not usable."""
    text = _SKELETON.format(name=_quoted(name), listen=_quoted(listen))
    parse_config(text, path)
    _replace(path, text)


def put_job(path: Path, name: str, job: JobConfig) -> None:
    """Define a job, or replace its settings."""
    _put(path, "jobs", name, _settings(job))


def put_repository(path: Path, name: str, repository: RepositoryConfig) -> None:
    """Define a repository, or replace its settings."""
    _put(path, "repositories", name, _settings(repository))


def put_master(path: Path, master: str) -> None:
    """Write down what locks the key database."""

    def change(document: TOMLDocument) -> None:
        import tomlkit

        document.setdefault("keys", tomlkit.table())["master"] = master

    edit(path, change)


def put_limit(path: Path, section: tuple[str, ...], window: str, rate: str) -> None:
    """Set the rate of one window of ``("daemon",)``, ``("peers", NAME)`` or ``("jobs", NAME)``.

    A new window stands before ``always``: the first that holds counts, and nothing behind that one ever would.
    """

    def change(document: TOMLDocument) -> None:
        import tomlkit

        table: Any = document.setdefault("throttle", tomlkit.table(is_super_table=True))
        for name in section[:-1]:
            table = table.setdefault(name, tomlkit.table(is_super_table=True))
        table = table.setdefault(section[-1], tomlkit.table())
        last = None if window in table else table.pop(ALWAYS, None)
        table[window] = rate
        if last is not None:
            table[ALWAYS] = last

    edit(path, change)


def clear_limit(path: Path, section: tuple[str, ...], window: str | None) -> bool:
    """Take away one window of a limit, or (None) all of them; tell whether there was anything to take away."""
    found = False

    def change(document: TOMLDocument) -> None:
        nonlocal found
        parents: list[tuple[Any, str]] = []
        table: Any = document
        for name in ("throttle", *section):
            if name not in table:
                return
            parents.append((table, name))
            table = table[name]
        found = bool(table) if window is None else window in table
        for name in list(table) if window is None else [window] * found:
            del table[name]
        for parent, name in reversed(parents):
            if not parent[name]:
                del parent[name]

    edit(path, change)
    return found


def _put(path: Path, section: str, name: str, settings: dict[str, object]) -> None:
    def change(document: TOMLDocument) -> None:
        import tomlkit

        tables = document.setdefault(section, tomlkit.table(is_super_table=True))
        table = tables.setdefault(name, tomlkit.table())
        for key in [key for key in table if key not in settings]:
            del table[key]
        for key, value in settings.items():
            if key not in table or table[key] != value:
                table[key] = value

    edit(path, change)


def edit(path: Path, change: Callable[[TOMLDocument], None]) -> None:
    """Apply ``change`` to the file's document, check the outcome, and replace the file in one step.

    Nothing is written when the outcome would not be valid (``ConfigError``). One editor at a time.
    """
    import tomlkit

    with _locked(path):
        text = path.read_bytes().decode("utf-8")
        parse_config(text, path)
        document = tomlkit.parse(text)
        change(document)
        changed = tomlkit.dumps(document)
        parse_config(changed, path)
        if changed != text:
            _replace(path, changed)


def _settings(table: JobConfig | RepositoryConfig) -> dict[str, object]:
    """Return what differs from the defaults, as it is written in the file."""
    settings: dict[str, object] = {}
    for field in msgspec.structs.fields(table):
        value = getattr(table, field.name)
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        if value == default:
            continue
        settings[field.encode_name] = _written(value)
    return settings


def _written(value: object) -> object:
    if isinstance(value, Size):
        return exact_size(value)
    if isinstance(value, Duration):
        return exact_duration(value)
    if isinstance(value, KeepPolicy):
        return _inline({name: _written(each) for name, each in msgspec.structs.asdict(value).items() if each})
    return value


def _inline(settings: dict[str, object]) -> object:
    import tomlkit

    table = tomlkit.inline_table()
    table.update(settings)
    return table


def _quoted(text: str) -> str:
    import tomlkit

    return tomlkit.item(text).as_string()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The folder itself is the lock: the file is replaced, so a lock on it would be one on its predecessor.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", "make room, or check the permissions") from None
