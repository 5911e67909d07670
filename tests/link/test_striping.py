"""How many data channels: a simulated line says what each number of them carries."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.link.striping import FEW, MANY, Striper


def drive(striper, carries, seconds=120.0, *, line_bound=True):
    """Measure until the time is over; return the numbers of channels in use."""
    used, at = [], 0.0
    while at < seconds:
        used.append(striper.streams)
        striper.measured(carries(striper.streams), striper.interval, line_bound=line_bound)
        at += striper.interval
    return used


def test_a_short_line_is_left_alone():
    striper = Striper(32, 0.0005)
    assert set(drive(striper, lambda n: n * 1e6)) == {FEW}
    assert striper.short_line


def test_a_long_line_begins_with_several():
    assert Striper(32, 0.05).streams == MANY
    assert Striper(32, 0.1).streams == 16, "the longer the line, the more"
    assert Striper(3, 0.1).streams == 3


def test_where_each_connection_carries_its_share_all_are_used_within_two_seconds():
    striper = Striper(32, 0.1)
    used = drive(striper, lambda n: n * 500e3, seconds=2.0)
    assert used[-1] == 32


def test_where_the_line_is_full_no_more_are_kept():
    striper = Striper(32, 0.05)
    used = drive(striper, lambda n: 10e6, seconds=60.0)
    assert used.count(MANY) > 0.9 * len(used)


def test_a_line_that_gets_better_with_fewer_comes_down():
    striper = Striper(8, 0.05)
    used = drive(striper, lambda n: 10e6 / n, seconds=200.0)
    assert used[-1] < 8


def test_after_a_trial_in_vain_the_next_one_comes_later():
    striper = Striper(32, 0.05)
    used = drive(striper, lambda n: 10e6, seconds=100.0)
    trials = [at for at in range(1, len(used)) if used[at] != MANY and used[at - 1] == MANY]
    gaps = [later - earlier for earlier, later in itertools.pairwise(trials)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > gaps[0]


def test_what_is_measured_while_the_line_is_idle_says_nothing():
    striper = Striper(32, 0.05)
    assert set(drive(striper, lambda n: n * 1e6, line_bound=False)) == {MANY}


@given(st.integers(1, 32), st.floats(0, 2), st.lists(st.tuples(st.floats(0, 1e9), st.booleans()), max_size=200))
def test_the_number_stays_within_bounds(most, round_trip, measured):
    striper = Striper(most, round_trip)
    for rate, bound in measured:
        assert 1 <= striper.measured(rate, striper.interval, line_bound=bound) <= most


@pytest.mark.parametrize("most", [1, 2])
def test_a_small_maximum_is_obeyed(most):
    assert set(drive(Striper(most, 0.1), lambda n: n * 1e6)) == {most}
