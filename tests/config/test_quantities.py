from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.quantities import (
    LEAST_RATE,
    MOST_DURATION,
    MOST_RATE,
    MOST_SIZE,
    exact_duration,
    exact_size,
    parse_duration,
    parse_rate,
    parse_size,
    show_duration,
    show_limit,
    show_rate,
    show_size,
)


@given(st.integers(0, 2**62))
def test_sizes_survive_the_config_file(size):
    assert parse_size(exact_size(size)) == size


@given(st.integers(0, 10**9))
def test_durations_survive_the_config_file(seconds):
    assert parse_duration(exact_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1kB", 1000), ("1KiB", 1024), ("2tib", 2 << 40), ("1.5 GB", 1_500_000_000), ("7B", 7)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1XB", "1e9", "1 G B", "१GB x"])
def test_no_sizes(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15m", 900), ("24h", 86400), ("2w", 1209600)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5y", "m"])
def test_no_durations(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36526d", "100000000d", "9" * 400 + "s"])
def test_no_duration_puts_a_date_past_what_the_link_and_the_disk_can_hold(text):
    with pytest.raises(ValueError, match="is longer than a hundred years"):
        parse_duration(text)
    assert parse_duration(exact_duration(MOST_DURATION)) == MOST_DURATION
    # What is locked in 2150 is locked until a time that 64 bits of nanoseconds hold.
    assert (datetime(2150, 1, 1, tzinfo=UTC).timestamp() + MOST_DURATION) * 10**9 < 2**63


@pytest.mark.parametrize("text", ["8193PiB", "99999999999999TiB", "9" * 400])
def test_no_size_is_more_than_can_be_stored(text):
    with pytest.raises(ValueError, match="is more than 8191PiB"):
        parse_size(text)
    assert parse_size(exact_size(MOST_SIZE)) == MOST_SIZE


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1_362_000_000, "1.36 GB"),
        (999_499, "999 kB"),
        (999_999, "1.00 MB"),
        (2 * 10**16, "20.0 PB"),
    ],
)
def test_sizes_for_people(size, text):
    assert show_size(size) == text


def test_durations_and_rates_for_people():
    shown = [show_duration(seconds) for seconds in (0.44, 9.96, 12.2, 59.6, 61, 3599.7, 7387)]
    assert shown == ["0.4 s", "10 s", "12 s", "1:00", "1:01", "1:00:00", "2:03:07"]
    assert show_rate(10**9, 2) == "500 MB/s"
    assert show_rate(1, 0) == "–"


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20Mbit", 2_500_000),
        ("20 Mbit/s", 2_500_000),
        ("1.5Gbit", 187_500_000),
        ("500kbit", 62_500),
        ("64kbit", 8_000),
        ("100000bit", 12_500),
        ("2.5MB/s", 2_500_000),
        ("4MiB/s", 4 << 20),
        ("100kB/s", 100_000),
        ("1GiB/s", 1 << 30),
        ("unlimited", 0),
        (" unlimited ", 0),
    ],
)
def test_limits(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    ["", "20", "Mbit", "20Mb", "20MB", "20mbit", "20MBit", "20Mbps", "-1Mbit", "1e3kbit", "20Mbit/", "2MB/S", "0"],
)
def test_no_limits(text):
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["0bit", "0Mbit", "63kbit", "7kB/s", "2000000Gbit", "9" * 400 + "Mbit"])
def test_limits_that_nobody_means(text):
    with pytest.raises(ValueError, match="is outside 64kbit…1000000Gbit"):
        parse_rate(text)


@given(st.text(max_size=12))
def test_any_text_is_a_limit_or_an_error(text):
    try:
        rate = parse_rate(text)
    except ValueError as error:
        assert repr(text) in str(error)
    else:
        assert rate == 0 or LEAST_RATE <= rate <= MOST_RATE


@given(st.integers(LEAST_RATE, MOST_RATE))
def test_a_limit_in_bytes_is_read_as_it_is(rate):
    assert parse_rate(f"{rate * 8}bit") == rate
    # What is shown is rounded to three digits after the point of its unit.
    assert parse_rate(show_limit(rate)) == pytest.approx(rate, rel=0.001)


def test_limits_for_people():
    shown = [show_limit(rate) for rate in (0, 8_000, 2_500_000, 187_500_000, 62_500, 3 << 20)]
    assert shown == ["unlimited", "64 kbit/s", "20 Mbit/s", "1.5 Gbit/s", "500 kbit/s", "25.166 Mbit/s"]
