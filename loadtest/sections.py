"""The benches that stand beside the one with contenders: each has a page of its own, and a section in benchmarks.md.

A section is what lies between two comments, so that each bench, run alone, puts its own in and leaves the rest.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from .figures import Verdict
from .measure import BenchError
from .report import verdict_table

PAGE = "benchmarks.md"
_SECTION = re.compile(r"<!-- section: (\w+) -->\n(.*?)<!-- end: \1 -->\n", re.S)
_HEAD = "# Benchmarks\n\nMade by `make bench`.\n"
QUICK = "**Small and once (`--quick`): shows that it works, judges nothing.**"


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """``bench``: takes a command line's arguments and returns an exit status; ``module``: of this package."""

    name: str
    title: str
    module: str

    @property
    def page(self) -> str:
        """Return the page of its own."""
        return f"bench-{self.name}.md"

    def bench(self) -> Callable[[list[str]], int]:
        """Return what runs it."""
        from importlib import import_module

        bench: Callable[[list[str]], int] = import_module(f"loadtest.{self.module}").run
        return bench


SECTIONS = (
    Section("copy", "Copies", "copies"),
    Section("scrub", "Scrub", "scrub"),
    Section("repository", "Prune, HAVE, a new index", "repositories"),
    Section("mount", "Mounted points", "mount"),
    Section("restore", "Restores in place", "restoring"),
)


def put(out: Path, name: str, verdicts: Sequence[Verdict], *, quick: bool = False) -> None:
    """Write a section into the page in `out`: what must be, what was seen, and whether that is enough."""
    section = next(each for each in SECTIONS if each.name == name)
    if quick:
        verdicts = [dataclasses.replace(verdict, reached=None) for verdict in verdicts]
    parts = [
        f"## {section.title}",
        f"Made by `make bench-{name}`; more in [{section.page}]({section.page}). "
        f"Load of the machine at the end, over one minute: {os.getloadavg()[0]:.1f}.",
        *([QUICK] if quick else []),
        verdict_table(verdicts),
    ]
    text = "\n\n".join(parts)
    path = out / PAGE
    page = path.read_text() if path.exists() else _HEAD
    sections = {**sections_of(page), name: f"<!-- section: {name} -->\n{text}\n<!-- end: {name} -->\n"}
    path.write_text(with_sections(page, sections))


def sections_of(page: str) -> dict[str, str]:
    """Return the sections of a page, with their comments."""
    return {match[1]: match[0] for match in _SECTION.finditer(page)}


def with_sections(page: str, sections: dict[str, str]) -> str:
    """Return the page with these sections instead of its own, at its end and in their order."""
    rest = _SECTION.sub("", page).rstrip("\n") + "\n"
    ordered = [sections[section.name] for section in SECTIONS if section.name in sections]
    return "\n".join([rest, *ordered])


def run_all(names: Sequence[str], out: Path, work: Path | None, cache: Path, *, quick: bool) -> int:
    """Run benches one after the other; return 1 if one misses a figure or fails, else 0. Each writes its section.

    One that cannot run here (no FUSE, no room) says so in its section, and the others go on.
    """
    worst = 0
    for section in SECTIONS:
        if section.name not in names:
            continue
        print(f"{section.title}…", flush=True)
        arguments = ["--out", str(out), *(["--work", str(work)] if work else []), *(["--quick"] if quick else [])]
        if section.name in ("mount", "restore"):
            arguments += ["--cache", str(cache)]
        try:
            worst = max(worst, section.bench()(arguments))
        except (BenchError, OSError) as error:
            print(f"bench: {section.title}: {error}", flush=True)
            put(out, section.name, [Verdict(section.title, "", f"not measured: {error}", None)], quick=quick)
            worst = 1
    return worst
