"""``host:port`` as people write it, IPv6 in brackets."""

from __future__ import annotations

from dataclasses import dataclass

from transporter.errors import UsageError

DEFAULT_PORT = 6180
_LAST_PORT = 65535


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
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or (port and not port.isdecimal()) or (port and int(port) > _LAST_PORT):
        raise UsageError(f"{text!r} is not an address", "write host:port, for example backup.example.org:6180")
    return Address(host, int(port) if port else DEFAULT_PORT)
