from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from tests.repository.prune_world import (
    DAY,
    DOMAIN,
    EVERYTHING,
    NOW,
    backup,
    check_sound,
    chunk,
    chunk_id,
    commit,
    known,
    on_disk,
    prune,
    recycle_point,
    remove_point,
    write,
)
from transporter.clock import ManualClock
from transporter.errors import DamagedData, Interrupted
from transporter.repository import (
    ChunkMissing,
    PruneHooks,
    PruneOptions,
    Repository,
    RepositoryBusy,
    prune_beside,
)
from transporter.repository.compaction import PackRemover
from transporter.repository.index_prune import PruneIndex

pytestmark = pytest.mark.usefixtures("small_packs")


# -- what goes, and when ---------------------------------------------------------------------------------------------


def test_what_no_point_needs_goes_and_the_rest_stays(repository, place):
    backup(repository, 1, range(40))
    backup(repository, 2, range(20, 60))
    remove_point(place, 1)
    report = prune(repository)
    assert known(repository, range(60)) == set(range(20, 60))
    assert report.deleted_chunks == 20
    assert report.packs_removed > 0
    assert report.live_chunks == 40
    check_sound(repository)


def test_after_a_prune_that_rewrites_everything_nothing_else_is_on_the_disk(repository, place):
    backup(repository, 1, range(60))
    backup(repository, 2, range(0, 60, 7))
    remove_point(place, 1)
    report = prune(repository, EVERYTHING)
    assert on_disk(place) == set(range(0, 60, 7))
    assert report.packs_rewritten > 0
    check_sound(repository)
    again = prune(repository, EVERYTHING)
    assert (again.packs_removed, again.packs_rewritten, again.doomed_chunks) == (0, 0, 0)


def test_doomed_chunks_wait_for_their_grace(repository, place, clock):
    backup(repository, 1, range(30))
    remove_point(place, 1)
    day = PruneOptions(grace_seconds=DAY, compact_below=1)
    first = prune(repository, day)
    assert (first.doomed_chunks, first.waiting_chunks, first.deleted_chunks) == (30, 30, 0)
    clock.advance(DAY - 1)
    assert prune(repository, day).deleted_chunks == 0
    assert known(repository, range(30)) == set(range(30))
    clock.advance(2)
    assert prune(repository, day).deleted_chunks == 30
    assert on_disk(place) == set()


def test_a_dry_run_changes_nothing_and_tells_what_would_be_freed(repository, place):
    backup(repository, 1, range(60))
    backup(repository, 2, range(0, 60, 7))
    remove_point(place, 1)
    before = tree(place)
    told = prune(repository, PruneOptions(grace_seconds=0, dry_run=True))
    assert tree(place) == before
    done = prune(repository)
    assert told.dry_run
    assert told.packs_removed == done.packs_removed
    assert told.packs_rewritten == done.packs_rewritten
    assert (told.doomed_chunks, told.doomed_bytes, told.live_bytes) == (
        done.doomed_chunks,
        done.doomed_bytes,
        done.live_bytes,
    )
    # The headers of packs that are written anew are not known before.
    assert abs(told.freed_bytes - done.freed_bytes) <= 300 * max(1, done.packs_written)


def tree(place) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in (place / "packs").glob("*/*")}


def test_a_dry_run_under_a_grace_counts_only_what_is_over(repository, place, clock):
    backup(repository, 1, range(30))
    remove_point(place, 1)
    dry = PruneOptions(grace_seconds=DAY, dry_run=True)
    told = prune(repository, dry)
    assert (told.waiting_chunks, told.packs_removed, told.freed_bytes) == (30, 0, 0)
    prune(repository, PruneOptions(grace_seconds=DAY))
    clock.advance(DAY + 1)
    told = prune(repository, dry)
    assert told.waiting_chunks == 0
    assert told.packs_removed > 0
    assert prune(repository, PruneOptions(grace_seconds=DAY)).freed_bytes == told.freed_bytes


def test_the_chunks_of_a_recycled_point_stay(repository, place):
    backup(repository, 1, range(20))
    recycle_point(place, 1)
    assert prune(repository, EVERYTHING).doomed_chunks == 0
    (gone,) = (place / "recycled" / "t" / "j").iterdir()
    gone.unlink()
    assert prune(repository, EVERYTHING).deleted_chunks == 20


