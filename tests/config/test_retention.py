"""The policy itself: pure, so that properties say what it may never do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter.quantities import Duration
from transporter.retention import PERIODS, Candidate, KeepPolicy, Minimum, decide, decide_for_provider, demanded

NS = 10**9
START = datetime(2024, 1, 1, 3, tzinfo=UTC)


def at(moment):
    return int(moment.timestamp()) * NS


def point(number, moment, **how):
    return Candidate(number.to_bytes(16, "big"), moment if isinstance(moment, int) else at(moment), **how)


def daily(count, start=START):
    return [point(number, start + timedelta(days=number)) for number in range(count)]


def kept(candidates, policy, now=None):
    now = max(each.committed_ns for each in candidates) if now is None else now
    return [int.from_bytes(each.point_id) for each in decide(candidates, policy, now) if each.keep]


# --- examples ---------------------------------------------------------------------------------------------------


def test_the_newest_ones():
    assert kept(daily(10), KeepPolicy(last=3)) == [7, 8, 9]


def test_the_newest_one_of_each_day_week_month_and_year():
    assert kept(daily(800), KeepPolicy(daily=3)) == [797, 798, 799]
    # 2026-03-10 is the last day; Sundays end weeks.
    assert kept(daily(800), KeepPolicy(weekly=3)) == [790, 797, 799]
    assert kept(daily(800), KeepPolicy(monthly=3)) == [761, 789, 799]
    assert kept(daily(800), KeepPolicy(yearly=2)) == [730, 799]
    hours = [point(number, START + timedelta(minutes=20 * number)) for number in range(12)]
    assert kept(hours, KeepPolicy(hourly=2)) == [8, 11]


def test_days_without_a_point_do_not_count():
    gaps = [point(number, START + timedelta(days=30 * number)) for number in range(5)]
    assert kept(gaps, KeepPolicy(daily=3)) == [2, 3, 4]


def test_all_within_a_span_before_the_newest():
    assert kept(daily(10), KeepPolicy(within=Duration(2.5 * 86400))) == [7, 8, 9]
    # A job that stopped long ago loses nothing by the calendar.
    late = at(START + timedelta(days=900))
    assert kept(daily(10), KeepPolicy(within=Duration(2.5 * 86400)), now=late) == [7, 8, 9]


def test_rules_add_up_and_pins_and_locks_keep():
    points = daily(30)
    points[3] = point(3, points[3].committed_ns, pinned="audit")
    points[4] = point(4, points[4].committed_ns, locked_until_ns=2**62)
    points[5] = point(5, points[5].committed_ns, locked_until_ns=1)
    assert kept(points, KeepPolicy(last=1, weekly=2)) == [3, 4, 27, 29]


def test_an_empty_policy_removes_nothing():
    assert kept(daily(10), KeepPolicy()) == list(range(10))


def test_each_verdict_says_why():
    verdicts = decide(daily(9), KeepPolicy(last=1, weekly=2), at(START + timedelta(days=9)))
    assert verdicts[-1].reasons == ("last 1 of 1", "weekly 1 of 2 (2024-W02)", "newest of the job")
    assert verdicts[6].reasons == ("weekly 2 of 2 (2024-W01)",)
    assert verdicts[0].reasons == ("last: 1 newer ones", "weekly: 00000000 stands for 2024-W01")
    assert not verdicts[0].keep


def test_the_stricter_of_job_and_provider_keeps():
    now = at(START + timedelta(days=14))
    wanted = demanded(daily(15), Minimum(age=3 * 86400, policy=KeepPolicy(weekly=3)), now)
    verdicts = decide(daily(15), KeepPolicy(last=1), now, wanted)
    assert [each.minimum for each in verdicts] == [number in (6, 13, 12) for number in range(15)]
    assert "the provider keeps every point for 3d" in verdicts[12].reasons
    assert verdicts[14].point_id in wanted


# --- clocks -----------------------------------------------------------------------------------------------------


KEEPS = Minimum(policy=KeepPolicy(daily=30))


def test_no_copy_takes_the_place_of_a_point_that_was_here_before_it():
    """A tenant dates the originals of copies as it likes: later on each day, or a moment before each point."""
    good, now = daily(10), at(START + timedelta(days=11))
    for beside in (timedelta(hours=6) // timedelta(microseconds=1) * 1000, -500):
        false = [point(100 + n, each.committed_ns + beside, copied_ns=now) for n, each in enumerate(good)]
        wanted = demanded([*good, *false], KEEPS, now)
        assert {each.point_id for each in good} <= wanted.keys()


def test_no_copy_has_a_providers_own_policy_remove_a_point_that_was_here_before_it():
    good, now = daily(10), at(START + timedelta(days=11))
    false = [point(100 + n, each.committed_ns + 6 * 3600 * NS, copied_ns=now) for n, each in enumerate(good)]
    verdicts = decide_for_provider([*good, *false], KeepPolicy(daily=30), now, Minimum())
    stay = {each.point_id: each.reasons for each in verdicts if each.keep}
    assert {each.point_id for each in good} <= stay.keys()
    assert stay[good[0].point_id] == ("daily 11 of 30 (2024-01-01), by when it came",)


def test_copies_are_kept_by_a_providers_own_policy_as_their_originals_are():
    late, policy = START + timedelta(days=11), KeepPolicy(daily=3)
    together = [point(n, each.committed_ns, copied_ns=at(late)) for n, each in enumerate(daily(10))]
    one_by_one = [
        point(n, each.committed_ns, copied_ns=each.committed_ns + 3600 * NS) for n, each in enumerate(daily(10))
    ]
    for copies in (together, one_by_one, daily(10)):
        verdicts = decide_for_provider(copies, policy, at(late), Minimum())
        assert [int.from_bytes(each.point_id) for each in verdicts if each.keep] == [7, 8, 9]


def test_copies_that_come_together_stay_by_the_times_of_their_originals():
    copies = [point(n, each.committed_ns, copied_ns=at(START + timedelta(days=11))) for n, each in enumerate(daily(10))]
    now = at(START + timedelta(days=12))
    assert len(demanded(copies, KEEPS, now)) == 10
    # By when they came all are of one day.
    assert len(demanded(copies, Minimum(policy=KeepPolicy(daily=2)), now)) == 2


def test_a_provider_keeps_points_whose_time_is_not_known():
    """A tenant that sees the provider's clock go wrong could else remove what it keeps."""
    points = [*daily(3), point(7, at(START + timedelta(days=2)) + 1), point(8, START + timedelta(days=900))]
    wanted = demanded(points, Minimum(policy=KeepPolicy(last=1)), at(START + timedelta(days=4)))
    assert [int.from_bytes(each) for each in wanted] == [2, 7, 8]
    assert "clock was behind" in wanted[points[3].point_id][0]
    assert demanded(points, Minimum(age=0.0), at(START)) == {}


