"""What may be forked, and the byte that names it in a request: imports next to nothing, as its workers shall."""

from __future__ import annotations

from transporter.jobs.worker_kinds import KINDS

WAITING = "transporter.jobs.waiting_worker"
KIND_OF = {module: kind for kind, module in KINDS.items()} | {WAITING: b"S"}
PROGRAM = b"P"
"""No worker: see ``forked_programs``."""