def test_domains_and_tenants_do_not_keep_each_others_chunks(repository, place):
    other = b"E" * 16
    backup(repository, 1, range(20))
    backup(repository, 2, range(10, 30), domain=other, tenant="u")
    remove_point(place, 1)
    prune(repository, EVERYTHING)
    assert known(repository, range(30)) == set()
    assert known(repository, range(30), other) == set(range(10, 30))
    assert [(usage.tenant, usage.records) for usage in repository.statistics().tenants] == [("t", 0), ("u", 20)]
    check_sound(repository)


def test_a_quota_has_room_again_at_once(place, clock):
    with Repository.create(place, clock=clock, quota=20_000) as repository:
        backup(repository, 1, range(30))
        writer = repository.writer(DOMAIN, "t")
        before = repository.quota_left("t")
        remove_point(place, 1)
        freed = prune(repository).freed_bytes
        assert repository.quota_left("t") == before + freed
        writer.close()


# -- beside others ---------------------------------------------------------------------------------------------------


def test_asking_for_a_doomed_chunk_revives_it(repository, place, clock):
    """So an interrupted first copy is not sent twice."""
    write(repository, range(30))  # and no point: the run was cut off
    day = PruneOptions(grace_seconds=DAY)
    assert prune(repository, day).doomed_chunks == 30
    clock.advance(2 * DAY)
    packs = tree(place)
    assert all(repository.have(DOMAIN, [chunk_id(number) for number in range(30)]))
    assert prune(repository, day).deleted_chunks == 0
    backup(repository, 1, range(30))
    assert tree(place) == packs  # nothing was sent again
    clock.advance(2 * DAY)
    prune(repository, day)
    check_sound(repository)


def test_what_a_commit_relies_on_is_revived_by_it(repository, place, clock):
    write(repository, range(30))
    prune(repository, PruneOptions(grace_seconds=DAY))
    commit(repository, 1, range(30))
    clock.advance(2 * DAY)
    assert prune(repository, PruneOptions(grace_seconds=DAY)).deleted_chunks == 0
    check_sound(repository)


def test_a_chunk_that_is_gone_is_not_answered_and_is_taken_anew(repository, place):
    backup(repository, 1, range(10))
    remove_point(place, 1)
    prune(repository)
    assert repository.have(DOMAIN, [chunk_id(1)]) == [()]
    with pytest.raises(ChunkMissing):
        commit(repository, 2, range(10))
    backup(repository, 2, range(10))
    check_sound(repository)


def test_a_session_that_began_before_is_waited_for(repository, place):
    backup(repository, 1, range(30))
    with repository.session():
        assert all(repository.have(DOMAIN, [chunk_id(number) for number in range(30)]))
        remove_point(place, 1)
        waited = prune(repository)
        assert (waited.sessions, waited.deleted_chunks, waited.waiting_chunks) == (1, 0, 30)
        assert known(repository, range(30)) == set(range(30))
    assert prune(repository).deleted_chunks == 30


def test_a_session_that_begins_later_is_not_waited_for(repository, place, clock):
    backup(repository, 1, range(30))
    remove_point(place, 1)
    prune(repository, PruneOptions(grace_seconds=DAY))
    clock.advance(DAY + 1)
    with repository.session():
        assert all(repository.have(DOMAIN, [chunk_id(number) for number in range(5)]))
        assert prune(repository, PruneOptions(grace_seconds=DAY, compact_below=1)).deleted_chunks == 25
        assert known(repository, range(30)) == set(range(5))


def test_what_a_live_session_has_stored_is_not_even_doomed(repository):
    with repository.session():
        write(repository, range(30))
        prune(repository)
        assert not repository._index._keys_of(DOMAIN, [chunk_id(number) for number in range(30)], "doomed")[1]
        commit(repository, 1, range(30))
    check_sound(repository)


