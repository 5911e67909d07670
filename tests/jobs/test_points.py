"""Which point is meant: what a person typed, in the zone that this end expects, and no older than what it committed."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.errors import DamagedData, RefusedByPeer, UsageError
from transporter.jobs.points import DAMAGED, PointRow, Where, check_newest, choose_point, expected_zone, where_of
from transporter.points.keeping_rows import ChainRow, decode_chain, encode_rows

WHERE = Where("offsite", "main", "docs")


def row(point, **fields):
    return PointRow(**{"point": point, "job": "docs", "kind": "full", "created_ns": 1, "zone": "source", **fields})


ids = st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=6, unique=True)


@given(ids, st.data())
def test_the_shortest_beginning_that_is_unique_names_a_point_and_a_shorter_one_does_not(points, data):
    rows = [row(point) for point in points]
    wanted = data.draw(st.sampled_from(rows)).point.hex()
    for length in range(33):
        text = wanted[:length]
        alike = [each for each in rows if each.point.hex().startswith(text)]
        if text and len(alike) == 1:
            assert choose_point(rows, text.upper(), "docs", "source").point.hex() == wanted
        else:
            with pytest.raises(UsageError):
                choose_point(rows, text, "docs", "source")


@given(ids)
def test_the_latest_is_the_last_that_was_listed(points):
    assert choose_point([row(point) for point in points], "latest", "docs", "source").point == points[-1]


@pytest.mark.parametrize(
    ("rows", "text", "error"),
    [
        ([], "latest", UsageError),
        ([row(b"p" * 16)], "ff", UsageError),
        ([row(b"p" * 16, kind=DAMAGED, zone="")], "latest", DamagedData),
        ([row(b"p" * 16, zone="none")], "latest", RefusedByPeer),
        ([row(b"p" * 16, zone="none")], b"p".hex(), RefusedByPeer),
    ],
    ids=["none", "unknown", "damaged", "of another zone", "of another zone, by its id"],
)
def test_points_that_cannot_be_meant(rows, text, error):
    with pytest.raises(error):
        choose_point(rows, text, "docs", "source")


@pytest.mark.parametrize(
    ("stated", "job", "zone"), [("none", "docs", "none"), ("", "docs", "target"), ("", "unknown", "source")]
)
def test_the_zone_is_as_stated_else_as_configured_else_the_strictest(stated, job, zone):
    context = SimpleNamespace(config=SimpleNamespace(jobs={"docs": SimpleNamespace(encrypt="target")}))
    assert expected_zone(context, job, stated) == zone


def context_of(last, committed_ns=100, destination="offsite/main"):
    kept = last and SimpleNamespace(point=last, committed_ns=committed_ns, destination=destination)
    return SimpleNamespace(catalog=SimpleNamespace(last_point=lambda _job: kept))


OLD, LAST = b"o" * 16, b"l" * 16


def test_an_older_point_is_not_the_latest():
    with pytest.raises(RefusedByPeer, match="as the newest restore point"):
        check_newest(context_of(LAST), WHERE, "latest", OLD, 99)


@pytest.mark.parametrize(
    ("context", "text", "created_ns"),
    [
        (context_of(LAST), OLD.hex(), 99),
        (context_of(None), "latest", 99),
        (context_of(OLD), "latest", 99),
        (context_of(LAST), "latest", 100),
        (context_of(LAST, destination="offsite/rest"), "latest", 99),
    ],
    ids=["named", "nothing committed", "committed here", "newer", "of another repository"],
)
def test_every_other_point_may_be_used(context, text, created_ns):
    check_newest(context, WHERE, text, OLD, created_ns)


def test_where_a_job_is_comes_from_what_is_said_else_from_its_configuration():
    context = SimpleNamespace(config=SimpleNamespace(job=lambda _: SimpleNamespace(peer="offsite", repository="main")))
    assert where_of(context, "docs", "") == WHERE
    assert str(where_of(context, "docs", "other/rest")) == "other/rest"
    for text in ("other", "/rest", "other/"):
        with pytest.raises(UsageError, match="PEER/REPOSITORY"):
            where_of(context, "docs", text)


@pytest.mark.parametrize("word", ["docs\n", "\x1b[2J", "\x9b1m"])
def test_what_a_target_says_holds_no_control_characters(word):
    """Nor a line's end at its end, which ``$`` of a pattern would let pass."""
    good = {"point": b"p" * 16, "job": "docs", "kind": "full", "created_ns": 1}
    assert msgspec.convert(good, PointRow).job == "docs"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**good, "job": word}, PointRow)
    row = ChainRow(b"p" * 16, b"h" * 32, 1, kept=word)
    with pytest.raises(msgspec.DecodeError):
        decode_chain(encode_rows([row]))
