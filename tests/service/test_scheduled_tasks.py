"""What a daemon does at its times besides scrubs: prune, retention, transform, copies. Its clock is not waited for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import trio
from structlog.testing import capture_logs

from transporter.clock import ManualClock
from transporter.config import load_config, parse_config
from transporter.daemon import scheduled as module
from transporter.daemon.requests import JobOutcome, RetentionRequest, TransformRequest
from transporter.daemon.running import RunningJobs
from transporter.daemon.scheduled import BUSY_SECONDS, BUSY_TRIES, scheduled_tasks
from transporter.daemon.scheduler import Scheduler
from transporter.events import JobFailed
from transporter.home import Home
from transporter.jobs.context import job_lock
from transporter.service.provider import Provider

DAY_NS = 86_400 * 10**9


def with_settings(node, job="", rest=""):
    """Put settings into a node's configuration: of its job docs, and what stands for itself."""
    path = node.home.config_path
    text = path.read_text().replace("[jobs.docs]\n", f"[jobs.docs]\n{job}\n")
    path.write_text(f"{text}\n{rest}")
    return load_config(path)


def pruned(node):
    """Have the daemon of a provider prune."""
    path = node.home.config_path
    text = path.read_text()
    path.write_text(
        text.replace("[repositories.main]\n", '[repositories.main]\nprune = "weekly"\nprune_grace = "0s"\n')
    )
    return load_config(path)


def tasks_of(node, provider):
    running = RunningJobs(provider)
    return {task.name: task for task in scheduled_tasks(provider, running)}, running


@pytest.fixture
def at_source(world):
    """A daemon of the source, with policies; the source may remove its points."""
    peer = world.target.catalog.peer_by_pin(world.source.identity.pin)
    world.target.catalog.put_peer(replace(peer, removes=("main",)))

    def made(job, rest="", clock=None):
        node = world.source
        config = with_settings(node, job, rest)
        provider = Provider(node.home, config, node.identity, node.catalog, node.keys, clock or node.clock)
        return tasks_of(node, provider)

    return made


def points(world):
    return world.store().points(world.tenant(world.source), "docs")


async def test_a_prune_frees_what_no_point_needs_in_a_process_of_its_own(world):
    await world.source.backup()
    store = world.store()
    world.provider.config = pruned(world.target)
    tasks, running = tasks_of(world.target, world.provider)
    assert tasks["prune main"].schedule.text == "weekly" and "prune rest" not in tasks
    assert await tasks["prune main"].run() == 0
    packs = list((store.path / "packs").glob("*/*"))
    (ref,) = points(world)
    store.keeping.remove(world.tenant(world.source), "docs", [ref.point_id], "")
    assert packs
    with capture_logs() as said:
        assert await tasks["prune main"].run() == 0
    assert list((store.path / "packs").glob("*/*")) == []
    assert {"pruned"} <= {each["event"] for each in said} and running.idle()


async def test_a_prune_that_cannot_be_done_is_told_and_shown(world):
    await world.source.backup()
    world.provider.config = pruned(world.target)
    tasks, running = tasks_of(world.target, world.provider)
    store = world.store()
    (path,) = (store.path / "points").rglob("docs/*")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(raw)
    with capture_logs() as said:
        assert await tasks["prune main"].run() == 7
    (failed,) = [each for each in said if each["event"] == "a scheduled task failed"]
    assert points(world)[0].point_id.hex()[:8] in failed["what"]
    assert tasks["prune main"].said() == failed["what"] and running.idle()


async def test_retention_is_carried_out_by_the_policy_of_the_job(world, at_source):
    tasks, _ = at_source('keep = { last = 1 }\nretention = "daily"')
    for _ in range(3):
        await world.source.backup()
    # The run of a job in these tests does not know of the policy: the configuration was read before.
    assert len(points(world)) == 3
    with capture_logs() as said:
        assert await tasks["retention docs"].run() == 0
    assert len(points(world)) == 1
    assert ("points removed", 2) in {(each["event"], each.get("count")) for each in said}


async def test_transform_folds_all_but_the_newest(world, at_source):
    tasks, _ = at_source('transform = "monthly"\ntransform_keep = 1')
    for _ in range(3):
        await world.source.backup()
    assert await tasks["transform docs"].run() == 0
    assert len(points(world)) == 2
    assert await tasks["transform docs"].run() == 0
    assert len(points(world)) == 2


async def test_an_error_ends_the_run_alone_and_is_told_and_shown(world, at_source):
    tasks, running = at_source('keep = { last = 1 }\nretention = "daily"')
    for _ in range(2):
        await world.source.backup()
    world.target.catalog.set_may_remove("office", "main", allowed=False)
    task = tasks["retention docs"]
    with capture_logs() as said:
        assert await task.run() == 5
    assert "may not remove" in task.said() and "a scheduled task failed" in {each["event"] for each in said}
    assert len(points(world)) == 2 and running.idle()
    world.target.catalog.set_may_remove("office", "main", allowed=True)
    assert await task.run() == 0 and task.said() == ""


async def test_how_old_is_judged_when_it_runs(world, at_source, monkeypatch):
    asked = []

    async def execute(_home, request, *_rest):
        asked.append(request)
        return JobOutcome(exit_status=0)

    monkeypatch.setattr(module, "execute_in_daemon", execute)
    clock = ManualClock(wall_ns=1_000 * DAY_NS)
    tasks, _ = at_source('transform = "monthly"\ntransform_before = "90d"', clock=clock)
    await tasks["transform docs"].run()
    clock.wall_ns += 10 * DAY_NS
    await tasks["transform docs"].run()
    assert [request.before_ns for request in asked] == [910 * DAY_NS, 920 * DAY_NS]


