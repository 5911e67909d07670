"""What the report says about the machine and the tools; nothing that names the machine itself."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

_VERSIONS = {
    "restic": ["restic", "version"],
    "borg": ["borg", "--version"],
    "rsync": ["rsync", "--version"],
    "lz4": ["lz4", "--version"],
    "ssh": ["ssh", "-V"],
    "tar": ["tar", "--version"],
}
_NUMBER = re.compile(r"\d+\.\d+(?:\.\d+)?(?:p\d+)?")


def processor() -> str:
    """Return the processor's model name as the kernel tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def memory_bytes() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`."""
    answer = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def tool_version(tool: str) -> str | None:
    """Return the version number of a tool, None when it is not installed."""
    command = _VERSIONS[tool]
    if shutil.which(command[0]) is None:
        return None
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    match = _NUMBER.search(answer.stdout + answer.stderr)
    return match.group(0) if match else "unknown"


def describe(work: Path) -> dict[str, str]:
    """Return label → text for the report's head."""
    tools = {tool: tool_version(tool) for tool in _VERSIONS}
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores (shared by both ends)",
        "memory": f"{memory_bytes() / (1 << 30):.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, {file_system(work)}",
        "Python": platform.python_version(),
        "tools": ", ".join(f"{tool} {version}" for tool, version in tools.items() if version),
    }
