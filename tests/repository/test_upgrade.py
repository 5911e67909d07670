"""From one format version to the next; and what a program says to a version that it does not know."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from transporter.clock import ManualClock
from transporter.errors import DiskFull, UnsupportedFormat
from transporter.repository import Repository, RepositoryBusy, RepositoryMissing, files
from transporter.repository.upgrade import STEPS, upgrade

VECTORS = Path(__file__).parents[1] / "vectors"
FROZEN = [VECTORS / "repository-v1" / "repository", VECTORS / "repository-v1-later" / "repository"]


@pytest.fixture(params=FROZEN, ids=lambda path: path.parent.name)
def frozen(request, place: Path) -> Path:
    return Path(shutil.copytree(request.param, place))


def step(layout, content):
    """What a version might need: a marker in a file of its own, made so that it can be made again."""
    (layout.root / "index" / "upgraded").write_bytes(b"yes")
    return msgspec.structs.replace(content, quota=12345)


@pytest.fixture
def next_version(monkeypatch):
    monkeypatch.setattr("transporter.repository.limits.FORMAT_VERSION", 2)


def test_a_repository_of_today_is_up_to_date(frozen):
    assert not STEPS, "a step has come: freeze a repository of the version before it, and test it here"
    before = (frozen / "format").read_bytes()
    assert upgrade(frozen) == (1, 1)
    assert (frozen / "format").read_bytes() == before


def test_an_older_repository_is_not_opened_but_led_on_and_then_reads(frozen, next_version):
    with pytest.raises(UnsupportedFormat, match="older version") as met:
        Repository.open(frozen, ManualClock())
    assert "repository upgrade" in met.value.remedy
    assert upgrade(frozen, {1: step}) == (1, 2)
    with Repository.open(frozen, ManualClock()) as repository:
        assert repository.quota == 12345
        assert repository.scrub().clean
    assert upgrade(frozen, {1: step}) == (2, 2)


def test_an_older_program_refuses_a_newer_repository_by_one_line_and_touches_nothing(frozen, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr("transporter.repository.limits.FORMAT_VERSION", 2)
        upgrade(frozen, {1: step})
    before = {path: path.stat().st_mtime_ns for path in frozen.rglob("*")}
    for attempt in (
        lambda: Repository.open(frozen, ManualClock()),
        lambda: Repository.open(frozen, ManualClock(), writable=False),
        lambda: upgrade(frozen),
    ):
        with pytest.raises(UnsupportedFormat) as met:
            attempt()
        assert "\n" not in str(met.value) and "newer version" in met.value.remedy
    assert {path: path.stat().st_mtime_ns for path in frozen.rglob("*")} == before


def test_a_version_that_nothing_leads_on_from_is_told(frozen, next_version):
    with pytest.raises(UnsupportedFormat, match="cannot lead it on"):
        upgrade(frozen, {})


@pytest.mark.parametrize("name", ["create", "write", "sync", "replace", "sync_folder"])
def test_an_upgrade_that_is_cut_short_leaves_one_version_or_the_other_and_goes_on(frozen, next_version, name):
    calls = 0
    with pytest.MonkeyPatch.context() as patch:

        def fail(*_: object) -> None:
            nonlocal calls
            calls += 1
            raise OSError(28, "no space")

        def broken(layout, content):
            patch.setattr(files, name, fail)
            return step(layout, content)

        with pytest.raises(DiskFull):
            upgrade(frozen, {1: broken})
    assert calls == 1
    assert upgrade(frozen, {1: step}) in {(1, 2), (2, 2)}
    with Repository.open(frozen, ManualClock()) as repository:
        assert repository.scrub().clean and not repository.scrub().notes
        assert repository.quota == 12345


def test_a_repository_in_use_is_not_upgraded(frozen, monkeypatch):
    with Repository.open(frozen, ManualClock()), pytest.raises(RepositoryBusy):
        upgrade(frozen)
    with pytest.raises(RepositoryMissing):
        upgrade(frozen / "nowhere")
