"""``make campaign-kill-keys``: kill -9 before every step of the commands about keys; the report goes into docs/."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "keys" / "kill_steps.py"
BUNDLE = ROOT / "tests" / "crash" / "bundle_kill.py"
REPORT = ROOT / "docs" / "campaigns" / "kill-keys.md"
COMMANDS = {
    "change": "password change",
    "approved": "password remove --approval",
    "rotate": "password rotate",
    "import": "keyset import",
    "answer": "escrow answer",
    "apply": "recover apply",
}


def reports() -> Iterator[tuple[str, dict[str, Any]]]:
    """Return what came of each command. Raises CalledProcessError for one that could not be tried."""
    for name, command in COMMANDS.items():
        (report,) = run(str(SCRIPT), name)
        yield command, report
    for report in run(str(BUNDLE), step="1"):
        yield report["command"], report


def run(script: str, *arguments: str, step: str = "") -> list[dict[str, Any]]:
    """Run a script in a folder of its own; return the lines that it printed."""
    with tempfile.TemporaryDirectory(prefix="transporter-kill-keys-") as folder:
        work = Path(folder) / "work"
        if step:
            work.mkdir()
        command = [sys.executable, script, *arguments, str(work), *([step] if step else [])]
        # A command in which something did not hold ends with 1, and has told what.
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        raise subprocess.CalledProcessError(done.returncode, command)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> int:
    began, rows, failed = time.monotonic(), [], 0
    for command, report in reports():
        print(command, report, flush=True)
        failed += len(report["failed"])
        rows.append(f"| `{command}` | {report['killed']} | {len(report['failed'])} |")
    lines = [
        "# Campaign: kill -9 before every step of the commands about keys",
        "",
        "Made by `make campaign-kill-keys`; tests/keys/kill_steps.py says what a step is, and what must hold after it; "
        "of a",
        f"bundle tests/crash/bundle_kill.py does. {(time.monotonic() - began) / 60:.0f} minutes.",
        "",
        "| command | kills, one before each step | where something did not hold |",
        "| --- | ---: | ---: |",
        *rows,
        "",
    ]
    REPORT.write_text("\n".join(lines))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
