from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.quantities import (
    exact_duration,
    exact_size,
    parse_duration,
    parse_size,
    show_duration,
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
