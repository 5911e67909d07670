"""``host:port`` as people write it, IPv6 in brackets; ``ws://host:port/path`` behind a front end that speaks HTTP."""

from __future__ import annotations

import re
from dataclasses import dataclass

from transporter.errors import UsageError

DEFAULT_PORT = 6180
_LAST_PORT = 65535
_ADDRESS = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[^\s\[\]]+)?)\]|(?P<host>[^\s:\[\]]+))(?::(?P<port>[0-9]{1,5}))?"
    r"|(?P<bare>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[^\s\[\]]+)?)"
)


_URL = re.compile(r"(?P<scheme>wss?)://(?P<rest>[^/\s]+)(?P<path>/[!-~]*)?")
_URL_PORTS = {"ws": 80, "wss": 443}


@dataclass(frozen=True)
class Address:
    """Where a transporter listens. ``scheme`` is ``ws`` or ``wss`` where an outer WebSocket at ``path`` leads to it."""

    host: str
    port: int
    scheme: str = ""
    path: str = ""

    @property
    def authority(self) -> str:
        """``host:port``, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}" if self.scheme else self.authority


def parse_address(text: str) -> Address:
    """Parse ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``, or ``ws://`` and ``wss://`` with these and a path.

    Raises UsageError.
    """
    url = _URL.fullmatch(text)
    match = _ADDRESS.fullmatch(url["rest"] if url else text)
    if url and match and match["bare"]:
        match = None
    host, port = (match["v6"] or match["bare"] or match["host"], match["port"]) if match else ("", None)
    if not host or (port is not None and int(port) > _LAST_PORT):
        raise UsageError(f"{text!r} is not an address", "write host:port, for example backup.example.org:6180")
    if url:
        return Address(host, int(port) if port else _URL_PORTS[url["scheme"]], url["scheme"], url["path"] or "")
    return Address(host, int(port) if port else DEFAULT_PORT)