def test_points_from_the_future_stay_and_push_nobody_out():
    points = [*daily(10), *(point(20 + n, at(START + timedelta(days=9000 + n))) for n in range(10))]
    now = at(START + timedelta(days=9, hours=1))
    assert kept(points, KeepPolicy(daily=3, last=2), now=now) == [7, 8, 9, *range(20, 30)]


def test_two_points_of_one_time_are_no_made_up_times():
    # A copy, and the copy of the point that a transform put in its place.
    points = [*daily(6), point(9, START + timedelta(days=2))]
    assert kept(points, KeepPolicy(last=2)) == [4, 5]
    assert kept(points, KeepPolicy(daily=4)) == [9, 3, 4, 5]


def test_points_whose_time_was_made_up_stay_and_push_nobody_out():
    points = daily(10)
    made_up = [point(20 + n, points[-1].committed_ns + 1 + n) for n in range(5)]
    assert kept([*points, *made_up], KeepPolicy(daily=2)) == [8, 9, *range(20, 25)]


@pytest.mark.parametrize("ns", [0, 2**63 - 1])
def test_times_beyond_the_calendar_are_decided_on(ns):
    points = [point(1, 0), point(2, ns), point(3, ns)]
    assert 3 in kept(points, KeepPolicy(yearly=1, daily=1, weekly=1), now=2**63 - 1)


# --- properties -------------------------------------------------------------------------------------------------

