"""The daemon: one process, one nursery: the listener, the control socket, and the jobs that are handed to it."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from pipeline.run import open_tasks
from transporter.catalog import Catalog
from transporter.clock import Clock, SystemClock
from transporter.config import Config, load_config
from transporter.daemon.control_socket import serve_control_socket
from transporter.daemon.copier import Copier
from transporter.daemon.housekeeping import keep_house, let_go_of_removed_packs
from transporter.daemon.keeper import Keeper
from transporter.daemon.listener import Front
from transporter.daemon.pusher import pusher
from transporter.daemon.running import RunningJobs
from transporter.daemon.scheduled import scheduled_tasks
from transporter.daemon.scheduler import Scheduler
from transporter.daemon.tuning import tune_process
from transporter.errors import ConfigError, JobBusy, TransporterError
from transporter.events import EventBus
from transporter.home import Home
from transporter.jobs.spare_worker import SpareWorker
from transporter.keys.database import KeyDatabase
from transporter.link.address import parse_address
from transporter.link.carrier import use_congestion_control
from transporter.link.identity import load_identity
from transporter.link.listen import bound_address, open_listeners
from transporter.link.routes import Parking
from transporter.logs import get_logger
from transporter.repository import Repository
from transporter.service.provider import OpenRepository, Provider
from transporter.service.relay import Relay
from transporter.throttle.watch import watch_limits

log = get_logger()


async def serve(home: Home, *, ready: Callable[[str], None], proxy: bool = False, clock: Clock | None = None) -> None:
    """Run the daemon of ``home`` until SIGINT or SIGTERM. ``ready`` is told where it listens ("" where it does not).

    ``proxy``: it serves as a proxy host, too.

    Raises ConfigError (address taken, no identity, a repository that was made for another ``encrypt_at_rest``),
    JobBusy (another daemon of this home, or of a repository), and if not one of its repositories can be opened what
    keeps the first of them closed.
    """
    clock = clock or SystemClock()
    tune_process()
    config = load_config(home.config_path)
    use_congestion_control(config.link.congestion)
    with _daemon_lock(home), Catalog(home.catalog_db) as catalog, KeyDatabase(home.keys_db, clock=clock) as keys:
        identity = load_identity(home.path, config.node.name, clock)
        provider = Provider(home, config, identity, catalog, keys, clock)
        provider.push = pusher(provider)
        if proxy:
            if not config.node.listen:
                raise ConfigError("a proxy host must listen", 'set listen = "HOST:6180" in [node] of config.toml')
            provider.relay = Relay(provider.parked, provider.tickets, config.proxy.streams_per_node, provider.throttle)
        try:
            open_repositories(provider)
            await _serve(home, config, provider, ready)
        finally:
            for repository in provider.repositories.values():
                repository.store.close()


def open_repositories(provider: Provider) -> None:
    """Open every repository of the configuration; one that cannot be opened must not keep the others closed."""
    for name in provider.config.repositories:
        try:
            provider.repositories[name] = _open_repository(provider.home, provider.config, name, provider.clock)
        except (ConfigError, JobBusy):
            raise  # of this daemon, not of what lies on the disk
        except TransporterError as error:
            provider.closed[name] = error
    if provider.closed and not provider.repositories:
        raise next(iter(provider.closed.values()))
    for name, why in provider.closed.items():
        log.error("repository not opened", repository=name, code=why.code, what=why.what, remedy=why.remedy)


def _open_repository(home: Home, config: Config, name: str, clock: Clock) -> OpenRepository:
    settings = config.repositories[name]
    path = home.repository_path(name, settings.path)
    store = Repository.open(path, clock)
    if store.encrypted != bool(settings.encrypt_at_rest):
        store.close()
        raise _other_than_made(name, sealed=store.encrypted)
    if store.opened.unfinished:
        log.warning("journals wait for salvage", repository=name, reason=store.opened.unfinished)
    # The configuration is what people edit: a quota that was changed there counts from now on.
    store.set_quota(int(settings.quota) if settings.quota is not None else None)
    return OpenRepository(name, store, settings)


def _other_than_made(name: str, *, sealed: bool) -> ConfigError:
    """Return the error for a repository that would take in plaintext beside sealed data, or the other way round."""
    if sealed:
        return ConfigError(
            f"the repository {name!r} was made to be encrypted at rest, but the configuration names no password for it",
            f'put `encrypt_at_rest = "PASSWORD_NAME"` back under [repositories.{name}]',
        )
    return ConfigError(
        f"the repository {name!r} was not made to be encrypted at rest, but the configuration says that it is",
        f"take `encrypt_at_rest` out under [repositories.{name}], or make a new repository: `repository add`",
    )


@contextmanager
def _daemon_lock(home: Home) -> Iterator[None]:
    handle = os.open(home.daemon_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobBusy("a daemon of this home is running already", "`transporter status` shows it") from None
        yield
    finally:
        os.close(handle)


async def _serve(home: Home, config: Config, provider: Provider, ready: Callable[[str], None]) -> None:
    bus = EventBus()
    front = Front(provider, bus)
    keeper = Keeper(provider, bus, front.take)
    spare = SpareWorker()
    running = RunningJobs(provider, keeper, spare)
    parking = Parking(provider.parked, provider.tickets)
    async with open_tasks() as nursery:
        nursery.start_soon(_until_signal, nursery.cancel_scope)
        where = ""
        if config.node.listen:
            listeners = await open_listeners(parse_address(config.node.listen))
            where = str(bound_address(listeners))
            nursery.start_soon(trio.serve_listeners, front.take, listeners)
        nursery.start_soon(front.tidier.run)
        nursery.start_soon(keeper.run)
        nursery.start_soon(keep_house, provider)
        nursery.start_soon(let_go_of_removed_packs, provider)
        nursery.start_soon(Copier(provider, running.job, running.status, parking).run)
        scheduler = Scheduler(list(scheduled_tasks(provider, running, parking)), home.scheduled, provider.clock)
        running.scheduled = scheduler.rows
        nursery.start_soon(scheduler.run)
        nursery.start_soon(spare.keep, running.idle)
        if any(peer.offers for peer in provider.catalog.peers()):
            # A source: its first job shall not wait for a process to start either.
            spare.want(at_once=True)
        provider.throttle.apply(config.throttle, provider.clock.local_time())
        nursery.start_soon(watch_limits, provider.throttle, home.config_path, provider.clock, _limits_stay)
        nursery.start_soon(serve_control_socket, home, running.status, running.job, parking, running.stopped)
        await _until_socket(home)
        ready(where)


def _limits_stay(error: ConfigError) -> None:
    log.warning("limits stay as they were", code=error.code, what=error.what, remedy=error.remedy)


async def _until_socket(home: Home) -> None:
    """Ready means that commands can be handed over, too."""
    while not home.control_socket.exists():
        await trio.lowlevel.checkpoint()


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            log.info("stopping", signal=signal.Signals(number).name)
            scope.cancel()
            return
