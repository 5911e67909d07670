from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.errors import UsageError
from transporter.link.address import DEFAULT_PORT, Address, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("backup.example.org", "backup.example.org", DEFAULT_PORT),
        ("backup.example.org:1234", "backup.example.org", 1234),
        ("10.0.0.1:0", "10.0.0.1", 0),
        ("[::1]:6180", "::1", 6180),
        ("[fe80::1%eth0]", "fe80::1%eth0", DEFAULT_PORT),
        ("::1", "::1", DEFAULT_PORT),
        ("host:65535", "host", 65535),
    ],
)
def test_addresses_as_people_write_them(text, host, port):
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("ws://host", Address("host", 80, "ws"), "ws://host:80"),
        ("wss://host", Address("host", 443, "wss"), "wss://host:443"),
        ("wss://host:8443/a/b?c", Address("host", 8443, "wss", "/a/b?c"), "wss://host:8443/a/b?c"),
        ("ws://[::1]:8080/x", Address("::1", 8080, "ws", "/x"), "ws://[::1]:8080/x"),
    ],
)
def test_addresses_behind_a_front_end(text, address, shown):
    assert parse_address(text) == address
    assert str(address) == shown
    assert parse_address(shown) == address
    assert address.authority in shown


@pytest.mark.parametrize(
    "text",
    [
        "ws://",
        "ws:///x",
        "ws://::1/x",
        "ws://host:x/",
        "ws://host/a b",
        "http://host/",
        "wss://host:99999",
        "ws://h/\x7f",
    ],
)
def test_what_leads_to_no_front_end_is_refused(text):
    with pytest.raises(UsageError, match="not an address"):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    ["", ":6180", "host:", "host:port", "host:65536", "host:-1", "host:6 1", "[::1", "[::1]6180", "[::1]:x", "[]:1"],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match="not an address"):
        parse_address(text)


@given(st.from_regex(r"[a-z0-9.-]{1,30}|[0-9a-f:]{2,20}::[0-9a-f]{1,4}", fullmatch=True), st.integers(0, 65535))
def test_an_address_reads_as_it_was_written(host, port):
    assert parse_address(str(Address(host, port))) == Address(host, port)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_refused(text):
    try:
        made = parse_address(text)
    except UsageError:
        return
    assert made.host and 0 <= made.port <= 65535
