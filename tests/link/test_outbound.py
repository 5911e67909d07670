"""Which proxy is meant, for which address, and what is said of it."""

from __future__ import annotations

import pytest

from transporter.config import parse_config
from transporter.errors import CannotConnect, ConfigError
from transporter.link.address import parse_address
from transporter.link.outbound import choose_proxy, configured_proxy, is_exempt, open_tcp
from transporter.link_config import LinkConfig
from transporter.outbound_proxy import OutboundProxy, parse_proxy

SECRET = "s3cr3t-of-the-proxy"
FAR = parse_address("backup.example.org:6180")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("socks5://proxy:1080", OutboundProxy("socks5", "proxy", 1080)),
        ("socks5h://proxy:1080/", OutboundProxy("socks5", "proxy", 1080)),
        ("http://[::1]:3128", OutboundProxy("http", "::1", 3128)),
        ("http://ann:a%40b%2Fc@proxy:8080", OutboundProxy("http", "proxy", 8080, "ann", "a@b/c")),
    ],
)
def test_what_people_write(text, expected):
    assert parse_proxy(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "proxy:1080", "https://proxy:1", "socks4://proxy:1", "socks5://", "socks5://proxy", "http://proxy:0"),
        *("http://proxy:70000", "http://proxy:x", "http://proxy:1/path", "http://proxy:1?q", "http://:pass@proxy:1"),
        *(f"http://{'u' * 256}@proxy:1", "socks5://a%0d%0ab:c@proxy:1"),
    ],
)
def test_what_is_no_proxy(text):
    with pytest.raises(ValueError, match=r"it |its |something"):
        parse_proxy(text)


@pytest.mark.parametrize(
    "text", [f"ftp://ann:{SECRET}@proxy:1", f"http://ann:{SECRET}@proxy", f"http://ann:{SECRET}@proxy:1/x"]
)
def test_no_message_repeats_a_password(text, tmp_path):
    with pytest.raises(ValueError) as caught:
        parse_proxy(text)
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError) as refused:
        parse_config(f'[node]\nname = "a"\n[link]\noutbound_proxy = "{text}"\n', tmp_path / "config.toml")
    assert SECRET not in str(refused.value)
    with pytest.raises(ConfigError) as named:
        choose_proxy(LinkConfig(), FAR, {"https_proxy": text})
    assert SECRET not in str(named.value)
    assert "https_proxy" in str(named.value)


def test_a_proxy_is_shown_without_its_password():
    proxy = parse_proxy(f"socks5://ann:{SECRET}@[::1]:1080")
    assert str(proxy) == "socks5://ann@[::1]:1080"
    link = LinkConfig(outbound_proxy=f"http://ann:{SECRET}@proxy:1")
    for shown in (repr(proxy), repr(link), f"{choose_proxy(link, FAR)!r}"):
        assert SECRET not in shown


# --- where it stands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"http_proxy": "http://a:1"}, None),
        ({"ALL_PROXY": "socks5://a:1"}, "socks5://a:1"),
        ({"all_proxy": "socks5://a:1", "ALL_PROXY": "socks5://b:1"}, "socks5://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "all_proxy": "socks5://b:1"}, "http://a:1"),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}, "http://a:1"),
        ({"https_proxy": "", "ALL_PROXY": "a:1"}, "http://a:1"),
        ({"https_proxy": "http://a:1", "no_proxy": "example.org"}, None),
        ({"https_proxy": "http://a:1", "NO_PROXY": "other.org"}, "http://a:1"),
    ],
)
def test_the_environment_where_the_configuration_says_nothing(environ, expected):
    found = choose_proxy(LinkConfig(), FAR, environ)
    assert (None if found is None else str(found)) == expected
    assert choose_proxy(LinkConfig(outbound_proxy="none"), FAR, environ) is None
    mine = choose_proxy(LinkConfig(outbound_proxy="socks5://mine:1"), FAR, environ)
    assert str(mine) == "socks5://mine:1"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"])
def test_this_machine_is_never_reached_through_a_proxy_of_the_environment(address):
    assert choose_proxy(LinkConfig(), parse_address(address), {"ALL_PROXY": "http://a:1"}) is None
    assert choose_proxy(LinkConfig(outbound_proxy="http://a:1"), parse_address(address), {}) is not None


@pytest.mark.parametrize(
    ("address", "exceptions", "exempt"),
    [
        ("a.example.org:1", "example.org", True),
        ("a.example.org:1", ".example.org", True),
        ("a.example.org:1", "*.example.org", True),
        ("A.Example.ORG:1", "x, EXAMPLE.org", True),
        ("example.org:1", ".example.org", True),
        ("badexample.org:1", "example.org", False),
        ("example.org.evil:1", "example.org", False),
        ("example.org:1", "*", True),
        ("example.org:1", "", False),
        ("example.org:6180", "example.org:6180", True),
        ("example.org:6181", "example.org:6180", False),
        ("10.1.2.3:1", "10.0.0.0/8", True),
        ("11.1.2.3:1", "10.0.0.0/8", False),
        ("10.1.2.3:1", "10.1.2.3", True),
        ("10.1.2.3:1", "2.3", False),
        ("10.1.2.3:5", "10.1.2.3:6", False),
        ("[fd00::1]:1", "fd00::/8", True),
        ("[fd00::1]:1", "[fd00::1]:1", True),
        ("[fd00::1]:1", "[fd00::1]:2", False),
        ("[fe80::1%eth0]:1", "fe80::/10", True),
        ("example.org:1", "10.0.0.0/8 192.168.0.0/16,example.org", True),
    ],
)
def test_no_proxy(address, exceptions, exempt):
    assert is_exempt(parse_address(address), exceptions) is exempt


# --- the configuration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ('outbound_proxy = "proxy:1"', "5:1"),
        ('outbound_proxy = "http://ann:x@proxy:1"\noutbound_proxy_password_file = "/p"', "another one in a file"),
        ('outbound_proxy = "http://proxy:1"\noutbound_proxy_password_file = "/p"', "no user"),
        ('outbound_proxy = "http://ann@proxy:1"\noutbound_proxy_password_file = "p"', "not absolute"),
        ('outbound_proxy_password_file = "/p"', "no proxy"),
        ('data = "udp"', '"auto", "direct" or "websocket"'),
        ("dta = 1", "did you mean 'data'"),
    ],
)
def test_a_wrong_section_is_named(lines, what, tmp_path):
    with pytest.raises(ConfigError) as caught:
        parse_config(f'[node]\nname = "a"\n\n[link]\n{lines}\n', tmp_path / "config.toml")
    assert what in str(caught.value)


def test_a_password_from_a_file(tmp_path):
    file = tmp_path / "password"
    link = LinkConfig(outbound_proxy="http://ann@proxy:1", outbound_proxy_password_file=str(file))
    with pytest.raises(ConfigError, match=r"cannot read the password .* No such file"):
        configured_proxy(link)
    file.write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        configured_proxy(link)
    file.write_text(f"{SECRET}\n")
    assert configured_proxy(link).password == SECRET


async def test_a_proxy_that_is_not_there_is_named_without_its_password():
    proxy = parse_proxy(f"socks5://ann:{SECRET}@127.0.0.1:1", "outbound_proxy in [link] of config.toml")
    with pytest.raises(CannotConnect) as caught:
        await open_tcp(FAR, 5, proxy)
    text = str(caught.value)
    assert "socks5://ann@127.0.0.1:1" in text
    assert "outbound_proxy in [link]" in text
    assert SECRET not in text
