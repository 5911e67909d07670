"""Windows of the week against what clocks on the wall show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.clock import ManualClock, SystemClock
from transporter.quantities import Rate
from transporter.throttle.windows import DAYS, Rule, Schedule, Window, parse_window

MONDAY = datetime(2026, 6, 1)
ZURICH = ZoneInfo("Europe/Zurich")


def at(day, time):
    """A moment of a week that begins on Monday."""
    hour, minute = time.split(":")
    return MONDAY + timedelta(days=DAYS.index(day), hours=int(hour), minutes=int(minute))


def test_a_working_day():
    window = parse_window("Mon-Fri 08:00-18:00")
    assert window.holds(at("Mon", "08:00"))
    assert window.holds(at("Fri", "17:59") + timedelta(seconds=59, microseconds=999_999))
    for day, time in (("Mon", "07:59"), ("Fri", "18:00"), ("Sat", "12:00"), ("Sun", "12:00")):
        assert not window.holds(at(day, time))


def test_a_window_across_midnight_belongs_to_the_day_it_began_on():
    window = parse_window("Fri 22:00-06:00")
    inside = [("Fri", "22:00"), ("Fri", "23:59"), ("Sat", "00:00"), ("Sat", "05:59")]
    outside = [("Fri", "21:59"), ("Fri", "05:00"), ("Sat", "06:00"), ("Sat", "22:00"), ("Sun", "01:00")]
    assert all(window.holds(at(*each)) for each in inside)
    assert not any(window.holds(at(*each)) for each in outside)
    assert parse_window("Sun 23:00-01:00").holds(at("Mon", "00:30"))
    assert parse_window("22:00-06:00").holds(at("Wed", "03:00"))


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("Mon 08:00-09:00", "Mon"),
        ("Sat,Sun 08:00-09:00", "Sat Sun"),
        ("Fri-Mon 08:00-09:00", "Fri Sat Sun Mon"),
        ("Mon,Wed-Fri 08:00-09:00", "Mon Wed Thu Fri"),
        ("08:00-09:00", " ".join(DAYS)),
        ("Tue-Tue 08:00-09:00", "Tue"),
    ],
)
def test_days(text, days):
    window = parse_window(text)
    assert {day for day in DAYS if window.holds(at(day, "08:30"))} == set(days.split())


@pytest.mark.parametrize("text", ["always", "00:00-24:00", "Mon-Sun 00:00-24:00", "Mon-Sun 12:00-11:59"])
@given(st.integers(0, 7 * 1440 - 2))
def test_always(text, minute):
    moment = MONDAY + timedelta(minutes=minute)
    assert parse_window(text).holds(moment) or (text.endswith("11:59") and (moment.hour, moment.minute) == (11, 59))


@given(st.sets(st.integers(0, 6), min_size=1), st.integers(0, 1439), st.integers(0, 1440), st.integers(0, 7 * 1440 - 1))
def test_any_window_holds_when_it_says(days, start, end, minute):
    if start == end:
        return
    names = ",".join(DAYS[day] for day in sorted(days))
    window = parse_window(f"{names} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}")
    length = (end - start) % 1440 or 1440
    began = [(day * 1440 + start + step) % (7 * 1440) for day in days for step in range(length)]
    assert window.holds(MONDAY + timedelta(minutes=minute)) == (minute in began)


@given(st.text(max_size=30))
def test_any_text_is_a_window_or_an_error_for_people(text):
    try:
        assert isinstance(parse_window(text), Window)
    except ValueError as error:
        assert repr(text) in str(error)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is not a window"),
        ("Mon-Fri", "is not a window"),
        ("8:00-18:00", "is not a window"),
        ("mon 08:00-18:00", "'mon' is not a day"),
        ("Monday 08:00-18:00", "'Monday' is not a day"),
        ("Mon- 08:00-18:00", "'' is not a day"),
        ("Mon, 08:00-18:00", "'' is not a day"),
        ("25:00-26:00", "there is no 25:00"),
        ("08:60-18:00", "there is no 08:60"),
        ("08:00-24:01", "there is no 24:01"),
        ("24:00-08:00", "no day begins at 24:00"),
        ("08:00-08:00", "the window is empty"),
        ("always ", "is not a window"),
    ],
)
def test_what_is_no_window(text, what):
    with pytest.raises(ValueError, match=what):
        parse_window(text)


def schedule(**rules):
    return Schedule(tuple(Rule(text, parse_window(text), Rate(rate)) for text, rate in rules.items()))


def test_the_first_window_that_holds_counts():
    rules = {"Mon-Fri 08:00-18:00": 1, "Mon 00:00-24:00": 0, "always": 3}
    limits = schedule(**rules)
    assert limits.rate(at("Mon", "09:00")) == 1
    assert limits.rate(at("Mon", "19:00")) == 0
    assert limits.rate(at("Tue", "19:00")) == 3
    assert schedule(**{"Mon 08:00-09:00": 5}).rate(at("Tue", "08:30")) == 0
    assert Schedule().at(MONDAY) is None


# --- summer time ------------------------------------------------------------------------------------------------


def local(clock, year, month, day, hour, minute):
    """Set a clock to a moment of UTC and return what it shows."""
    clock.wall_ns = int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()) * 10**9
    return clock.local_time()


def test_windows_follow_the_clock_on_the_wall():
    clock, window = ManualClock(zone=ZURICH), parse_window("08:00-18:00")
    assert not window.holds(local(clock, 2026, 1, 15, 6, 30)), "07:30 in winter"
    assert window.holds(local(clock, 2026, 7, 15, 6, 30)), "08:30 in summer"


def test_the_hour_that_comes_twice_and_the_hour_that_is_left_out():
    clock, window = ManualClock(zone=ZURICH), parse_window("Sun 02:00-03:00")
    # 25 October 2026: 02:00 … 03:00 comes at 00:00 and again at 01:00 UTC.
    inside = [window.holds(local(clock, 2026, 10, 25, hour, minute)) for hour in range(4) for minute in (0, 30)]
    assert inside == [True, True, True, True, False, False, False, False]
    assert not window.holds(local(clock, 2026, 10, 24, 23, 59))
    # 29 March 2026: at 01:00 UTC the clock jumps from 02:00 to 03:00.
    assert not any(window.holds(local(clock, 2026, 3, 29, hour, minute)) for hour in range(4) for minute in (0, 59))
    night = parse_window("Sat 22:00-06:00")
    assert all(night.holds(local(clock, 2026, 3, 29, hour, 30)) for hour in range(4))


def test_the_time_of_this_machine(monkeypatch):
    import time

    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert SystemClock().local_time().utcoffset() == timedelta(hours=14)
    finally:
        monkeypatch.undo()
        time.tzset()
