"""What bounds of a search mean as they are typed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from transporter.cli.search_words import parse_kinds, parse_sizes, parse_time
from transporter.errors import UsageError

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
SECOND = 10**9


@pytest.mark.parametrize(
    ("texts", "bounds"),
    [
        ([], (None, None)),
        ([">10M"], ((10 << 20) + 1, None)),
        ([">=10M"], (10 << 20, None)),
        (["<1k"], (None, 1023)),
        (["<= 1kB"], (None, 1000)),
        (["=0"], (0, 0)),
        (["7"], (7, 7)),
        ([">1k", "<1.5G"], (1025, 3 * (1 << 29) - 1)),
        ([">1", ">5", "<9", "<7"], (6, 6)),
    ],
)
def test_sizes(texts, bounds):
    assert parse_sizes(texts) == bounds


@pytest.mark.parametrize("text", ["", ">", "big", ">-1", "10X", "><1"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="--size"):
        parse_sizes([text])


def test_times(monkeypatch):
    day = datetime(2026, 3, 4).astimezone()
    assert parse_time("--from", "", NOW) is None
    assert parse_time("--from", "2026-03-04T12:00:00+00:00", NOW) == int(NOW.timestamp()) * SECOND
    assert parse_time("--from", "14d", NOW) == (int(NOW.timestamp()) - 14 * 86_400) * SECOND
    assert parse_time("--from", "2026-03-04", NOW) == int(day.timestamp()) * SECOND
    end = parse_time("--to", "2026-03-04", NOW, end=True)
    assert end == (int(datetime(2026, 3, 5).astimezone().timestamp())) * SECOND - 1
    assert parse_time("--to", "2026-03-04T01:00:00+00:00", NOW, end=True) == (
        int(datetime(2026, 3, 4, 1, tzinfo=UTC).timestamp()) * SECOND + 999
    )


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "9" * 30 + "d", "-1d"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="--from"):
        parse_time("--from", text, NOW)


def test_types():
    assert parse_kinds([]) == ""
    assert parse_kinds(["f", "d,l"]) == "fdl"
    with pytest.raises(UsageError):
        parse_kinds(["file"])
