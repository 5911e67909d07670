"""Scrubs at their times, as a daemon does them: by the repository that it has open, shown while they run."""

from __future__ import annotations

import pytest
import trio
from msgspec import structs
from structlog.testing import capture_logs

from transporter.config import parse_config
from transporter.daemon.requests import ScrubRequest
from transporter.daemon.running import RunningJobs
from transporter.daemon.scheduled import scheduled_tasks
from transporter.events import EventBus

TEXT = '[repositories.main]\nscrub = "weekly"\nscrub_sample = "50%"\nscrub_limit = "100MB/s"\n[repositories.rest]\n'


@pytest.fixture
def scheduled(world):
    """The tasks of the target's daemon, and what runs in it."""
    text = f'[node]\nname = "offsite"\n{TEXT}encrypt_at_rest = "vault"\n'
    world.target.home.config_path.write_text(text)
    world.provider.config = parse_config(text, world.target.home.config_path)
    running = RunningJobs(world.provider)
    return list(scheduled_tasks(world.provider, running)), running


async def test_only_what_is_configured_is_scheduled_and_it_proves_the_open_repository(world, scheduled):
    (task,), _running = scheduled
    await world.source.backup()
    assert (task.name, task.schedule.text) == ("scrub main", "weekly")
    assert await task.run() == 0
    assert world.store().scrub_state().read().cursor != bytes(32)


async def test_damage_is_an_exit_status_and_nothing_is_healed_by_itself(world, scheduled):
    (task,), _running = scheduled
    await world.source.backup()
    for pack in (world.store().path / "packs").glob("*/*"):
        pack.chmod(0o600)
        raw = bytearray(pack.read_bytes())
        raw[len(raw) // 2] ^= 1
        pack.write_bytes(raw)
    with capture_logs() as said:
        assert await task.run() == 7
    assert list((world.store().path / "packs").glob("*/*"))
    assert "damage found" in {each["event"] for each in said}


async def test_a_scrub_that_runs_is_shown_and_can_be_stopped(world, scheduled, monkeypatch):
    _tasks, running = scheduled
    await world.source.backup()
    bus = EventBus()
    with running.job(ScrubRequest(repository="main"), bus) as steering:
        (row,) = running.status()["running"]
        assert (row["operation"], row["repository"]) == ("scrub", "main")
        assert steering.open_store("main") is world.store()
        assert steering.open_store("other") is None
        steering.scope.cancel()
        await trio.sleep_forever()
    assert running.idle()


async def test_a_scrub_beside_a_backup_finds_nothing(world, scheduled):
    (task,), _running = scheduled
    world.provider.config = structs.replace(world.provider.config)
    statuses = []

    async def scrubs():
        for _ in range(3):
            statuses.append(await task.run())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubs)
        for job in ("docs", "target", "none"):
            await world.source.backup(job)
    assert statuses == [0, 0, 0]
    assert world.store().scrub().clean
