"""Real proxies and front ends, each run for one test: on loopback, a free port, as the user of the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_port import kept_port

PATIENCE = 90.0
# Where Debian has programs that are for root.
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


def program(name: str) -> str:
    """Where a program is; the test is skipped when it is not installed."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed (as root on Debian: make test-tools)")
    return found


@contextlib.contextmanager
def running(words: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program; it is ready when its port takes connections. It, and what it started, ends with the test."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_for_port(process, port, log)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        said = log.read_text(errors="replace")
        assert process.poll() is None, f"{process.args} ended: {said}"
        assert time.monotonic() < deadline, f"{process.args} does not listen: {said}"
        time.sleep(0.01)


# --- proxies --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tinyproxy(folder: Path, user: str = "", password: str = "", more: str = "") -> Iterator[int]:
    """HTTP CONNECT."""
    with kept_port() as port:
        lines = [
            f"Port {port}",
            "Listen 127.0.0.1",
            "Allow 127.0.0.1",
            "Timeout 60",
            "LogLevel Connect",
            "MaxClients 50",
        ]
        lines += [f'PidFile "{folder}/tinyproxy.pid"', *([f"BasicAuth {user} {password}"] if user else []), more]
        conf = folder / "tinyproxy.conf"
        conf.write_text("\n".join(lines) + "\n")
        with running([program("tinyproxy"), "-d", "-c", str(conf)], port, folder / "tinyproxy.log"):
            yield port


@contextlib.contextmanager
def danted(folder: Path, blocked: int = 0) -> Iterator[int]:
    """SOCKS5 without a password (Dante's own users are those of the system). ``blocked``: a port that it refuses."""
    with kept_port() as port:
        who = os.environ.get("USER", "root") if os.getuid() else "root"
        rule = "{ from: 127.0.0.0/8 to: 0.0.0.0/0 %s }"
        conf = folder / "danted.conf"
        conf.write_text(
            f"logoutput: {folder}/danted-own.log\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\n"
            f"clientmethod: none\nsocksmethod: none\nuser.privileged: {who}\nuser.unprivileged: {who}\n"
            f"client pass {rule % ''}\n"
            + (f"socks block {rule.replace('0.0.0.0/0', f'0.0.0.0/0 port = {blocked}') % ''}\n" if blocked else "")
            + f"socks pass {rule % 'protocol: tcp'}\n"
        )
        words = [program("danted"), "-f", str(conf), "-p", str(folder / "danted.pid"), "-N", "1"]
        with running(words, port, folder / "danted.log"):
            yield port


@contextlib.contextmanager
def microsocks(folder: Path, user: str = "", password: str = "") -> Iterator[int]:
    """SOCKS5 with a user and a password of its own."""
    with kept_port() as port:
        words = [
            program("microsocks"),
            "-i",
            "127.0.0.1",
            "-p",
            str(port),
            *(["-u", user, "-P", password] if user else []),
        ]
        with running(words, port, folder / "microsocks.log"):
            yield port


# --- front ends -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def haproxy(folder: Path, mode: str, target: int, certificate: Path | None = None) -> Iterator[int]:
    """A front end: ``mode`` is tcp or http; with a certificate it ends its own TLS."""
    with kept_port() as port:
        conf = folder / "haproxy.cfg"
        tls = f" ssl crt {certificate} alpn http/1.1" if certificate else ""
        conf.write_text(
            "global\n  maxconn 200\n"
            f"defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            f"  timeout tunnel 1h\nfrontend f\n  bind 127.0.0.1:{port}{tls}\n  default_backend b\n"
            f"backend b\n  server target 127.0.0.1:{target}\n"
        )
        with running([program("haproxy"), "-db", "-f", str(conf)], port, folder / "haproxy.log"):
            yield port


NGINX_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@contextlib.contextmanager
def nginx(folder: Path, mode: str, target: int, certificate: Path | None = None) -> Iterator[int]:
    """A front end: ``mode`` is tcp (its stream module) or http: ``/backup`` leads to the tunnel."""
    words = program("nginx")
    with kept_port() as port:
        top = f"daemon off;\nmaster_process off;\nerror_log {folder}/nginx-error.log;\npid {folder}/nginx.pid;\n"
        if mode == "tcp":
            if not NGINX_STREAM_MODULE.exists():
                pytest.skip("nginx has no stream module here (Debian: libnginx-mod-stream)")
            body = f"stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{target}; }} }}\n"
            top = f"load_module {NGINX_STREAM_MODULE};\n{top}"
        else:
            tls = f" ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}" if certificate else ""
            places = " ".join(
                f"{name}_temp_path {folder}/nginx-{name};"
                for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            body = (
                f"http {{ access_log off; {places}\nserver {{ listen 127.0.0.1:{port}{tls};\n"
                f"location /backup {{ proxy_pass http://127.0.0.1:{target}/transporter/v1/tunnel; "
                "proxy_http_version 1.1;\n"
                "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;\n"
                "proxy_read_timeout 1h; proxy_send_timeout 1h; proxy_buffering off; } } }\n"
            )
        conf = folder / "nginx.conf"
        conf.write_text(f"{top}events {{ worker_connections 200; }}\n{body}")
        with running([words, "-p", str(folder), "-c", str(conf)], port, folder / "nginx.log"):
            yield port
