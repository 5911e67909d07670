"""What a worker process can be: the byte that says so to one that waits, and the module that it becomes."""

from __future__ import annotations

KINDS = {b"R": "transporter.jobs.read_worker", b"W": "transporter.workloads.write_worker"}
