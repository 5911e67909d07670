"""Outbound TCP connections: direct, or through a SOCKS5 or HTTP CONNECT proxy."""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import trio

from transporter.errors import CannotConnect, ConfigError
from transporter.link import segments
from transporter.link.address import Address
from transporter.link_config import LinkConfig
from transporter.outbound_proxy import OutboundProxy, parse_proxy

# As curl reads them: what is meant for secure connections first, lower case first.
PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
EXCEPTION_VARIABLES = ("no_proxy", "NO_PROXY")
_LONGEST_REASON = 200
_ANSWER_AT_MOST = 4096


# --- which one ------------------------------------------------------------------------------------------------


def choose_proxy(link: LinkConfig, address: Address, environ: Mapping[str, str] = os.environ) -> OutboundProxy | None:
    """Return the proxy through which ``address`` is dialled; None: directly.

    The configuration decides; where it says nothing, the usual environment variables. Raises ConfigError.
    """
    if link.outbound_proxy == "none":
        return None
    if link.outbound_proxy:
        return configured_proxy(link)
    for name in PROXY_VARIABLES:
        text = environ.get(name, "").strip()
        if text:
            return None if is_exempt(address, _exceptions(environ)) else _from_variable(name, text)
    return None


def configured_proxy(link: LinkConfig) -> OutboundProxy:
    """Return the proxy of the configuration, with its password. Raises ConfigError when that cannot be read."""
    proxy = parse_proxy(link.outbound_proxy, "outbound_proxy in [link] of config.toml")
    if not link.outbound_proxy_password_file:
        return proxy
    path = Path(link.outbound_proxy_password_file)
    try:
        password = path.read_bytes().decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        what = f"cannot read the password of the proxy from {path}: {reason}"
        raise ConfigError(what, "check outbound_proxy_password_file in [link]") from None
    return replace(proxy, password=password)


def _from_variable(name: str, text: str) -> OutboundProxy:
    try:
        # Often written without the scheme; it means HTTP then.
        return parse_proxy(text if "://" in text else f"http://{text}", f"the environment variable {name}")
    except ValueError as error:
        remedy = 'write socks5://HOST:PORT or http://HOST:PORT, or set outbound_proxy = "none" in [link]'
        raise ConfigError(f"the environment variable {name} names no proxy that can be used: {error}", remedy) from None


def _exceptions(environ: Mapping[str, str]) -> str:
    return next((environ[name] for name in EXCEPTION_VARIABLES if environ.get(name)), "")


def is_exempt(address: Address, exceptions: str) -> bool:
    """Tell whether ``address`` is dialled directly by ``no_proxy`` (or because it is this machine).

    ``exceptions``: hosts, domains (with all below them), networks, each with ``:port`` if only that is meant; or ``*``.
    """
    host = address.host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost") or _is_loopback(host):
        return True
    return any(_matches(host, address.port, one) for one in exceptions.replace(",", " ").split())


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    ip = _ip(host)
    return ip is not None and (ip.is_loopback or bool(getattr(ip, "ipv4_mapped", None) and ip.ipv4_mapped.is_loopback))  # type: ignore[union-attr]


