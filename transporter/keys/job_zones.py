"""The zone that each job last ran in: a job that was sealed runs in a weaker zone only if that is allowed.

config.toml says what a job is to do; whoever edits it must not switch the sealing off unnoticed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

from transporter.errors import DamagedData, NoKey
from transporter.keys.approval_table import ApprovalTable
from transporter.keys.deeds import deed
from transporter.keys.places import job_zone_place
from transporter.keys.wrap import WRAP_OVERHEAD, unwrap, wrap

_STRENGTH: Final = {"none": 0, "target": 1, "source": 2}
"""Nobody seals, the target does (and could read), this node does."""


class JobZones(ApprovalTable):
    """See the head of the file."""

    def take_up_zone(self, job: str, zone: str) -> None:
        """Note that ``job`` is about to run in ``zone``.

        A weaker one than before is entered in the audit trail, and may need two operators: NeedsApproval.
        """
        before, noted = self._zone_of(job)
        if before == zone and noted:
            return
        if before is None or _STRENGTH[zone] >= _STRENGTH[before]:
            with self._write() as db:
                self._put_zone(db, job, zone, [])
            return
        what = deed("job.weaken", job, zone)
        self._before(what)
        with self._write() as db:
            facts = self._approved(db, what)
            self._record(db, what.operation, job=job, was=before, zone=zone, **facts)
            names = facts.get("approved_by", [])
            self._put_zone(db, job, zone, names if isinstance(names, list) else [])

    def note_zones(self, zones: Mapping[str, str]) -> None:
        """Note the zones (job → zone) of jobs that have none noted: as four eyes are asked for, of jobs yet to run."""
        for job, zone in zones.items():
            if self._zone_of(job)[0] is None:
                self.take_up_zone(job, zone)

    def _zone_of(self, job: str) -> tuple[str | None, bool]:
        """Return the zone that a job ran in, and whether it is noted."""
        with self._read() as db:
            row = db.execute("SELECT sealed FROM job_zones WHERE job = ?", (job,)).fetchone()
            if row is None:
                # From before zones were noted: a job has a chunk-id key under a password where it was sealed here.
                labels = [label for (label,) in db.execute("SELECT job FROM domains").fetchall()]
                # PEER/REPOSITORY/JOB; what others seal here has another form.
                sealed_here = any(label.count("/") == 2 and label.rpartition("/")[2] == job for label in labels)
                return ("source" if sealed_here else None), False
        try:
            zone = unwrap(self._kek, row[0], job_zone_place(job), length=len(row[0]) - WRAP_OVERHEAD).decode()
        except NoKey:
            raise DamagedData(f"the key database {self._path} is damaged", "put back a copy of it") from None
        return zone, True

    def _put_zone(self, db: sqlite3.Connection, job: str, zone: str, approved_by: list[str]) -> None:
        sealed = wrap(self._kek, zone.encode(), job_zone_place(job), clock=self._clock)
        db.execute("INSERT OR REPLACE INTO job_zones VALUES (?, ?, ?, ?)", (job, zone, "\n".join(approved_by), sealed))
