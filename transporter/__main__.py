"""``python -m transporter`` is the program ``transporter``."""

from __future__ import annotations

from transporter.cli.main import main

main()
