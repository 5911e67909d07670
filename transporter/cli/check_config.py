"""``transporter check-config``: is the configuration sound, and does everything it names exist?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from transporter.cli.terminal import Terminal
from transporter.errors import ConfigError

if TYPE_CHECKING:
    from transporter.config import Config
    from transporter.home import Home


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check-config")(check_config)


def check_config(context: typer.Context) -> int:
    """Check config.toml and that what it names exists."""
    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    findings = list(_findings(home, config))
    for warning in _readable_passwords(home, config):
        terminal.warn(warning)
    for finding in findings:
        terminal.result(finding, finding=finding)
    if findings:
        count = "one finding" if len(findings) == 1 else f"{len(findings)} findings"
        raise ConfigError(f"{home.config_path}: {count}", "correct what is listed above")
    terminal.result(
        f"{home.config_path} is sound: {len(config.jobs)} jobs, {len(config.repositories)} repositories",
        config=str(home.config_path),
        jobs=sorted(config.jobs),
        repositories=sorted(config.repositories),
    )
    return 0


def _readable_passwords(home: Home, config: Config) -> Iterator[str]:
    """Warn of a proxy's password that others on this machine can read."""
    from transporter.outbound_proxy import parse_proxy

    if config.link.outbound_proxy in {"", "none"}:
        return
    places = {"outbound_proxy_password_file in [link]": config.link.outbound_proxy_password_file}
    if parse_proxy(config.link.outbound_proxy).password:
        places["outbound_proxy in [link]"] = str(home.config_path)
    for key, path in places.items():
        if path and os.path.exists(path) and os.stat(path).st_mode & 0o077:
            yield f"{key}: other users can read the proxy's password in {path} (chmod 600 {path})"


def _findings(home: Home, config: Config) -> Iterator[str]:
    from transporter.catalog import Catalog
    from transporter.clock import SystemClock
    from transporter.keys.database import KeyDatabase
    from transporter.link.identity import load_identity

    load_identity(home.path, config.node.name, SystemClock())
    yield from _proxy_findings(config)
    with KeyDatabase(home.keys_db) as keys:
        passwords = {info.name for info in keys.list()}
        uses, left = keys.kms_uses(), keys.pending()
    for service in sorted(set(uses) - set(config.kms)):
        yield f"there is no [kms.{service}], which {', '.join(uses[service])} cannot be opened without"
    if left is not None:
        yield "a former master key may still lie where it was: transporter keys master-key clean"
    with Catalog(home.catalog_db) as catalog:
        peers = {peer.name: peer for peer in catalog.peers()}
    for name, repository in config.repositories.items():
        path = repository.path or str(home.repository_path(name))
        if not os.path.isdir(path):
            yield (
                f"repository {name!r}: {path} does not exist (mount its disk; if that is gone for good: "
                f"transporter repository make-anew {name})"
            )
        if repository.encrypt_at_rest and repository.encrypt_at_rest not in passwords:
            yield f"repository {name!r}: there is no password {repository.encrypt_at_rest!r} in this home"
    for name, job in config.jobs.items():
        peer = peers.get(job.peer)
        if peer is None:
            yield f"job {name!r}: there is no peer {job.peer!r} (pair with it: transporter join)"
        elif job.repository not in peer.offers:
            yield f"job {name!r}: {job.peer} has not offered a repository {job.repository!r}"
        if job.encrypt == "source" and job.password not in passwords:
            yield f"job {name!r}: there is no password {job.password!r} in this home (transporter password add)"
        for path in job.paths:
            if path != "-" and not os.path.lexists(path):
                yield f"job {name!r}: {path} does not exist"


def _proxy_findings(config: Config) -> Iterator[str]:
    from transporter.link.outbound import configured_proxy

    if config.link.outbound_proxy not in {"", "none"}:
        try:
            configured_proxy(config.link)
        except ConfigError as error:
            yield error.what
