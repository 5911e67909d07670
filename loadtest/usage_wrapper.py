"""Run one command and append what it used to a file; started as a script, so it imports next to nothing.

``python -I -S usage_wrapper.py LOG [ARGUMENT…]`` runs the arguments; without any it runs ``$SSH_ORIGINAL_COMMAND``
through the shell, which makes it an sshd ``ForceCommand``. One JSON line is appended to LOG when the command ends.

The kernel starts a child's peak memory at its parent's (``exec`` carries the high-water mark over), so the parent has
to be small: this is why the bench does not start the commands itself. The floor it leaves is about 10 MiB.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def run(log: str, arguments: list[str]) -> int:
    """Run the command, append its usage to `log`, return the status a shell would show (0-255)."""
    if not arguments:
        arguments = ["/bin/sh", "-c", os.environ.get("SSH_ORIGINAL_COMMAND", "true")]
    ignored = (signal.SIGINT, signal.SIGTERM)  # the command ends by them; this process stays to reap it
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    started = time.monotonic()
    pid = os.posix_spawnp(arguments[0], arguments, os.environ, setsigdef=ignored)
    _, status, usage = os.wait4(pid, 0)
    line = {
        "command": os.path.basename(arguments[0]),
        "seconds": time.monotonic() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
        "status": status,
    }
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, json.dumps(line).encode() + b"\n")
    finally:
        os.close(handle)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
