"""Sessions hold leases, and a prune at any moment of a run harms neither it nor what is committed."""

from __future__ import annotations

from pathlib import Path

import pytest
from reverse_world import until
from world import contents

from transporter.repository import PruneHooks, PruneOptions, prune_beside

EVERYTHING = PruneOptions(grace_seconds=0, compact_below=1)


def leases(place: Path) -> list[Path]:
    return list((place / "leases").glob("session-*"))


def prune_meanwhile(world, monkeypatch, method: str) -> list[int]:
    """Prune by a second opening of the repository whenever a session asks for chunks; return how many waited for."""
    store = world.store()
    really, sessions = getattr(store, method), []

    def asked(*arguments: object, **named: object) -> object:
        sessions.append(prune_beside(store.path, world.provider.clock, EVERYTHING, PruneHooks()).sessions)
        return really(*arguments, **named)

    monkeypatch.setattr(store, method, asked)
    return sessions


@pytest.mark.parametrize("job", ["docs", "target", "none"])
async def test_a_backup_beside_prunes_commits_what_restores(world, monkeypatch, job):
    await world.source.backup(job)
    (world.source.tree / "more").write_bytes(b"new content" * 50_000)
    sessions = prune_meanwhile(world, monkeypatch, "have")
    new = await world.source.backup(job)
    assert sessions and all(sessions)
    await until(lambda: not leases(world.store().path), "the session to be over at the target, too")
    monkeypatch.undo()
    assert contents(await world.source.restore(job, new.point)) == contents(world.source.tree)
    assert world.store().scrub().clean


async def test_a_restore_is_a_session_too(world, monkeypatch):
    await world.source.backup()
    sessions = prune_meanwhile(world, monkeypatch, "read")
    assert contents(await world.source.restore()) == contents(world.source.tree)
    assert sessions and all(sessions)
    await until(lambda: not leases(world.store().path), "the session to be over at the target, too")
