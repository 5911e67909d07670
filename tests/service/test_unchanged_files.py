"""Unchanged files are not read again, and nobody asks whether their chunks can still be opened: until the commit."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import msgspec
import pytest
from world import CHEAP, PASSWORD, ZONES, contents

from transporter.config import load_config
from transporter.events import Note
from transporter.keys.database import KeyDatabase

ZONE_CHANGES = list(permutations(["source", "target", "none"], 2))


async def _comes_back(node, job):
    """Fail unless the newest point of ``job`` can be opened, and is what is in the tree."""
    await node.verify(job)
    assert contents(await node.restore(job)) == contents(node.tree)


def _edit(node, before, after):
    text = node.home.config_path.read_text()
    assert before in text
    node.home.config_path.write_text(text.replace(before, after))
    node.config = load_config(node.home.config_path)


def _reads_again(node):
    return any("read again" in note.text for note in node.seen(Note))


def _seal_at_rest(world, password):
    """The provider edits its configuration: ``encrypt_at_rest`` of ``rest``."""
    served = world.provider.repositories["rest"]
    config = msgspec.structs.replace(served.config, encrypt_at_rest=password)
    world.provider.repositories["rest"] = replace(served, config=config)


@pytest.mark.parametrize(("before", "after"), ZONE_CHANGES)
async def test_a_job_whose_zone_was_changed_commits_what_can_be_opened(world, before, after):
    job = {"source": "docs"}.get(before, before)
    await world.source.backup(job)
    _edit(world.source, f"[jobs.{job}]\n{ZONES[before]}", f"[jobs.{job}]\n{ZONES[after]}")
    (world.source.tree / "more").write_text("more")
    await world.source.backup(job)
    await _comes_back(world.source, job)


@pytest.mark.parametrize("passwords", [("vault", ""), ("", "vault")])
async def test_a_repository_that_seals_from_now_on_or_no_more(world, passwords):
    _seal_at_rest(world, passwords[0])
    await world.source.backup("rest")
    _seal_at_rest(world, passwords[1])
    (world.source.tree / "more").write_text("more")
    await world.source.backup("rest")
    await _comes_back(world.source, "rest")


@pytest.mark.parametrize("job", ["target", "rest", "none"])
async def test_a_target_that_lost_its_home_and_took_its_repository_up_again(world, tmp_path, job):
    await world.source.backup(job)
    with KeyDatabase(tmp_path / "keys.db", clock=world.target.clock, parameters=CHEAP) as fresh:
        fresh.add_password("vault", PASSWORD)
        world.provider.keys = world.target.keys = fresh
        (world.source.tree / "more").write_text("more")
        await world.source.backup(job)
        await _comes_back(world.source, job)


async def test_a_parent_whose_slot_has_rotted(world):
    """The target names chunks as before, but holds no key of those that lie there."""
    await world.source.backup("target")
    (slot,) = world.store().path.glob("slots/*/*")
    slot.write_bytes(b"rot" + slot.read_bytes()[3:])
    (world.source.tree / "more").write_text("more")
    assert (await world.source.backup("target")).files_unchanged == 0
    assert _reads_again(world.source)
    await _comes_back(world.source, "target")


@pytest.mark.parametrize("job", ["docs", "target", "none", "rest"])
async def test_as_long_as_nothing_was_changed_nothing_is_read_again(world, job):
    first = await world.source.backup(job)
    assert (await world.source.backup(job)).files_unchanged == first.files > 0
    assert not _reads_again(world.source)
