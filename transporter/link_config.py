"""The section ``[link]`` of a configuration: how this node reaches others."""

from __future__ import annotations

from typing import Literal

import msgspec

from transporter.outbound_proxy import parse_proxy

DataCarrier = Literal["auto", "direct", "websocket"]
Congestion = Literal["bbr", "system"]


class LinkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to dial out. ``outbound_proxy``: a URL, ``"none"``, or empty: what the environment variables say.

    ``data``: what carries data channels: a connection of its own, a WebSocket inside TLS, or the first of them that
    works. ``congestion``: what data channels ask the kernel for on long lines; ``system``: what it is set to.
    """

    outbound_proxy: str = ""
    outbound_proxy_password_file: str = ""
    data: DataCarrier = "auto"
    congestion: Congestion = "bbr"

    def __repr__(self) -> str:
        # The proxy may have its password in it.
        return f"LinkConfig(data={self.data!r})"


def link_problem(link: LinkConfig) -> tuple[str, str, str] | None:
    """Return (key, what is wrong, what to do) of the first thing that cannot work, or ``None``.

    Never repeats the proxy's URL.
    """
    field, remedy = "outbound_proxy", 'write "socks5://USER@HOST:PORT", "http://HOST:PORT" or "none"'
    file = link.outbound_proxy_password_file
    if link.outbound_proxy in {"", "none"}:
        if file:
            return "outbound_proxy_password_file", "there is a password, but no proxy in outbound_proxy", remedy
        return None
    try:
        proxy = parse_proxy(link.outbound_proxy)
    except ValueError as error:
        return field, f"outbound_proxy is no proxy that can be used: {error}", remedy
    if file and proxy.password:
        return field, "the proxy has a password here and another one in a file", "take one of them away"
    if file and not proxy.user:
        return field, "there is a password for the proxy, but no user", 'write "socks5://USER@HOST:PORT"'
    if file and not file.startswith("/"):
        return "outbound_proxy_password_file", "the path is not absolute", "start it with /"
    return None
