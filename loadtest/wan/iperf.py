"""What TCP itself gets through the line: iperf3 with some streams."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..measure import background, run
from ..site import Site
from ..ssh import wait_for_line

STREAMS = (1, 4, 8)
SECONDS = 10


def installed() -> bool:
    """Tell whether there is an iperf3."""
    return shutil.which("iperf3") is not None


def parse(text: str) -> float:
    """Return the goodput in bit/s that the receiver saw, from the output of ``iperf3 -J``."""
    return float(json.loads(text)["end"]["sum_received"]["bits_per_second"])


def goodput(site: Site, streams: int, folder: Path, seconds: int = SECONDS) -> float:
    """Send for some seconds, slow start included, from source to target; return bit/s."""
    log = folder / "iperf3"
    log.unlink(missing_ok=True)
    server = site.at_target(["iperf3", "-s", "-1", "-B", site.target_address, "--forceflush"])
    with background(server, log) as process:
        wait_for_line(log, b"Server listening", process)
        client = ["iperf3", "-c", site.target_address, "-P", str(streams), "-t", str(seconds), "-J"]
        return parse(run(site.at_source(client)).output)
