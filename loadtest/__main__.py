"""``python -m loadtest [bench]``: loopback; ``wan``: emulated lines; ``keys``, ``search``, ``mount`` …: ``--help``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from . import bench, chains, copies, keys, mount, report, repositories, restoring, scrub, search, sections
from .figures import Verdict
from .measure import BenchError
from .peers.base import WORKS
from .wan import bench as wan_bench
from .wan.figures import LINES
from .wan.report import WAN_WORKS

_INTERRUPTED = 130


def default_cache() -> Path:
    """Return the folder where the corpora are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transporter-loadtest"


def _parser(program: str, description: str, works: tuple[str, ...]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--quick", action="store_true", help="small corpora, one run; judges nothing")
    parser.add_argument("--runs", type=int, default=3, help="rounds; medians are over these (default 3)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="contenders whose name begins so")
    parser.add_argument("--works", action="append", default=[], choices=works, help="only these works")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the report (default docs)")
    parser.add_argument("--tree", type=Path, help="an existing file tree instead of the kernel's source")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where corpora are kept")
    parser.add_argument("--work", type=Path, help="where to work (default: a folder of its own below /var/tmp)")
    parser.add_argument("--cipher", help="ssh cipher of the peers (default: OpenSSH's own choice)")
    parser.add_argument("--keep", action="store_true", help="leave the work folder")
    return parser


def _common(chosen: argparse.Namespace, works: tuple[str, ...]) -> dict[str, Any]:
    return {
        "out": chosen.out,
        "runs": max(1, chosen.runs),
        "quick": chosen.quick,
        "only": tuple(chosen.only),
        "works": tuple(work for work in works if not chosen.works or work in chosen.works),
        "tree": chosen.tree,
        "cache": chosen.cache,
        "work": chosen.work,
        "keep": chosen.keep,
        "cipher": chosen.cipher,
    }


def parse(arguments: list[str]) -> bench.Options:
    """Return the chosen options of the bench on loopback."""
    parser = _parser("python -m loadtest", "the same work, side by side", WORKS)
    parser.add_argument("command", nargs="?", choices=("bench",), default="bench", help="`wan` has options of its own")
    parser.add_argument("--image", type=Path, help="an existing image instead of a tar of the tree")
    parser.add_argument(
        "--sections",
        action="append",
        choices=(*(section.name for section in sections.SECTIONS), "none"),
        help="only these of the other benches; default: all, and none beside --only or --works",
    )
    chosen = parser.parse_args(arguments)
    everything = not chosen.only and not chosen.works
    names = chosen.sections or [section.name for section in sections.SECTIONS if everything]
    return bench.Options(image=chosen.image, sections=tuple(names), **_common(chosen, WORKS))


def parse_wan(arguments: list[str]) -> wan_bench.Options:
    """Return the chosen options of the bench over emulated lines."""
    parser = _parser("python -m loadtest wan", "the same work over slow, long and lossy lines; as root", WAN_WORKS)
    parser.add_argument("--lines", action="append", default=[], choices=tuple(LINES), help="only these lines")
    chosen = parser.parse_args(arguments)
    lines = tuple(name for name in LINES if not chosen.lines or name in chosen.lines)
    return wan_bench.Options(lines=lines, **_common(chosen, WAN_WORKS))


def _bench(arguments: list[str]) -> int:
    """Run the bench with contenders, then the others, whatever came of it. Raises BenchError."""
    options = parse(arguments)
    failed: BenchError | None = None
    missed = 0
    try:
        missed = _show(bench.run(options))
    except BenchError as error:
        failed = error
    others = sections.run_all(options.sections, options.out, options.work, options.cache, quick=options.quick)
    if failed is not None:
        raise failed
    return max(missed, others)


def _show(verdicts: list[Verdict]) -> int:
    """Print the table; return 1 if a figure is missed, else 0."""
    if verdicts:
        print(report.verdict_table(verdicts))
    return int(any(verdict.reached is False for verdict in verdicts))


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run; 0 when no measured figure is missed, 1 when one is or the bench failed, 130 when interrupted."""
    signal.signal(signal.SIGTERM, _terminate)  # so that a polite end removes processes and folders too
    try:
        if sys.argv[1:2] == ["keys"]:
            return keys.run(sys.argv[2:])
        if sys.argv[1:2] == ["chain"]:
            return chains.run(sys.argv[2:])
        if sys.argv[1:2] == ["repository"]:
            return repositories.run(sys.argv[2:])
        if sys.argv[1:2] == ["restore"]:
            return restoring.run(sys.argv[2:])
        if sys.argv[1:2] == ["search"]:
            return search.run(sys.argv[2:])
        if sys.argv[1:2] == ["mount"]:
            return mount.run(sys.argv[2:])
        if sys.argv[1:2] == ["copy"]:
            return copies.run(sys.argv[2:])
        if sys.argv[1:2] == ["scrub"]:
            return scrub.run(sys.argv[2:])
        if sys.argv[1:2] == ["wan"]:
            return _show(wan_bench.run(parse_wan(sys.argv[2:])))
        return _bench(sys.argv[1:])
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