def test_a_reader_in_another_process_is_a_session_and_a_dead_one_is_not(repository, place):
    backup(repository, 1, range(30))
    code = (
        "import sys\nfrom transporter.clock import SystemClock\nfrom transporter.repository import Repository\n"
        "opened = Repository.open(sys.argv[1], SystemClock(), writable=False)\n"
        "print('open', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        remove_point(place, 1)
        assert prune(repository).sessions == 1
        process.kill()
    report = prune(repository)
    assert (report.sessions, report.deleted_chunks) == (0, 30)
    assert {path.name for path in (place / "leases").iterdir()} == {"writer", "prune", "clock"}


def test_an_unreadable_lease_forbids_everything(repository, place):
    backup(repository, 1, range(10))
    remove_point(place, 1)
    with repository.session() as lease:
        lease._path.write_bytes(b"rubbish")
        report = prune(repository)
        assert (report.sessions, report.deleted_chunks) == (1, 0)


def test_a_point_that_is_committed_while_a_prune_marks_keeps_its_chunks(repository, place):
    """The worst moment: after the points were listed, of chunks that nobody needed then."""
    write(repository, range(30))
    done = []

    def commit_between(progress) -> None:
        if progress.step == "chunks" and not done:
            done.append(True)
            commit(repository, 1, range(30))

    prune(repository, NOW, PruneHooks(progress=commit_between))
    assert done
    check_sound(repository)


def test_a_point_that_is_committed_between_the_list_and_the_mark_keeps_its_chunks(repository):
    """Its chunks were not doomed yet when they were looked up, and its session has ended when they are."""
    backup(repository, 1, range(100, 110))
    write(repository, range(30))
    done = []

    def commit_between(progress) -> None:
        if progress.step == "points" and not done:
            done.append(True)
            commit(repository, 2, range(30))

    prune(repository, EVERYTHING, PruneHooks(progress=commit_between))
    assert done
    check_sound(repository)


def test_two_prunes_at_once_are_refused(repository, place):
    backup(repository, 1, range(10))
    refused = []

    def second(_progress) -> None:
        if not refused:
            with pytest.raises(RepositoryBusy, match="prunes"):
                repository.prune()
            with pytest.raises(RepositoryBusy):
                prune_beside(place, ManualClock(), NOW, PruneHooks())
            refused.append(True)

    prune(repository, NOW, PruneHooks(progress=second))
    assert refused


def test_neither_healing_nor_a_new_index_runs_beside_a_prune(repository):
    backup(repository, 1, range(10))
    tried = []

    def try_them(_progress) -> None:
        for work in (repository.rebuild_index, lambda: repository.heal([bytes(32)])):
            with pytest.raises(RepositoryBusy):
                work()
        tried.append(True)

    prune(repository, NOW, PruneHooks(progress=try_them))
    assert tried


@pytest.mark.parametrize("how", ["told", "by the next session"])
def test_a_prune_beside_an_open_repository_is_seen_there(repository, place, how):
    backup(repository, 1, range(40))
    backup(repository, 2, range(0, 40, 3))
    for number in range(40):
        repository.read(DOMAIN, chunk_id(number))
    remove_point(place, 1)
    prune_beside(place, ManualClock(), EVERYTHING, PruneHooks())
    assert on_disk(place) == set(range(0, 40, 3))
    assert repository.have(DOMAIN, [chunk_id(1)]) == [()]
    assert [fd for fd in os.listdir("/proc/self/fd") if removed_pack(fd)], "it has some open"
    if how == "told":
        repository.forget_removed_packs()
    else:
        repository.session().release()
    assert not [fd for fd in os.listdir("/proc/self/fd") if removed_pack(fd)]
    check_sound(repository)


def removed_pack(fd: str) -> bool:
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return False
    return "/packs/" in target and target.endswith("(deleted)")


def test_a_prune_without_a_daemon_leaves_a_sealed_index(repository, place):
    backup(repository, 1, range(20))
    repository.close()
    remove_point(place, 1)
    assert prune_beside(place, ManualClock(), NOW, PruneHooks()).deleted_chunks == 20
    assert (place / "index" / "seal").exists()
    with Repository.open(place, ManualClock()) as opened:
        assert opened.opened.index_rebuilt == ""
        check_sound(opened)


def test_readers_go_on_while_packs_are_compacted(repository, place):
    """They have looked a place up, and find its pack gone: the index knows the new one."""
    backup(repository, 1, range(200))
    backup(repository, 2, range(0, 200, 2))
    remove_point(place, 1)
    ids = [chunk_id(number) for number in range(0, 200, 2)]
    ended = threading.Event()
    failed: list[BaseException] = []

    def read() -> None:
        with Repository.open(place, ManualClock(), writable=False) as reading:
            while not ended.is_set():
                try:
                    assert len(list(reading.read_many(DOMAIN, ids))) == len(ids)
                except BaseException as error:
                    failed.append(error)
                    return

    # Its lease is taken away, or nothing would be compacted beside it.
    thread = threading.Thread(target=read)
    thread.start()
    try:
        while not (leases := [path for path in (place / "leases").glob("session-*") if not path.suffix]):
            assert thread.is_alive(), failed
        for lease in leases:
            lease.unlink()
        for turn in range(5):
            prune(repository, EVERYTHING)
            backup(repository, 10 + turn, range(1000 + turn * 30, 1030 + turn * 30))
            remove_point(place, 10 + turn)
    finally:
        ended.set()
        thread.join()
    assert not failed


# -- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [20, 45, 90, -60, -1])
def test_a_point_that_cannot_be_read_stops_a_prune_and_is_named(repository, place, where):
    backup(repository, 1, range(20))
    backup(repository, 2, range(20))
    remove_point(place, 1)
    write(repository, range(100, 120))
    path = place / "points" / "t" / "j" / (2).to_bytes(16, "big").hex()
    raw = bytearray(path.read_bytes())
    raw[where] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DamagedData, match=path.name):
        prune(repository)
    assert known(repository, [*range(20), *range(100, 120)]) == {*range(20), *range(100, 120)}