def _matches(host: str, port: int, exception: str) -> bool:
    if exception == "*":
        return True
    name, only_port = _split_port(exception.lower())
    if only_port is not None and only_port != port:
        return False
    ip = _ip(host)
    if ip is None:
        domain = name.removeprefix("*").strip(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
    try:
        return ip in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def _split_port(exception: str) -> tuple[str, int | None]:
    """``host:port``, ``[v6]:port``; an IPv6 address or network without brackets has no port."""
    if exception.startswith("["):
        name, _, rest = exception[1:].partition("]")
        port = rest.removeprefix(":")
    elif exception.count(":") == 1:
        name, _, port = exception.partition(":")
    else:
        return exception, None
    return name, int(port) if port.isascii() and port.isdigit() else None


# --- dialling -------------------------------------------------------------------------------------------------


async def open_tcp(address: Address, seconds: float, proxy: OutboundProxy | None = None) -> trio.SocketStream:
    """Open a TCP connection to ``address`` within ``seconds``, perhaps through ``proxy``. Raises CannotConnect."""
    try:
        with trio.fail_after(seconds):
            if proxy is None and segments.OF_THIS_PROCESS.wanted(address):
                return await segments.open_small(address.host, address.port)
            if proxy is None:
                return await trio.open_tcp_stream(address.host, address.port)
            return await _through(proxy, address)
    except (OSError, trio.TooSlowError) as error:
        reason = "it does not answer" if isinstance(error, trio.TooSlowError) else str(error)
        if proxy is not None:
            raise _cannot(proxy, address, reason.replace("it does", f"within {seconds:.0f} s it does")) from None
        raise CannotConnect(
            f"cannot connect to {address}: {reason}",
            "check that `transporter serve` runs there and that the port is open",
        ) from error


def _cannot(proxy: OutboundProxy, address: Address, reason: str) -> CannotConnect:
    return CannotConnect(
        f"cannot connect to {address} through the proxy {proxy}: {reason}",
        f"check the proxy {proxy} (from {proxy.named_by or 'the caller'}): that it runs, lets this node through to "
        f"port {address.port}, and knows its user and password",
    )


async def _through(proxy: OutboundProxy, address: Address) -> trio.SocketStream:
    if proxy.kind == "socks5":
        return await _by_socks(proxy, address)
    try:
        stream = await trio.open_tcp_stream(proxy.host, proxy.port)
    except OSError as error:
        raise _cannot(proxy, address, f"the proxy cannot be reached: {error}") from None
    try:
        await _ask_http(stream, proxy, address)
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
        raise
    return stream


async def _by_socks(proxy: OutboundProxy, address: Address) -> trio.SocketStream:
    # Imported where it is needed: most nodes dial directly.
    from python_socks import ProxyType
    from python_socks.async_.trio import Proxy

    # rdns: the proxy resolves names; this node may not be able to, and should not tell its own resolver.
    dialler = Proxy(ProxyType.SOCKS5, proxy.host, proxy.port, proxy.user or None, proxy.password or None, rdns=True)
    try:
        # The caller's deadline counts; this one only has to be later.
        sock = await dialler.connect(address.host, address.port, timeout=3600)
    except UnicodeError:
        raise _cannot(proxy, address, "a name, user or password has signs that cannot be sent to it") from None
    except Exception as error:
        # It has several roots for its errors, not all of them public, and a proxy may say anything.
        raise _cannot(proxy, address, _plain(str(error), proxy)) from None
    return trio.SocketStream(sock)


async def _ask_http(stream: trio.SocketStream, proxy: OutboundProxy, address: Address) -> None:
    """CONNECT (RFC 9110 section 9.3.6). Not python-socks: it takes whatever comes first for the whole answer."""
    import h11

    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", address.authority)]
    if proxy.user:
        secret = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        headers.append(("Proxy-Authorization", f"Basic {secret}"))
    try:
        request = h11.Request(method="CONNECT", target=address.authority, headers=headers)
        asked = (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
        await stream.send_all(asked)
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_ANSWER_AT_MOST)))
    except (h11.ProtocolError, UnicodeError, trio.BrokenResourceError) as error:
        raise _cannot(proxy, address, f"it does not answer as an HTTP proxy ({type(error).__name__})") from None
    if not isinstance(event, h11.Response):
        raise _cannot(proxy, address, "it does not answer as an HTTP proxy")
    if not 200 <= event.status_code < 300:
        reason = f"HTTP status {event.status_code} {bytes(event.reason).decode('utf-8', 'replace')}"
        raise _cannot(proxy, address, _plain(reason, proxy))
    if connection.trailing_data[0]:
        raise _cannot(proxy, address, "it sent more than its answer before anything was asked")


def _plain(reason: str, proxy: OutboundProxy) -> str:
    """What a proxy says goes to terminals and logs: short, without control signs, and without the password."""
    if proxy.password:
        reason = reason.replace(proxy.password, "…")
    shown = "".join(sign if sign.isprintable() else " " for sign in reason)
    return shown[:_LONGEST_REASON] or "no reason given"
