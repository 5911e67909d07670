"""A limit on what is received, shared among those who send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.throttle.sharing import share_out

LIMIT = 1_000_000.0
flows = st.lists(st.tuples(st.floats(0, 2 * LIMIT), st.floats(0, LIMIT)), min_size=1, max_size=40)


@given(flows)
def test_shares_add_up_to_the_limit_and_nobody_is_shut_out(each):
    shares = share_out(LIMIT, *zip(*each, strict=True))
    assert sum(shares) == pytest.approx(LIMIT)
    assert min(shares) >= LIMIT * 0.05 / len(each) * 0.999


def test_one_alone_has_all_of_it():
    for used, share in ((0, 0), (0, LIMIT), (LIMIT, LIMIT), (LIMIT / 3, LIMIT)):
        assert share_out(LIMIT, [used], [share]) == [LIMIT]


def test_those_who_are_new_or_fill_their_share_have_equal_shares():
    assert share_out(LIMIT, [0, 300_000, 240_000, 0], [0, 300_000, 300_000, 0]) == [LIMIT / 4] * 4


def test_an_idle_one_leaves_its_share_to_the_others():
    shares = share_out(LIMIT, [0.0, LIMIT / 2], [LIMIT / 2, LIMIT / 2])
    assert shares[1] >= 0.97 * LIMIT
    # It begins: what little it was left is full at once, and half the limit is its own again.
    assert share_out(LIMIT, [shares[0], shares[1]], shares) == [LIMIT / 2] * 2


def test_nobody_gets_less_than_the_modest_because_it_wants_more():
    used, shares = [100_000, 700_000, 50_000], [300_000, 700_000, 0]
    fresh = share_out(LIMIT, used, shares)
    assert fresh[0] == pytest.approx(125_000)
    assert fresh[1] == fresh[2] == pytest.approx((LIMIT - 125_000) / 2)


def test_nobody_under_a_limit():
    assert share_out(LIMIT, [], []) == []
