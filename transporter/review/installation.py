"""What a review looks at: read once, from this home alone; nobody is asked over a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from transporter.catalog import Catalog, Peer, Run
from transporter.clock import Clock
from transporter.config import Config
from transporter.errors import DamagedData
from transporter.home import Home
from transporter.keys.database import KeyDatabase, PasswordInfo
from transporter.keys.keyset_table import KeysetInfo

SECOND_NS = 10**9
DAY_NS = 86400 * SECOND_NS
_RUNS = 1000
"""Runs of a job that are looked through for the last good one: three years of daily ones."""


@dataclass(frozen=True)
class Installation:
    """``last``: by (job, operation), when it last ended well, ns; of a drill the job is empty.

    ``trail_problem``: what is wrong with the audit trail; empty: nothing. ``sealing``: the passwords that chunks were
    sealed under here, whoever's they are: a target's configuration does not name those of its tenants' jobs.
    ``newest``: by (destination, job), when the newest point that this home knows to be there was committed, ns.
    ``not_applied``: for active keysets how many points are older, if `keyset apply` has not gone through all since.
    """

    home: Home
    config: Config
    now_ns: int
    peers: list[Peer]
    passwords: list[PasswordInfo]
    keysets: list[KeysetInfo]
    unfinished: list[str]
    last: dict[tuple[str, str], int]
    trail_problem: str
    sealing: tuple[str, ...] = ()
    not_applied: Mapping[str, int] = field(default_factory=dict)
    newest: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def days_since(self, moment_ns: int) -> int:
        """Return whole days between then and now."""
        return max(0, self.now_ns - moment_ns) // DAY_NS


def read_installation(home: Home, config: Config, clock: Clock) -> Installation:
    """Read it. Raises what opening the databases does."""
    with Catalog(home.catalog_db) as catalog, KeyDatabase(home.keys_db, clock=clock) as keys:
        last: dict[tuple[str, str], int] = {}
        for job in config.jobs:
            for run in catalog.runs(job, _RUNS):
                _remember(last, run)
        problem = ""
        try:
            keys.audit.verify(keys.audit_head())
        except DamagedData as error:
            problem = error.what
        applied: dict[str, int] = {}
        for entry in keys.audit.entries() if not problem else ():
            if entry["event"] == "drill" and not entry.get("closed") and not entry.get("unreached"):
                last["", "drill"] = _moment(entry["at"])
            if entry["event"] == "keyset.applied" and entry.get("whole"):
                applied |= dict.fromkeys(entry["keysets"], _moment(entry["at"]))
        return Installation(
            home,
            config,
            clock.now_ns(),
            catalog.peers(),
            keys.list(),
            keys.keysets(),
            sorted({change.name for change in keys.unfinished_changes("")}),
            last,
            problem,
            tuple(info.name for info in keys.list() if keys.jobs_sealed(info.name)),
            {
                info.public.name: keys.storage_keys_before(info.added_ns)
                for info in keys.keysets()
                # Of one second: what the trail says is rounded.
                if info.active and applied.get(info.public.name, 0) < info.added_ns // SECOND_NS * SECOND_NS
            },
            {(destination, job): newest for destination, job, newest in catalog.newest_there()},
        )


def _remember(last: dict[tuple[str, str], int], run: Run) -> None:
    if run.exit_status == 0 and run.finished_ns:
        key = (run.job, run.operation)
        last[key] = max(last.get(key, 0), run.finished_ns)


def _moment(text: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(text).timestamp() * 1e9)
