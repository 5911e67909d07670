"""``python -m loadtest [bench]``: see ``--help``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from . import bench, report
from .measure import BenchError
from .peers.base import WORKS

_INTERRUPTED = 130


def default_cache() -> Path:
    """Return the folder where the corpora are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transporter-loadtest"


def parse(arguments: list[str]) -> bench.Options:
    """Return the chosen options."""
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="the same work, side by side")
    parser.add_argument("command", nargs="?", choices=("bench",), default="bench")
    parser.add_argument("--quick", action="store_true", help="small corpora, one run; judges nothing")
    parser.add_argument("--runs", type=int, default=3, help="rounds; medians are over these (default 3)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="contenders whose name begins so")
    parser.add_argument("--works", action="append", default=[], choices=WORKS, help="only these works")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the report (default docs)")
    parser.add_argument("--tree", type=Path, help="an existing file tree instead of the kernel's source")
    parser.add_argument("--image", type=Path, help="an existing image instead of a tar of the tree")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where corpora are kept")
    parser.add_argument("--work", type=Path, help="where to work (default: a folder of its own below /var/tmp)")
    parser.add_argument("--cipher", help="ssh cipher of the peers (default: OpenSSH's own choice)")
    parser.add_argument("--keep", action="store_true", help="leave the work folder")
    chosen = parser.parse_args(arguments)
    return bench.Options(
        out=chosen.out,
        runs=max(1, chosen.runs),
        quick=chosen.quick,
        only=tuple(chosen.only),
        works=tuple(work for work in WORKS if not chosen.works or work in chosen.works),
        tree=chosen.tree,
        image=chosen.image,
        cache=chosen.cache,
        work=chosen.work,
        keep=chosen.keep,
        cipher=chosen.cipher,
    )


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run; 0 when no measured figure is missed, 1 when one is or the bench failed, 130 when interrupted."""
    signal.signal(signal.SIGTERM, _terminate)  # so that a polite end removes processes and folders too
    try:
        verdicts = bench.run(parse(sys.argv[1:]))
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