async def test_copies_have_times_too(world, at_source):
    tasks, _ = at_source("", '[copies.vault]\nfrom = "offsite/main"\nto = "other/main"\nschedule = "0 5 * * *"')
    assert tasks["copy vault"].schedule.text == "0 5 * * *"
    # There is no such peer.
    assert await tasks["copy vault"].run() != 0 and "other" in tasks["copy vault"].said()


class TrioTime(ManualClock):
    """Goes as trio's own clock does, which is a mock one here. It is noon on the last of March."""

    def __init__(self):
        super().__init__(wall_ns=int(datetime(2026, 3, 31, 12, tzinfo=UTC).timestamp()) * 10**9)
        self.began = trio.current_time()

    def now_ns(self):
        return self.wall_ns + int((trio.current_time() - self.began) * 1e9)

    def local_time(self):
        return datetime.fromtimestamp(self.now_ns() / 1e9, self.zone)


@pytest.fixture
def at_source_only(tmp_path):
    """A provider of a home with one job, for what is never carried out."""

    def made(settings, clock):
        job = f'[jobs.docs]\nto = "offsite/main"\nencrypt = "none"\npaths = ["/a"]\n{settings}\n'
        config = parse_config(f'[node]\nname = "office"\n{job}', tmp_path / "c")
        return Provider(Home(tmp_path), config, None, None, None, clock)

    return made


@pytest.fixture
def pretended(monkeypatch):
    """Nothing is carried out: what would be, when, and how many of it at once."""
    log = Log()
    monkeypatch.setattr(module, "execute_in_daemon", log.execute)
    return log


class Log:
    def __init__(self):
        self.begun, self.ended, self.failing, self.now, self.most = [], [], {}, set(), 0

    async def execute(self, _home, request, bus, *_rest):
        self.begun.append((type(request), trio.current_time()))
        self.now.add(request)
        self.most = max(self.most, len(self.now))
        await trio.sleep(1800)
        self.now.discard(request)
        error = self.failing.get(type(request))
        if error:
            bus.publish(JobFailed(job="docs", code=error, exit_status=1, what="somebody is at it", remedy="wait"))
        return JobOutcome(exit_status=1 if error else 0)

    def count(self, kind):
        return sum(each is kind for each, _ in self.begun)


async def test_they_run_at_their_times_one_after_the_other_for_a_job(
    autojump_clock, pretended, tmp_path, at_source_only
):
    clock = TrioTime()
    provider = at_source_only(
        'keep = { last = 1 }\nretention = "daily"\ntransform = "monthly"\ntransform_keep = 1', clock
    )
    tasks = list(scheduled_tasks(provider, RunningJobs(provider)))
    scheduler = Scheduler(tasks, tmp_path / "s", clock)
    with trio.move_on_after(13 * 3600):
        await scheduler.run()
    # The first of April begins with both.
    assert pretended.count(RetentionRequest) == pretended.count(TransformRequest) == 1
    assert pretended.most == 1
    (first, second) = (at for _, at in pretended.begun)
    assert second - first >= 1800


async def test_what_is_busy_is_waited_for_and_an_error_is_shown(autojump_clock, pretended, tmp_path, at_source_only):
    clock = TrioTime()
    provider = at_source_only('keep = { last = 1 }\nretention = "monthly"', clock)
    pretended.failing[RetentionRequest] = "job-busy"
    (task,) = scheduled_tasks(provider, RunningJobs(provider))
    scheduler = Scheduler([task], tmp_path / "s", clock)

    async def free():
        await trio.sleep(15 * 3600)
        del pretended.failing[RetentionRequest]

    with trio.move_on_after(20 * 3600), capture_logs() as said:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scheduler.run)
            nursery.start_soon(free)
    assert 3 <= pretended.count(RetentionRequest) < 10
    assert "a scheduled task failed" not in {each["event"] for each in said}
    assert scheduler.rows()[0]["last_exit_status"] == 0
    pretended.failing[RetentionRequest] = "job-busy"
    status = await task.run()
    assert (status, task.said()) == (1, "somebody is at it")
    assert BUSY_TRIES * BUSY_SECONDS >= 3600


async def test_the_scheduler_shows_why_a_run_failed_until_one_ends_well(
    autojump_clock, pretended, tmp_path, at_source_only
):
    clock = TrioTime()
    provider = at_source_only('keep = { last = 1 }\nretention = "daily"', clock)
    pretended.failing[RetentionRequest] = "refused"
    (task,) = scheduled_tasks(provider, RunningJobs(provider))
    scheduler = Scheduler([task], tmp_path / "s", clock)
    with trio.move_on_after(13 * 3600):
        await scheduler.run()
    (row,) = Scheduler([task], tmp_path / "s", clock).rows()
    assert (row["last_exit_status"], row["last_error"]) == (1, "somebody is at it")
    pretended.failing.clear()
    with trio.move_on_after(24 * 3600):
        await scheduler.run()
    (row,) = scheduler.rows()
    assert (row["last_exit_status"], row["last_error"]) == (0, "")


async def test_a_job_that_runs_is_not_folded_beside(world, at_source, monkeypatch):
    monkeypatch.setattr(module, "BUSY_TRIES", 2)
    monkeypatch.setattr(module, "BUSY_SECONDS", 0)
    tasks, _ = at_source('transform = "monthly"\ntransform_keep = 1')
    with job_lock(world.source.home, "docs"):
        assert await tasks["transform docs"].run() != 0
    assert "under way" in tasks["transform docs"].said()
