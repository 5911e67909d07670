"""``make campaign-model``: the model-based test of repositories for as long as one likes; a report for docs/."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.repository.test_model import DONE, Everything

REPORT = Path(__file__).parents[2] / "docs" / "campaigns" / "model.md"


def attempt(examples: int, steps: int) -> str:
    """Run so many examples, each another one; return what was found, "" for nothing."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        # Found is found: to make it small takes minutes, and the test does it from the sequence that is printed.
        phases=[Phase.generate],
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(Everything, settings=chosen)
    except Exception:
        return traceback.format_exc()
    return ""


def report(minutes: float, cpu: float, steps: int, failures: list[str]) -> str:
    """Return the page."""
    names = sorted(name.removeprefix("deed ") for name in DONE if name.startswith("deed "))
    lines = [
        "# Campaign: a repository and its copy against a plain model",
        "",
        "Made by `make campaign-model` (tests/crash/campaign_model.py); tests/repository/test_model.py says what is",
        "done, what the model knows and what must hold after each deed, each crash, and at the end.",
        "",
        f"{DONE['examples']:,} sequences of up to {steps} deeds in {minutes:.0f} minutes ({cpu / 60:.0f} of processor):"
        f" {DONE['deeds']:,} deeds, {DONE['kills']:,} kills and {DONE['power cuts']:,} power cuts."
        f" Sequences after which something did not hold: {len(failures)}.",
        "",
        "| deed | done or refused, as it must be | cut short |",
        "| --- | ---: | ---: |",
        *(
            f"| {name.replace('_', ' ')} | {DONE[f'deed {name}'] - DONE[f'cut {name}']:,} | {DONE[f'cut {name}']:,} |"
            for name in names
        ),
        "",
        "| cut short before | times |",
        "| --- | ---: |",
        *(
            f"| `{name.removeprefix('before ')}` | {count:,} |"
            for name, count in sorted(DONE.items())
            if name.startswith("before ")
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Go on until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="for how long (default 20)")
    parser.add_argument("--steps", type=int, default=40, help="deeds of a sequence at most (default 40)")
    parser.add_argument("--report", type=Path, default=REPORT, help="where the report goes")
    chosen = parser.parse_args()
    began, worked = time.monotonic(), os.times()
    failures: list[str] = []
    while time.monotonic() - began < 60 * chosen.minutes and len(failures) < 3:
        if found := attempt(50, chosen.steps):
            failures.append(found)
            print(found, flush=True)
        print(
            f"{(time.monotonic() - began) / 60:.1f} minutes: {DONE['examples']} sequences, {DONE['deeds']} deeds",
            flush=True,
        )
    now = os.times()
    cpu = now.user + now.system - worked.user - worked.system
    chosen.report.write_text(report((time.monotonic() - began) / 60, cpu, chosen.steps, failures))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