# Gaps of at least a second: what is nearer was made up.
GAPS = st.lists(st.integers(1, 90 * 86400), min_size=1, max_size=60)
POLICIES = st.builds(
    KeepPolicy,
    last=st.integers(0, 5),
    hourly=st.integers(0, 5),
    daily=st.integers(0, 5),
    weekly=st.integers(0, 5),
    monthly=st.integers(0, 5),
    yearly=st.integers(0, 5),
    within=st.integers(0, 40 * 86400).map(Duration),
)


@st.composite
def histories(draw):
    moment, points = at(START), []
    for number, gap in enumerate(draw(GAPS)):
        moment += gap * NS
        pinned = draw(st.sampled_from([None, None, None, "why"]))
        locked = draw(st.sampled_from([0, 0, 0, moment, 2**62]))
        points.append(Candidate(number.to_bytes(16, "big"), moment, pinned, locked))
    return points


def ids_kept(points, policy, now, minimum=None):
    wanted = demanded(points, minimum, now) if minimum else {}
    return {each.point_id for each in decide(points, policy, now, wanted) if each.keep}


@settings(max_examples=150, deadline=None)
@given(histories(), POLICIES, st.integers(0, 10 * 86400))
def test_what_is_never_removed(points, policy, later):
    now = points[-1].committed_ns + later * NS
    stays = ids_kept(points, policy, now)
    assert points[-1].point_id in stays
    assert {each.point_id for each in points if each.pinned is not None or each.locked_until_ns > now} <= stays
    assert {each.point_id for each in points[len(points) - policy.last :]} <= stays or not policy.last
    if policy.empty:
        assert len(stays) == len(points)


@settings(max_examples=150, deadline=None)
@given(histories(), POLICIES, POLICIES)
def test_a_policy_that_asks_for_more_keeps_more(points, one, other):
    now = points[-1].committed_ns
    both = KeepPolicy(
        last=max(one.last, other.last),
        within=max(one.within, other.within),
        **{name: max(getattr(one, name), getattr(other, name)) for name in PERIODS},
    )
    if not one.empty and not other.empty:
        assert ids_kept(points, one, now) | ids_kept(points, other, now) <= ids_kept(points, both, now)
        assert ids_kept(points, other, now) <= ids_kept(points, one, now, Minimum(policy=other))


@settings(max_examples=150, deadline=None)
@given(histories(), POLICIES)
def test_doing_it_twice_removes_nothing_more(points, policy):
    now = points[-1].committed_ns
    stays = ids_kept(points, policy, now)
    left = [each for each in points if each.point_id in stays]
    assert ids_kept(left, policy, now) == stays


@settings(max_examples=150, deadline=None)
@given(histories(), POLICIES.filter(lambda policy: not policy.empty))
def test_each_period_that_counts_keeps_its_newest_point(points, policy):
    now = points[-1].committed_ns
    stays = ids_kept(points, policy, now)
    for name, period_of in PERIODS.items():
        newest = {}
        for each in points:
            newest[period_of(datetime.fromtimestamp(each.committed_ns // NS, UTC))] = each.point_id
        wanted = getattr(policy, name)
        assert set(list(newest.values())[len(newest) - wanted :] if wanted else []) <= stays


@settings(max_examples=100, deadline=None)
@given(histories(), POLICIES, st.randoms())
def test_the_order_in_which_points_are_given_does_not_matter(points, policy, random):
    now = points[-1].committed_ns
    shuffled = list(points)
    random.shuffle(shuffled)
    assert decide(shuffled, policy, now) == decide(points, policy, now)


@settings(max_examples=100, deadline=None)
@given(histories(), POLICIES, st.integers(1, 20))
def test_points_from_the_future_change_no_verdict_on_others(points, policy, count):
    now = points[-1].committed_ns
    future = [point(1000 + n, now + (1 + n) * 86400 * NS) for n in range(count)]
    stays = ids_kept([*points, *future], policy, now)
    # Only that the newest of them is not the newest of the job any more.
    assert ids_kept(points, policy, now) - {points[-1].point_id} <= stays
    assert {each.point_id for each in future} <= stays
