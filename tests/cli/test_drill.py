from __future__ import annotations

import pytest

from transporter.catalog import Catalog
from transporter.daemon.requests import DrillRequest, ExplainRequest, JobOutcome
from transporter.jobs.drill_report import DrillReport

POINT = "3f" * 16
WAY = {"kind": "password", "name": "office", "state": "must be typed", "why": "its hash is not kept here"}
CLOSED = {"point": POINT, "job": "docs", "repository": "offsite/main", "ways": [WAY]}


@pytest.fixture
def answers(monkeypatch):
    """What the request would have come to."""
    said = {}

    def run(_terminal, _home, request):
        said["request"] = request
        return JobOutcome(exit_status=0, result=said["result"])

    monkeypatch.setattr("transporter.cli.drill.run_request", run)
    monkeypatch.setattr("transporter.cli.keys.run_request", run)
    return said


def test_all_is_well(node, answers):
    answers["result"] = DrillReport(points=12).public()
    done = node("drill")
    assert done.status == 0 and "12" in done.out and isinstance(answers["request"], DrillRequest)
    assert node.quiet("drill").out == ""
    assert node.json("drill").objects() == [DrillReport(points=12).public()]


def test_points_that_do_not_open_are_listed_and_the_status_is_6(node, answers):
    answers["result"] = DrillReport(12, [CLOSED], ["aa" * 16]).public()
    done = node("drill")
    assert done.status == 6
    assert POINT in done.out and "aa" * 16 in done.out and "2 cannot be opened" in done.err
    assert node.json("drill").objects()[0]["closed"] == [CLOSED]


def test_why_a_way_is_none_is_said(node, answers):
    dead = {"kind": "kms", "name": "main", "state": "opens nothing", "why": "it does not answer"}
    answers["result"] = DrillReport(12, [CLOSED | {"ways": [WAY, dead]}]).public()
    out = " ".join(node("drill").out.split())
    assert "must be typed; kms main opens nothing (it does not answer)" in out


def test_points_that_would_be_lost_with_this_node_are_listed_and_the_status_is_7(node, answers):
    answers["result"] = DrillReport(12, unreached={"elsewhere/main": "no answer"}, here_alone=[CLOSED]).public()
    done = node("drill")
    assert done.status == 7 and POINT in done.out and "1 of 12" in done.err and "lost" in done.err


def test_a_place_that_was_not_reached_is_4(node, answers):
    answers["result"] = DrillReport(12, unreached={"offsite/main": "no answer"}).public()
    done = node("drill")
    assert done.status == 4 and "offsite/main: no answer" in done.err


def test_without_peers_and_repositories_there_is_nothing_to_try(paired):
    with Catalog(paired.path / "catalog.db") as catalog:
        catalog.remove_peer("offsite")
    assert paired("drill").status == 0


def test_a_peer_that_does_not_answer(paired):
    done = paired("drill")
    assert done.status == 4 and "offsite/main" in done.err


def test_explain(node, answers):
    answers["result"] = {"points": [{**CLOSED, "sealed": True}]}
    done = node("keys", "explain", "3F3f")
    assert done.status == 0 and "password office: must be typed" in done.out
    assert answers["request"] == ExplainRequest(point="3f3f")
    assert node.json("keys", "explain", POINT).objects() == [{**CLOSED, "sealed": True}]
    answers["result"] = {"points": [{**CLOSED, "sealed": False, "ways": []}]}
    assert "not sealed" in node("keys", "explain", POINT).out
    answers["result"] = {"points": [{**CLOSED, "sealed": True, "ways": []}]}
    assert "nothing opens it" in node("keys", "explain", POINT).out
    answers["result"] = {"points": []}
    assert node("keys", "explain", POINT).status == 2


@pytest.mark.parametrize("what", ["", "3f", "latest", "3f3g"])
def test_explain_wants_an_id(node, what):
    assert node("keys", "explain", what).status == 2
