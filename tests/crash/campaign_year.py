"""A year of one pair and a copy, with the clock that a year has: `make campaign-year`.

A tree changes daily (on some days hourly) and is backed up; each new point is copied to a second provider; retention
(GFS) at both, a prune a week, a transform and a new password a month; and again and again a command, or a daemon, is
killed with -9 at a random moment and started again. At the end every point that is there must restore byte by byte to
what the tree was that day, at both; the points that are there must be those that the policy keeps, as `year_policy.py`
reads it; and after the last prune no chunk may lie anywhere that no point needs.

Real commands and daemons; their clock is set forward by ``year_clock/sitecustomize.py``.

    python tests/crash/campaign_year.py --days 365 --seed 1 --out docs/campaigns/year.md
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "endtoend"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from compare_trees import differences
from demo import free_port
from e2e_node import PASSWORD, Done, Node, ended, sealed
from year_policy import kept
from year_tree import ChangingTree

from transporter.clock import SystemClock
from transporter.repository import Repository, pack_file

DAY = 86_400.0
RULES = {"last": 3, "daily": 7, "weekly": 4, "monthly": 12}
FEWER = {"last": 2, "daily": 5, "weekly": 8, "monthly": 6}
"""At the copy: another policy, as people have it."""
COMMAND_SECONDS = 180.0
THROUGH = 0.2
"""Share of the copies whose data passes through the source; the others go straight."""


@dataclass
class Place:
    """A repository at a provider. ``expected``: its points, oldest first, and what was committed when."""

    node: Node
    rules: dict[str, int]
    expected: list[tuple[str, float]] = field(default_factory=list)
    # What its retention has taken: no copy brings it back.
    gone: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """As the source calls it."""
        return f"{self.node.home.name}/main"


class Failed(Exception):
    """Something did not hold."""


class Year:
    """Runs the days; raises Failed."""

    def __init__(self, work: Path, seed: int, kills: float) -> None:
        self.work = work
        self.chance = random.Random(seed)
        self.kills = kills
        self.clock_file = work / "clock"
        self.start = time.time()
        self.offset = 0.0
        self.counts: Counter[str] = Counter()
        self.took: dict[str, float] = {}
        self.source = Node(work / "office")
        self.places = [Place(Node(work / name), rules) for name, rules in (("offsite", RULES), ("vault", FEWER))]
        self.tree = ChangingTree(work / "tree", self.chance)
        # By point: the copy of the tree that it must restore to.
        self.was: dict[str, Path] = {}
        self.passwords = 0
        self.killed = False

    # --- the clock ----------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What gives a process the clock of the simulated year."""
        kept_names = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return kept_names | {
            "PYTHONPATH": str(Path(__file__).resolve().parent / "year_clock"),
            "YEAR_CLOCK": str(self.clock_file),
        }

    def at(self, seconds: float) -> None:
        """Set the clock to so many seconds behind the start; it never goes back, and runs on from there."""
        self.offset = round(max(self.offset, seconds - (time.time() - self.start)))
        beside = self.clock_file.with_suffix(".new")
        beside.write_text(f"{self.offset:.0f}\n")
        beside.replace(self.clock_file)

    def now(self) -> float:
        """The simulated time, seconds since 1970."""
        return time.time() + self.offset

    @property
    def nodes(self) -> list[Node]:
        """All three."""
        return [self.source, *(place.node for place in self.places)]

    # --- processes ----------------------------------------------------------------------------------------------

    def run(self, node: Node, *arguments: str | Path, status: int = 0) -> Done:
        """Run a command to its end; it must end with ``status``."""
        began = time.monotonic()
        done = ended(node.spawn(*arguments, env=self.environment), COMMAND_SECONDS)
        self.took[str(arguments[0])] = time.monotonic() - began
        if done.status != status:
            raise Failed(
                f"{node.home.name}: {' '.join(map(str, arguments))} ended with {done.status}: {done.err[-600:]}"
            )
        return done

    def job(self, node: Node, *arguments: str | Path) -> Done:
        """Run a command that may be killed on the way, or whose target may be; then run it (again) to its end."""
        self.killed = self.chance.random() < self.kills
        if self.killed:
            self._kill_once(node, *arguments)
        self.counts[str(arguments[0])] += 1
        return self.run(node, *arguments)

    def _kill_once(self, node: Node, *arguments: str | Path) -> None:
        process = node.spawn(*arguments, env=self.environment)
        moment = self.chance.uniform(0.05, 1.2 * self.took.get(str(arguments[0]), 1.0))
        victim = self.chance.choice(["command", "office", "offsite", "vault"])
        try:
            process.wait(moment)
            self.counts["kills that came too late"] += 1
            return
        except subprocess.TimeoutExpired:
            pass
        self.counts[f"kills of the {victim}"] += 1
        if victim == "command":
            process.kill()
            process.communicate()
            return
        killed = next(each for each in self.nodes if each.home.name == victim)
        killed.kill_daemon()
        if killed is node:
            # It may have met no daemon, and works by itself: then none can start beside it.
            ended(process, COMMAND_SECONDS)
        killed.serve(env=self.environment)
        if killed is not node:
            ended(process, COMMAND_SECONDS)  # however: what it was about is done once more

    # --- what happens -------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Pair the nodes, and make the first point."""
        self.at(0)
        secret = self.work / "password-0"
        secret.write_bytes(PASSWORD + b"\n")
        self.run(self.source, "init", "--name", "office")
        self.run(self.source, "password", "add", "office", "--from-file", secret)
        for place in self.places:
            name = place.node.home.name
            # The same port after each restart: the first provider dials the second, too.
            self.run(place.node, "init", "--name", name, "--listen", f"127.0.0.1:{free_port()}")
            self.run(place.node, "repository", "add", "main")
            place.node.serve(env=self.environment)
            (made,) = self.run(place.node, "invite", "--repository", "main", "--allow-remove").objects
            self.run(self.source, "join", made["invitation"])
        first, second = self.places
        (made,) = self.run(second.node, "invite", "--repository", "main").objects
        self.run(first.node, "join", made["invitation"])
        self.source.serve(env=self.environment)
        self.run(self.source, "backup", "--job", "docs", *sealed(), self.tree.path)
        self._note_new()

    def live(self, place: Place) -> list[dict[str, Any]]:
        """The points that a place lists."""
        done = self.run(self.source, "points", "--job", "docs", "--from", place.name)
        return [row for row in done.objects if row.get("point")]

    def _note_new(self) -> None:
        """A backup ended: its point is what the tree is now."""
        first = self.places[0]
        known = {point for point, _time in first.expected}
        new = [row["point"] for row in self.live(first) if row["point"] not in known]
        # Two where a run was killed when its point was there already: the next run makes another, of the same tree.
        if not 1 <= len(new) <= 1 + self.killed:
            raise Failed(f"a backup left {len(new)} new points")
        snapshot = self.work / "snapshots" / new[0]
        self.tree.copy_to(snapshot)
        for point in new:
            self.was[point] = snapshot
            first.expected.append((point, self.now()))

    def backup(self) -> None:
        """Another run, on a changed tree."""
        self.tree.change()
        self.job(self.source, "run", "docs")
        self._note_new()

    def copy(self) -> None:
        """Copy what is new to the second provider."""
        first, second = self.places
        way = ["--through"] if self.chance.random() < THROUGH else []
        self.job(self.source, "copy", "docs", "--from", first.name, "--to", second.name, *way)
        known = {point for point, _time in second.expected}
        there = {row["point"] for row in self.live(second)}
        missing = [point for point, _time in first.expected if point not in there | second.gone]
        if missing:
            raise Failed(f"{len(missing)} points were not copied")
        if back := there & second.gone:
            raise Failed(f"{len(back)} points that retention had removed were copied again")
        second.expected += [each for each in first.expected if each[0] in there - known]
        second.expected.sort(key=in_order)

    def retention(self, place: Place) -> None:
        """Remove what the policy does not keep, and see that it is that."""
        options = [word for rule, count in place.rules.items() for word in (f"--keep-{rule}", str(count))]
        self.job(self.source, "retention", "docs", *options, "--from", place.name)
        stay = kept([moment for _point, moment in place.expected], place.rules)
        place.gone |= {point for number, (point, _time) in enumerate(place.expected) if number not in stay}
        place.expected = [each for number, each in enumerate(place.expected) if number in stay]
        self.check_points(place)

    def check_points(self, place: Place) -> None:
        """The points that are listed must be those that should be there."""
        there = {row["point"] for row in self.live(place)}
        wanted = {point for point, _time in place.expected}
        if there != wanted:
            raise Failed(f"{place.name}: {len(there - wanted)} points too many, {len(wanted - there)} are missing")

    def transform(self) -> None:
        """Fold the oldest points of the first place."""
        first = self.places[0]
        keep = max(len(first.expected) - 3, 2)
        if len(first.expected) - keep < 2:
            return
        self.job(self.source, "transform", "docs", "--keep", str(keep))
        old, young = first.expected[:-keep], first.expected[-keep:]
        known = {point for point, _time in young}
        new = [row["point"] for row in self.live(first) if row["point"] not in known]
        if len(new) != 1:
            raise Failed(f"a transform left {len(new)} points of {len(old)}")
        if new[0] not in {point for point, _time in old}:
            self.was[new[0]] = self.was[old[-1][0]]
        first.expected = [(new[0], old[-1][1]), *young]
        self.check_points(first)

    def new_password(self) -> None:
        """Change the password of all points."""
        self.passwords += 1
        secret = self.work / f"password-{self.passwords}"
        secret.write_bytes(PASSWORD + b" %d\n" % self.passwords)
        if self.chance.random() < self.kills:
            self._kill_once(self.source, "password", "change", "office", "--from-file", secret)
            done = ended(self.source.spawn("password", "change", "office", "--resume", env=self.environment))
            if done.status == 0:
                self.counts["password change resumed"] += 1
        self.counts["password change"] += 1
        self.run(self.source, "password", "change", "office", "--from-file", secret)

    def prune(self, place: Place, grace: str = "24h") -> None:
        """Give back what nobody needs."""
        self.job(place.node, "prune", "main", "--grace", grace)

    def forget_snapshots(self) -> None:
        """Remove copies of the tree that no place's point is of any more."""
        needed = {self.was[point] for place in self.places for point, _time in place.expected}
        for point, snapshot in list(self.was.items()):
            if snapshot not in needed:
                del self.was[point]
        for snapshot in (self.work / "snapshots").iterdir():
            if snapshot not in needed:
                shutil.rmtree(snapshot)

    def day(self, number: int) -> None:
        """One day."""
        hours = range(24) if number % 73 == 40 else [2]
        for hour in hours:
            self.at(number * DAY + hour * 3600)
            self.backup()
        self.at(number * DAY + 23.2 * 3600)
        self.copy()
        if number % 2 == 0:
            for place in self.places:
                self.retention(place)
        if number % 7 == 6:
            for place in self.places:
                self.prune(place)
            self.forget_snapshots()
        if number % 30 == 29:
            self.transform()
            self.new_password()
            self.restore_one(self.chance.choice(self.places))

    # --- what must hold -----------------------------------------------------------------------------------------

    def restore_one(self, place: Place) -> None:
        """A point of a place, by chance."""
        self.check_restore(place, self.chance.choice(place.expected)[0])

    def check_restore(self, place: Place, point: str) -> None:
        """A point must restore to what the tree was."""
        output = self.work / "restored"
        shutil.rmtree(output, ignore_errors=True)
        self.run(self.source, "restore", "docs", point, "--from", place.name, "--output", output)
        found = list(differences(self.was[point], output))
        if found:
            raise Failed(f"{place.name}: point {point[:8]} is not what the tree was: {found[:3]}")
        self.counts["restores compared"] += 1

    def finish(self) -> None:
        """The last look: every point, every byte, no orphan."""
        for place in self.places:
            self.retention(place)
            for point, _time in place.expected:
                self.check_restore(place, point)
            self.run(place.node, "scrub", "main")
        for hours in (25, 50):
            self.at(self.now() - self.start + hours * 3600)
            for place in self.places:
                self.run(place.node, "prune", "main", "--grace", "0s", "--compact", "100%")
        for place in self.places:
            place.node.stop()
            self.counts[f"orphans at {place.node.home.name}"] = orphans(place.node.repository)
            self.run(place.node, "scrub", "main")
            if self.counts[f"orphans at {place.node.home.name}"]:
                raise Failed(f"{place.name}: chunks that no point needs are left")


