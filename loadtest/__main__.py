"""``python -m loadtest [bench]`` on loopback, ``wan`` over emulated lines, ``keys`` of years: see ``--help``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from . import bench, keys, report
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
    chosen = parser.parse_args(arguments)
    return bench.Options(image=chosen.image, **_common(chosen, WORKS))


def parse_wan(arguments: list[str]) -> wan_bench.Options:
    """Return the chosen options of the bench over emulated lines."""
    parser = _parser("python -m loadtest wan", "the same work over slow, long and lossy lines; as root", WAN_WORKS)
    parser.add_argument("--lines", action="append", default=[], choices=tuple(LINES), help="only these lines")
    chosen = parser.parse_args(arguments)
    lines = tuple(name for name in LINES if not chosen.lines or name in chosen.lines)
    return wan_bench.Options(lines=lines, **_common(chosen, WAN_WORKS))


def _run(arguments: list[str]) -> list[Verdict]:
    if arguments[:1] == ["wan"]:
        return wan_bench.run(parse_wan(arguments[1:]))
    return bench.run(parse(arguments))


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run; 0 when no measured figure is missed, 1 when one is or the bench failed, 130 when interrupted."""
    signal.signal(signal.SIGTERM, _terminate)  # so that a polite end removes processes and folders too
    try:
        if sys.argv[1:2] == ["keys"]:
            return keys.run(sys.argv[2:])
        verdicts = _run(sys.argv[1:])
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    if verdicts:
        print(report.verdict_table(verdicts))
    return int(any(verdict.reached is False for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