def test_a_file_among_the_points_that_is_none_stops_a_prune(repository, place):
    backup(repository, 1, range(20))
    (place / "points" / "t" / "j" / "moved.away").write_bytes(b"perhaps a point once")
    with pytest.raises(DamagedData, match=r"moved\.away"):
        prune(repository)


def test_a_pack_with_a_damaged_record_is_left_alone_and_named(repository, place):
    backup(repository, 1, range(60))
    backup(repository, 2, range(0, 60, 7))
    (hurt,) = {place.pack for place in repository._index.locate(DOMAIN, [chunk_id(7)])}
    path = place / "packs" / hurt.hex()[:2] / hurt.hex()
    raw = bytearray(path.read_bytes())
    at = raw.index(bytes(chunk(7).stored))
    raw[at] ^= 1
    path.write_bytes(raw)
    remove_point(place, 1)
    report = prune(repository, EVERYTHING)
    assert report.damaged_packs == [hurt]
    assert path.exists()
    assert known(repository, [7]) == {7}
    assert on_disk(place) >= set(range(0, 60, 7))


def test_a_prune_may_be_stopped_and_goes_on(repository, place):
    backup(repository, 1, range(100))
    backup(repository, 2, range(0, 100, 7))
    remove_point(place, 1)
    for turn in range(200):
        asked = []

        def stop(asked=asked, turn=turn) -> bool:
            asked.append(True)
            return len(asked) > turn

        try:
            prune(repository, EVERYTHING, PruneHooks(stop=stop))
            break
        except Interrupted:
            assert known(repository, range(0, 100, 7)) == set(range(0, 100, 7))
    assert turn > 5
    assert on_disk(place) == set(range(0, 100, 7))
    check_sound(repository)


# -- the same pack again ---------------------------------------------------------------------------------------------


def test_chunks_that_come_again_make_the_same_pack_and_are_known(repository, place):
    """Plain chunks in the same order are the same pack, name and all: also while the old one is on its way out."""
    backup(repository, 1, range(5))
    remove_point(place, 1)
    prune(repository)
    backup(repository, 2, range(5))
    check_sound(repository)


def test_a_pack_that_is_published_again_while_it_is_removed_stays(repository, place, monkeypatch):
    backup(repository, 1, range(5))
    (path,) = (place / "packs").glob("*/*")
    content = path.read_bytes()
    remove_point(place, 1)
    finish, calls = PackRemover.finish, []

    def publish_first(remover: PackRemover) -> None:
        calls.append(remover)
        if len(calls) == 2:  # taken out of the counts, and not yet unlinked
            assert path.exists()
            assert repository._index.is_removed(path_name)
            write(repository, range(5))
        finish(remover)

    path_name = bytes.fromhex(path.name)
    monkeypatch.setattr(PackRemover, "finish", publish_first)
    prune(repository)
    assert len(calls) == 2
    commit(repository, 2, range(5))
    assert path.read_bytes() == content
    check_sound(repository)


