"""An emulated line: two network namespaces, a TUN device in each, and the pump between them. Root only, Linux only."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..measure import BenchError, end_group
from .pipe import Way

PROJECT = Path(__file__).parents[2]
DEVICE = Path("/dev/net/tun")
SMALLEST_QUEUE = 256 << 10
# Packets that may wait for the pump in a device: more than a sender can have under way, so that the only queue that
# drops is the line's own. What the devices dropped all the same is counted.
_DEVICE_QUEUE = 20_000
_NEAR, _FAR = "198.18.0.1", "198.18.0.2"  # RFC 2544, for benchmarks; each namespace has its own routes
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """What the line is like; the same in both directions, with independent loss."""

    rate_bit: float = 100e6
    rtt: float = 0.1  # seconds, without what waits before the bottleneck
    loss: float = 0.0  # probability of each packet
    congestion: str = "cubic"  # the default of both namespaces
    queue_bytes: int | None = None  # None: one bandwidth-delay product, at least 256 KiB
    mtu: int = 1500
    seed: int = 1
    largest: int | None = None  # IP packets above this size vanish
    down: float = 0.0  # seconds of each `every` that the line is down
    every: float = 0.0

    @property
    def queue(self) -> int:
        """Bytes that may wait before the bottleneck."""
        if self.queue_bytes is not None:
            return self.queue_bytes
        return max(SMALLEST_QUEUE, round(self.rate_bit / 8 * self.rtt))

    def ways(self) -> tuple[Way, Way]:
        """Return both directions."""
        shape = (self.rate_bit, self.rtt / 2, self.queue, self.loss)
        up, down = (Way(*shape, seed, self.largest, self.down, self.every) for seed in (self.seed, ~self.seed))
        return up, down

    def words(self) -> str:
        """Return the line in words."""
        return (
            f"{self.rate_bit / 1e6:g} Mbit/s, {self.rtt * 1000:g} ms RTT, {self.loss:.2%} loss, {self.congestion},"
            f" queue {self.queue / 1024:.0f} KiB"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """One end of the line."""

    namespace: str
    address: str
    device: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command that make it run at this end."""
        return ("ip", "netns", "exec", self.namespace)


class Wan:
    """A line that stands."""

    def __init__(self, line: Line, near: End, far: End, pump: subprocess.Popen[bytes]) -> None:
        """Made by `wan_line`."""
        self.line, self.near, self.far = line, near, far
        self._pump = pump
        self.last: dict[str, Any] = {}

    def change(self, **fields: float) -> dict[str, Any]:
        """Change fields of `Way` in both directions (``delay`` is one way); return what was counted until now."""
        assert self._pump.stdin is not None
        assert self._pump.stdout is not None
        try:
            self._pump.stdin.write(json.dumps(fields).encode() + b"\n")
            self._pump.stdin.flush()
            answer = self._pump.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise BenchError("the emulator of the line has ended")
        return dict(json.loads(answer))

    def lap(self) -> dict[str, Any]:
        """Return what was counted since the last lap, and begin anew: ``up`` and ``down``, see `Counters`."""
        return self.change()

    def overruns(self) -> int:
        """Return how many packets the devices dropped because the pump was late: 0, or the line is not what it says."""
        return sum(int(inside(end, "cat", f"/sys/class/net/{end.device}/statistics/tx_dropped")) for end in self.ends)

    @property
    def ends(self) -> tuple[End, End]:
        """Both."""
        return self.near, self.far

    def close(self) -> None:
        """End the pump; what it counted since the last lap stays in `last`."""
        assert self._pump.stdin is not None
        assert self._pump.stdout is not None
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            self._pump.stdin.close()
            self.last = json.loads(self._pump.stdout.readline() or b"{}")
            self._pump.wait(5)
        end_group(self._pump)
        self._pump.stdout.close()


def command(*words: str) -> str:
    """Run a command of the system and return its output; `BenchError` with what it said when it fails."""
    answer = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if answer.returncode:
        raise BenchError(f"`{' '.join(words)}` failed: {answer.stderr.strip()}")
    return answer.stdout


