"""The fuzzing campaign itself, in small; the large one is run by hand."""

from __future__ import annotations

import random

import pytest


@pytest.fixture(scope="module")
def fuzz(script):
    return script("tests/fuzz/fuzz_protocol.py")


def test_a_small_campaign(fuzz, capsys):
    assert fuzz.campaign(5000, seed=7) == 0
    shown = capsys.readouterr().out
    for outcome in (
        "control: accepted",
        "data: TamperingError (tag)",
        "data: TruncatedError",
        "preface: TamperingError",
    ):
        assert outcome in shown


def test_cases_can_be_run_again(fuzz):
    rng = random.Random()
    assert [fuzz.run_case(3, n, rng) for n in range(50)] == [fuzz.run_case(3, n, rng) for n in range(50)]


def test_an_undocumented_error_fails_the_campaign(fuzz, monkeypatch, capsys):
    def broken(rng):
        raise KeyError("undocumented")

    monkeypatch.setattr(fuzz, "CASES", (("broken", broken),))
    assert fuzz.campaign(3, seed=1) == 1
    assert "case 0 of seed 1" in capsys.readouterr().err
