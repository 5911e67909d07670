from __future__ import annotations

import json

import pytest

JOB = '[jobs.docs]\nto = "offsite/main"\nencrypt = "source"\npassword = "office"\npaths = ["/tmp"]\n'


def test_what_is_found_is_said_worst_first(paired):
    paired.add_to_config(JOB)
    done = paired("audit")
    assert done.status == 8
    first = done.out.splitlines()[0]
    assert first.startswith("serious: ") and "no-second-way" in done.out and "transporter run docs" in done.out
    rows = [json.loads(line) for line in paired.json("audit").out.splitlines()]
    assert {"code", "severity", "subject", "reason", "remedy"} == set(rows[0])
    assert [row["code"] for row in rows] == [line.split("\t")[1] for line in paired.quiet("audit").out.splitlines()]


@pytest.mark.parametrize(("bound", "status"), [("never", 0), ("note", 8), ("serious", 8), ("awful", 2)])
def test_how_bad_it_must_be_for_a_status(paired, bound, status):
    paired.add_to_config(JOB)
    assert paired("audit", "--fail-on", bound).status == status


def test_its_sub_commands_are_still_there(node):
    assert node("audit", "verify").status == 0 and node("audit", "log").status == 0


def test_nothing_found_is_said(node):
    done = node("audit", "--fail-on", "note")
    assert (done.status, done.out) == (0, "nothing was found\n")