def in_order(expected: tuple[str, float]) -> tuple[float, str]:
    """Return what orders points as a provider does: a folded point has the time of the one whose place it took."""
    point, moment = expected
    return moment, point


def orphans(repository: Path) -> int:
    """Count the records in packs that no point needs."""
    with Repository.open(repository, SystemClock(), writable=False) as store:
        needed = {
            chunk
            for tenant in store.tenants()
            for job, point in store.point_ids(tenant)
            for chunk in store.read_needs(tenant, job, point)
        }
    count = 0
    for pack in sorted((repository / "packs").glob("*/*")):
        fd = os.open(pack, os.O_RDONLY)
        try:
            count += sum(entry.chunk_id not in needed for entry in pack_file.read_footer(fd))
        finally:
            os.close(fd)
    return count + len(list((repository / "journal").iterdir()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the year; write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=float, default=0.08, help="share of the commands that are killed once")
    parser.add_argument("--out", type=Path, default=Path("docs/campaigns/year.md"))
    parser.add_argument(
        "--work", type=Path, default=Path("/dev/shm"), help="no power goes: a disk would only be slower"
    )
    parser.add_argument("--keep", action="store_true", help="leave the work folder")
    chosen = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="transporter-year-", dir=chosen.work))
    year = Year(work, chosen.seed, chosen.kills)
    began, failed = time.monotonic(), ""
    day = 0
    try:
        year.set_up()
        for day in range(1, chosen.days + 1):
            year.day(day)
            if day % 10 == 0:
                print(f"day {day}: {dict(year.counts)}", flush=True)
        year.finish()
    except (Failed, AssertionError) as error:
        failed = f"day {day}: {error}"
        print(failed, file=sys.stderr)
    finally:
        for node in year.nodes:
            node.kill()
        if not chosen.keep and not failed:
            shutil.rmtree(work, ignore_errors=True)
    chosen.out.write_text(report(year, chosen, failed, time.monotonic() - began))
    return int(bool(failed))


def report(year: Year, chosen: argparse.Namespace, failed: str, seconds: float) -> str:
    """Return the report."""
    rows = [f"| {name} | {count} |" for name, count in sorted(year.counts.items())]
    left = ", ".join(f"{len(place.expected)} at {place.node.home.name}" for place in year.places)
    return "\n".join(
        [
            "# Campaign: a year",
            "",
            f"Made by `make campaign-year` (tests/crash/campaign_year.py): {chosen.days} days, seed {chosen.seed}; a",
            f"share of {chosen.kills} of all commands is killed on the way (or a daemon), {seconds / 60:.0f} minutes.",
            "",
            f"**{failed or 'Everything held'}**; points at the end: {left}.",
            "",
            "| what | how often |",
            "| --- | ---: |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
