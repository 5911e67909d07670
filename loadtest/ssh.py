"""An sshd of our own on a high port, with throwaway keys, that measures what it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .measure import BenchError, Usage, background, cpu_seconds, process_tree, read_log, wrapped
from .site import LOOPBACK, Site

HOST = "bench-target"  # the alias in the client's configuration
_PRIVILEGE_SEPARATION = Path("/run/sshd")  # sshd as root refuses to start without it
_SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/sftp-server", "/usr/lib/ssh/sftp-server")


def free_port() -> int:
    """Return a loopback port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_line(log: Path, text: bytes, process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """Return once a daemon has written `text` to its log; `BenchError` when it ends before or time is up."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if text in log.read_bytes():
            return
        time.sleep(0.02)
    raise BenchError(f"a daemon does not start: {log.read_bytes()[-2000:].decode(errors='replace').strip()}")


@dataclasses.dataclass(slots=True)
class SshServer:
    """The running server and how a client reaches it."""

    pid: int
    client_config: Path
    usage_log: Path
    _cpu: float = dataclasses.field(default=0.0, repr=False)
    _lines: int = dataclasses.field(default=0, repr=False)

    def client(self, *extra: str) -> list[str]:
        """Return the client command line up to the command to run there."""
        return ["ssh", "-F", str(self.client_config), *extra, HOST]

    def shell(self) -> str:
        """Return the client as one string for ``-e``, ``BORG_RSH`` and the like (without the host)."""
        return shlex.join(["ssh", "-F", str(self.client_config)])

    def start_measuring(self) -> None:
        """Forget what sessions used up to now."""
        self._settle()
        self._cpu = cpu_seconds(self.pid)
        self._lines = len(read_log(self.usage_log))

    def measured(self) -> Usage:
        """Return what the sessions since `start_measuring` used: CPU with sshd's own, peak of the largest process."""
        self._settle()
        peaks = [row.peak for row in read_log(self.usage_log)[self._lines :]]
        return Usage(cpu_seconds(self.pid) - self._cpu, max(peaks, default=0))

    def _settle(self, seconds: float = 10.0) -> None:
        """Wait until every session has been reaped: only then does the server's account hold its CPU time."""
        deadline = time.monotonic() + seconds
        while len(process_tree(self.pid)) > 1:
            if time.monotonic() > deadline:
                raise BenchError("an ssh session of the bench does not end")
            time.sleep(0.01)


@contextlib.contextmanager
def _privilege_separation() -> Iterator[None]:
    made = os.geteuid() == 0 and not _PRIVILEGE_SEPARATION.exists()
    if made:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                _PRIVILEGE_SEPARATION.rmdir()


def sshd_path() -> str | None:
    """Return where sshd is, or None."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


def _write_configuration(folder: Path, address: str, port: int, cipher: str | None) -> tuple[Path, Path, Path]:
    user = getpass.getuser()
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True
        )
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    usage_log = folder / "usage"
    sftp = next((path for path in _SFTP_SERVERS if os.path.exists(path)), "internal-sftp")
    server = {
        "ListenAddress": address,
        "Port": str(port),
        "HostKey": str(folder / "host_key"),
        "AuthorizedKeysFile": str(folder / "authorized_keys"),
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "PrintMotd": "no",
        "Subsystem": f"sftp {sftp}",
        # The person's own shell start-up files and tool settings stay out of it.
        "SetEnv": f"HOME={folder / 'home'}",
        "ForceCommand": shlex.join(wrapped(usage_log, [])),
    }
    client = {
        "HostName": address,
        "Port": str(port),
        "User": user,
        "IdentityFile": str(folder / "user_key"),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(folder / "known_hosts"),
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "no",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
    } | ({"Ciphers": cipher} if cipher else {})
    server_config, client_config = folder / "sshd_config", folder / "ssh_config"
    server_config.write_text("".join(f"{key} {value}\n" for key, value in server.items()))
    lines = "".join(f"    {key} {value}\n" for key, value in client.items())
    client_config.write_text(f"Host {HOST}\n{lines}")
    return server_config, client_config, usage_log


@contextlib.contextmanager
def ssh_server(folder: Path, cipher: str | None = None, site: Site = LOOPBACK) -> Iterator[SshServer]:
    """Run an sshd in `folder`, at the target, while the context lasts. `cipher` None means OpenSSH's own choice."""
    program = sshd_path()
    if program is None or shutil.which("ssh-keygen") is None:
        raise BenchError("openssh is not installed")
    folder.mkdir(mode=0o700)
    (folder / "home").mkdir()
    port = free_port()
    server_config, client_config, usage_log = _write_configuration(folder, site.target_address, port, cipher)
    command = [*site.target, program, "-D", "-e", "-f", str(server_config)]
    with _privilege_separation(), background(command, folder / "log") as process:
        wait_for_line(folder / "log", b"Server listening on", process)
        server = SshServer(process.pid, client_config, usage_log)
        subprocess.run(site.at_source([*server.client(), "true"]), check=True, stdin=subprocess.DEVNULL)
        yield server