def inside(end: End, *words: str) -> str:
    """Run a command at one end and return its output."""
    return command(*end.prefix, *words)


def reason_against() -> str | None:
    """Return why no line can be emulated here; None where it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces and TUN devices need root"
    if not DEVICE.exists():
        return f"there is no {DEVICE}"
    if shutil.which("ip") is None:
        return "iproute2 (the command ip) is not installed"
    return None


def buffers(end: End) -> dict[str, str]:
    """Return the bounds of the socket buffers at one end, as the kernel shows them."""
    names = ("tcp_rmem", "tcp_wmem")
    return {name: " ".join(inside(end, "cat", f"/proc/sys/net/ipv4/{name}").split()) for name in names}


@contextlib.contextmanager
def _device(name: str) -> Iterator[int]:
    """Make a TUN device; it goes when its last descriptor is closed."""
    try:
        handle = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise BenchError(f"cannot open {DEVICE}: {error.strerror}") from None
    try:
        try:
            flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            # Segments of one sender in one read (see `segments`): else the line alone needs a whole processor.
            fcntl.ioctl(handle, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
        except OSError as error:
            raise BenchError(f"cannot make a TUN device: {error.strerror}") from None
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[None]:
    command("ip", "netns", "add", name)
    try:
        yield
    finally:
        command("ip", "netns", "delete", name)


def _set_up(end: End, other: End, line: Line) -> None:
    """Move the device into its namespace, and give it its address."""
    command("ip", "link", "set", end.device, "netns", end.namespace)
    inside(end, "ip", "link", "set", "lo", "up")
    # Nothing but what the programs at the ends send is on the line: no neighbour or router discovery.
    with contextlib.suppress(BenchError):  # a kernel without IPv6 sends none anyway
        inside(end, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
    inside(end, "ip", "address", "add", end.address, "peer", other.address, "dev", end.device)
    inside(end, "ip", "link", "set", end.device, "mtu", str(line.mtu), "txqueuelen", str(_DEVICE_QUEUE), "up")
    inside(end, "sh", "-c", f"echo {line.congestion} > /proc/sys/net/ipv4/tcp_congestion_control")


@contextlib.contextmanager
def _allowed(congestion: str) -> Iterator[None]:
    """Let namespaces choose a congestion control: only what the machine allows can be the default of one."""
    offered = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    if congestion not in offered:
        raise BenchError(f"this kernel offers no congestion control {congestion!r}, but {', '.join(offered)}")
    path = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
    before = path.read_text()
    if congestion in before.split():
        yield
        return
    path.write_text(f"{before.strip()} {congestion}\n")
    try:
        yield
    finally:
        path.write_text(before)


@contextlib.contextmanager
def wan_line(line: Line) -> Iterator[Wan]:
    """Have a line stand while the context lasts; nothing of it is left afterwards. Raises `BenchError`."""
    reason = reason_against()
    if reason is not None:
        raise BenchError(f"no line can be emulated here: {reason}")
    number = f"{os.getpid()}-{next(_numbers)}"
    near, far = (
        End(f"wan-{number}-{side}", address, f"wan{number}{side[0]}")
        for side, address in (("near", _NEAR), ("far", _FAR))
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(_allowed(line.congestion))
        for end in (near, far):
            stack.enter_context(_namespace(end.namespace))
        with contextlib.ExitStack() as devices:
            handles = [devices.enter_context(_device(end.device)) for end in (near, far)]
            settings = json.dumps([dataclasses.asdict(way) for way in line.ways()])
            pump = subprocess.Popen(
                [sys.executable, "-m", "loadtest.wan.pump", *map(str, handles), settings],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=handles,
                start_new_session=True,  # Ctrl-C is for the bench, which ends the pump in its time
            )
            wan = Wan(line, near, far, pump)
            stack.callback(wan.close)
        for end, other in ((near, far), (far, near)):
            _set_up(end, other, line)
        wan.lap()  # answers when the pump runs
        yield wan
