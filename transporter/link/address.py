"""``host:port`` as people write it, IPv6 in brackets."""

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


@dataclass(frozen=True)
class Address:
    """Where a transporter listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``. Raises UsageError."""
    match = _ADDRESS.fullmatch(text)
    host, port = (match["v6"] or match["bare"] or match["host"], match["port"]) if match else ("", None)
    if not host or (port is not None and int(port) > _LAST_PORT):
        raise UsageError(f"{text!r} is not an address", "write host:port, for example backup.example.org:6180")
    return Address(host, int(port) if port else DEFAULT_PORT)
