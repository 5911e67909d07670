from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_kill_9_of_a_writer_breaks_no_promise(tmp_path):
    spec = importlib.util.spec_from_file_location("repository_kill", Path(__file__).with_name("repository_kill.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    promises, broken = module.campaign(tmp_path / "repository", count=6, seed=3, longest=0.25)
    assert broken == []
    assert promises > 6
