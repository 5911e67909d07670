"""The list of needed chunks on its way to a commit: in a file from some length on, and nothing is left of it."""

from __future__ import annotations

import errno
import os

import pytest
import trio
from blake3 import blake3
from reverse_world import until
from world import contents

from transporter.errors import DiskFull, RefusedByPeer
from transporter.points import needed_chunks as needs_module
from transporter.points.needed_chunks import NeededChunks
from transporter.points.run_keys import RunKeys
from transporter.service import starting


def ids(count):
    return b"".join(number.to_bytes(32, "big") for number in range(count))


@pytest.mark.parametrize("count", [0, 1, 10_000, 100_000])
def test_it_is_read_as_it_was_written_as_often_as_one_likes(tmp_path, count):
    whole = ids(count)
    needs = NeededChunks(tmp_path)
    for at in range(0, len(whole), 65_536):
        needs.add(whole[at : at + 65_536])
    for _ in range(2):
        parts = list(needs.parts())
        assert b"".join(parts) == whole
        assert all(len(part) == 4096 * 32 for part in parts[:-1])
    assert (needs.length, needs.digest()) == (len(whole), blake3(whole).digest())
    needs.close()


def test_a_long_list_lies_in_a_private_file_without_a_name(tmp_path):
    needs = NeededChunks(tmp_path)
    needs.add(ids(needs_module.IN_MEMORY // 32 + 1))
    state = os.fstat(needs._file.fileno())
    assert (state.st_nlink, state.st_mode & 0o777) == (0, 0o600)
    assert state.st_dev == tmp_path.stat().st_dev
    assert list(tmp_path.iterdir()) == []
    needs.close()


def test_a_full_disk_is_told_as_such(tmp_path, monkeypatch):
    needs = NeededChunks(tmp_path)

    def full(_data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(needs._file, "write", full)
    with pytest.raises(DiskFull, match="list of needed chunks"):
        needs.add(ids(1))
    needs.close()


@pytest.mark.parametrize("job", ["docs", "target", "none"])
async def test_a_point_is_committed_from_the_file(world, monkeypatch, job):
    made = []
    original = NeededChunks.__init__

    def noted(self, folder):
        original(self, folder)
        made.append(self)

    monkeypatch.setattr(needs_module, "IN_MEMORY", 32)
    # As with a long history: the list is read for the trimming of keys, too, before it is committed.
    monkeypatch.setattr(RunKeys, "crowded", True)
    monkeypatch.setattr(NeededChunks, "__init__", noted)
    (world.source.tree / "more").write_bytes(os.urandom(5_000_000))
    await world.source.backup(job)
    await world.source.backup(job)
    await until(lambda: not world.provider.sessions, "the session to be over at the target, too")
    assert sum(needs.length > 64 for needs in made) == 2
    assert all(needs._file.closed for needs in made)
    assert contents(await world.source.restore(job)) == contents(world.source.tree)
    await until(lambda: not world.provider.sessions, "the session to be over at the target, too")
    assert [path.name for path in world.store().scratch.iterdir()] == []


async def test_a_session_that_ends_while_it_begins_leaves_no_list_and_no_writer(world, monkeypatch):
    made = []
    original = NeededChunks.__init__

    def noted(self, folder):
        original(self, folder)
        made.append(self)

    def ended(session):
        # Noticed at the next step, as when the line breaks between two of them.
        trio.from_thread.run_sync(session.scope.cancel)
        return 0

    monkeypatch.setattr(NeededChunks, "__init__", noted)
    monkeypatch.setattr(starting, "_chain", ended)
    with pytest.raises(RefusedByPeer, match="replaced"):
        await world.source.backup("docs")
    assert all(needs._file.closed for needs in made)
    assert world.store()._writers == []
