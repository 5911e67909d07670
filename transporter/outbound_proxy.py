"""An ordinary proxy through which this node dials out: what people write, and what of it may be shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

KINDS = ("socks5", "http")
# What others call a SOCKS5 proxy that resolves names itself. Ours always does.
_SAME_AS = {"socks5h": "socks5"}
# Lengths that SOCKS5 has a byte for (RFC 1929).
_LONGEST = 255


@dataclass(frozen=True)
class OutboundProxy:
    """A proxy. ``kind``: socks5 or http; ``named_by``: where it stands, for messages. ``str`` hides the password."""

    kind: str
    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    named_by: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{self.user + '@' if self.user else ''}{host}:{self.port}"


def parse_proxy(text: str, named_by: str = "") -> OutboundProxy:
    """Parse ``socks5://[user[:password]@]host:port`` or the same with ``http``.

    Raises ValueError with a sentence that never repeats the text: there may be a password in it.
    """
    kind, separator, _ = text.partition("://")
    kind = _SAME_AS.get(kind, kind)
    if not separator or kind not in KINDS:
        raise ValueError(f"it begins with none of {', '.join(f'{known}://' for known in KINDS)}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("its host or port is not valid") from None
    if not host or not port:
        raise ValueError("it has no host or no port")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("something stands behind its port (signs like / ? # in a password are written as %2F %3F %23)")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if password and not user:
        raise ValueError("it has a password without a user")
    if any(len(one.encode()) > _LONGEST or not (one.isprintable()) for one in (user, password, host)):
        raise ValueError("its user or password is too long, or has signs in it that cannot be typed")
    return OutboundProxy(kind, host, port, user, password, named_by)
