"""Tasks at their times, by a clock that no test waits for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import trio

from transporter.clock import ManualClock
from transporter.daemon.scheduler import LOOK_SECONDS, Scheduler, Task
from transporter.schedule import parse_schedule

START = int(datetime(2026, 3, 4, 10, 15, tzinfo=UTC).timestamp()) * 10**9  # a Wednesday


class TrioTime(ManualClock):
    """Goes as trio's own clock does, which is a mock one here."""

    def __init__(self, start_ns: int = START) -> None:
        super().__init__(wall_ns=start_ns)
        self.shift_ns = start_ns - int(trio.current_time() * 1e9)

    def now_ns(self) -> int:
        return self.shift_ns + int(trio.current_time() * 1e9)

    def local_time(self) -> datetime:
        return datetime.fromtimestamp(self.now_ns() / 1e9, self.zone)


class Worker:
    def __init__(self, clock: TrioTime, seconds: float = 0.0, fails: bool = False) -> None:
        self.clock, self.seconds, self.fails = clock, seconds, fails
        self.at: list[datetime] = []

    async def __call__(self) -> int:
        self.at.append(datetime.fromtimestamp(self.clock.now_ns() // 10**9, self.clock.zone))
        await trio.sleep(self.seconds)
        if self.fails:
            raise RuntimeError("a bug")
        return 7


async def passes(scheduler: Scheduler, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await scheduler.run()


def day(date: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2026, 3, date, hour, minute, tzinfo=UTC)


async def test_tasks_run_when_they_are_due_and_not_when_they_are_first_heard_of(autojump_clock, tmp_path):
    clock = TrioTime()
    hourly, weekly = Worker(clock), Worker(clock)
    tasks = [Task("h", parse_schedule("hourly"), hourly), Task("w", parse_schedule("weekly"), weekly)]
    scheduler = Scheduler(tasks, tmp_path / "scheduled.json", clock)
    await passes(scheduler, 3.5 * 3600)
    assert hourly.at == [day(4, 11), day(4, 12), day(4, 13)]
    assert weekly.at == []
    rows = {row["task"]: row for row in scheduler.rows()}
    assert rows["w"]["last_ns"] == 0 and rows["w"]["next_ns"] == int(day(8).timestamp()) * 10**9
    assert rows["h"]["last_exit_status"] == 7
    await passes(scheduler, 5 * 86400)
    assert weekly.at == [day(8)]


async def test_missed_runs_are_made_up_once(autojump_clock, tmp_path):
    clock = TrioTime()
    file = tmp_path / "scheduled.json"
    first = Worker(clock)
    await passes(Scheduler([Task("t", parse_schedule("daily"), first)], file, clock), 60)
    await trio.sleep(10 * 86400)
    second = Worker(clock)
    await passes(Scheduler([Task("t", parse_schedule("daily"), second)], file, clock), 60)
    assert (len(first.at), len(second.at)) == (0, 1)
    third = Worker(clock)
    await passes(Scheduler([Task("t", parse_schedule("daily"), third)], file, clock), 60)
    assert third.at == []


async def test_a_run_that_the_daemon_did_not_see_the_end_of_is_begun_again(autojump_clock, tmp_path):
    clock = TrioTime()
    file = tmp_path / "scheduled.json"
    long = Worker(clock, seconds=10 * 3600)
    await passes(Scheduler([Task("t", parse_schedule("daily"), long)], file, clock), 14 * 3600)
    assert len(long.at) == 1
    again = Worker(clock)
    await passes(Scheduler([Task("t", parse_schedule("daily"), again)], file, clock), 60)
    assert len(again.at) == 1


async def test_a_task_never_runs_beside_itself_and_others_go_on(autojump_clock, tmp_path):
    clock = TrioTime()
    slow, quick = Worker(clock, seconds=2.5 * 3600), Worker(clock)
    tasks = [Task("slow", parse_schedule("hourly"), slow), Task("quick", parse_schedule("hourly"), quick)]
    await passes(Scheduler(tasks, tmp_path / "s", clock), 6 * 3600)
    assert len(quick.at) == 6
    assert all(b - a >= timedelta(hours=2.5) for a, b in zip(slow.at, slow.at[1:], strict=False))


async def test_a_task_that_fails_is_told_and_comes_again(autojump_clock, tmp_path):
    clock = TrioTime()
    broken = Worker(clock, fails=True)
    scheduler = Scheduler([Task("b", parse_schedule("hourly"), broken)], tmp_path / "s", clock)
    await passes(scheduler, 2.5 * 3600)
    assert len(broken.at) == 2
    assert scheduler.rows()[0]["last_exit_status"] == 1


async def test_a_clock_that_jumps_runs_a_task_once_and_one_set_back_keeps_none_from_running(autojump_clock, tmp_path):
    clock = TrioTime()
    worker = Worker(clock)
    scheduler = Scheduler([Task("t", parse_schedule("hourly"), worker)], tmp_path / "s", clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.run)
        await trio.sleep(1)
        clock.shift_ns += 3 * 365 * 86400 * 10**9
        await trio.sleep(2 * LOOK_SECONDS)
        assert len(worker.at) == 1
        clock.shift_ns -= 3 * 365 * 86400 * 10**9
        await trio.sleep(3600)
        assert len(worker.at) == 2
        nursery.cancel_scope.cancel()


async def test_what_clocks_on_the_wall_show_counts(autojump_clock, tmp_path):
    clock = TrioTime()
    clock.zone = timezone(timedelta(hours=5))  # it is 15:15
    worker = Worker(clock)
    await passes(Scheduler([Task("t", parse_schedule("30 15 * * *"), worker)], tmp_path / "s", clock), 86400)
    assert [at.strftime("%H:%M") for at in worker.at] == ["15:30"]


@pytest.mark.parametrize("content", [b"", b"no", b'{"t": {"begun_ns": "x"}}', b"[]"])
async def test_a_file_that_is_damaged_is_no_reason_not_to_run(autojump_clock, tmp_path, content):
    file: Path = tmp_path / "s"
    file.write_bytes(content)
    clock = TrioTime()
    worker = Worker(clock)
    await passes(Scheduler([Task("t", parse_schedule("hourly"), worker)], file, clock), 3600)
    assert len(worker.at) == 1
    assert json.loads(file.read_text())["t"]["status"] == 7


@pytest.mark.parametrize("text", ["", "sometimes", "* * * *", "* * * * * *", "61 * * * *", "0 0 30 2 *", "@daily"])
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(ValueError):
        parse_schedule(text)