def test_a_pack_that_is_unlinked_before_it_is_entered_anew_gets_its_name_again(repository, place, monkeypatch):
    backup(repository, 1, range(5))
    (path,) = (place / "packs").glob("*/*")
    remove_point(place, 1)
    add_pack, calls = repository._index.add_pack, []

    def prune_first(*arguments: object) -> bool:
        calls.append(arguments)
        if len(calls) == 1:  # the writer has found that the pack is there
            pruner_index = PruneIndex(repository._index)
            pruner_index.forget([bytes.fromhex(path.name)], lambda names: [path.unlink() for _ in names])
            assert not path.exists()
        return add_pack(*arguments)

    monkeypatch.setattr(PackRemover, "finish", lambda _remover: None)  # removed, and killed then
    prune(repository)
    monkeypatch.setattr(repository._index, "add_pack", prune_first)
    backup(repository, 2, range(5))
    assert calls
    check_sound(repository)


# -- an index that is wrong ------------------------------------------------------------------------------------------


def test_what_the_index_does_not_know_and_a_point_needs_is_not_removed(repository, place):
    """The index is a cache; a prune must not turn a hole in it into a loss."""
    backup(repository, 1, range(40))
    backup(repository, 2, range(100, 140))
    remove_point(place, 2)
    with repository._index.transaction() as connection:
        connection.executemany("DELETE FROM chunks WHERE chunk = ?", [(chunk_id(number),) for number in range(20)])
    report = prune(repository, EVERYTHING)
    assert report.missing_chunks == 20
    assert set(range(40)) <= on_disk(place)
    assert not set(range(100, 140)) & on_disk(place)
    check_sound(repository)  # and the hole is filled
    assert prune(repository, EVERYTHING).missing_chunks == 0


def test_a_chunk_that_is_really_lost_does_not_stop_a_prune(repository, place):
    backup(repository, 1, range(40))
    backup(repository, 2, range(100, 140))
    remove_point(place, 2)
    (lost,) = {found.pack for found in repository._index.locate(DOMAIN, [chunk_id(7)])}
    repository._layout.pack(lost).unlink()
    repository._index.drop_pack(lost)
    report = prune(repository, EVERYTHING)
    assert report.missing_chunks > 0
    assert not set(range(100, 140)) & on_disk(place)


# -- smaller things that would lose something ------------------------------------------------------------------------


def test_all_records_of_a_chunk_stay_wherever_a_batch_ends(repository, monkeypatch):
    for key in (b"K" * 32, b"L" * 32, b"M" * 32):
        writer = repository.writer(DOMAIN, "t")
        writer.append(chunk(1, key))
        writer.close()
    commit(repository, 1, [1])
    monkeypatch.setattr("transporter.repository.limits.PRUNE_BATCH", 1)
    assert prune(repository, EVERYTHING).doomed_chunks == 0


def test_a_chunk_that_is_sent_again_without_being_asked_for_is_not_doomed_any_more(repository, clock):
    day = PruneOptions(grace_seconds=DAY, compact_below=1)
    write(repository, range(5))
    prune(repository, day)
    clock.advance(2 * DAY)
    with repository.session():
        writer = repository.writer(DOMAIN, "t")
        for number in range(5, 10):  # another pack
            writer.append(chunk(number))
        writer.append(chunk(1))
        writer.close()
        assert prune(repository, day).deleted_chunks == 4
        assert known(repository, [1]) == {1}


def test_a_place_that_was_looked_up_before_a_compaction_is_looked_up_again(repository, place):
    backup(repository, 1, range(60))
    backup(repository, 2, range(0, 60, 2))
    remove_point(place, 1)
    ids = [chunk_id(number) for number in range(0, 60, 2)]
    with Repository.open(place, ManualClock(), writable=False) as reading:
        (lease,) = (place / "leases").glob("session-*")
        lease.unlink()  # or nothing would go while it reads
        records = reading.read_many(DOMAIN, ids)
        first = next(records)
        assert prune(repository, EVERYTHING).packs_rewritten > 1
        assert {first.chunk_id, *(record.chunk_id for record in records)} == set(ids)
