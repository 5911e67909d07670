"""A link that is cut again and again during one job; the long form is tests/crash/campaign_cuts.py."""

from __future__ import annotations

import pytest
from e2e_node import ended, sealed
from e2e_relay import RandomCuts
from e2e_trees import MIB, assert_same, large_tree

from transporter.link.outbox import UNACKNOWLEDGED_BYTES

CUTS = 20
SIZE = 64
"""MiB, incompressible."""


@pytest.mark.slow
def test_twenty_cuts_of_the_link_leave_one_whole_point(new_pair, relay, tmp_path):
    pair = new_pair()
    line = relay(pair, window=64 << 10)
    tree = large_tree(tmp_path / "tree", SIZE)
    cuts = line.cut_at_random(RandomCuts(CUTS, most=4 * MIB, alone=False))
    done = ended(pair.source.spawn("backup", "--job", "cut", *sealed(), tree), seconds=90)
    assert done.status == 0, done
    assert cuts.done == CUTS
    assert CUTS - 2 <= done.finished["redials"] <= CUTS  # one attempt to dial may meet two cuts
    # What a cut can cost at most is what was not acknowledged yet; whoever began anew each time would be far above.
    assert done.finished["bytes_sent"] < SIZE * MIB + CUTS * UNACKNOWLEDGED_BYTES / 4
    assert len(pair.source.points("cut")) == 1
    pair.source.ok("restore", "cut", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")
