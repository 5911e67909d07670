"""A password is changed: on every restore point, wherever it lies, and whatever happens on the way."""

from __future__ import annotations

from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from world import PASSWORD, contents

from protocol.messages import PutSlots
from transporter.daemon.execute import execute, not_running
from transporter.daemon.requests import RewrapRequest
from transporter.errors import CannotConnect, DamagedData, JobBusy, NoKey, TransporterError, WrongPassword
from transporter.jobs import point_walk
from transporter.jobs.context import job_lock
from transporter.jobs.rewrap import rewrap
from transporter.jobs.rewrap_lock import rewrap_lock
from transporter.keys.slot import read_slot_public
from transporter.link.address import Address
from transporter.link.control_link import ControlLink
from transporter.repository import slot_store

NEW = b"a new and better one"


def slots_of(world, node=None, store="main", job=None):
    """All slots in use: {(job, point): [salt, …]}."""
    repository, tenant = world.store(store), world.tenant(node or world.source)
    return {
        (ref.job, ref.point_id): [read_slot_public(slot).salt for slot in repository.slots(ref.point_id).values()]
        for ref in repository.points(tenant, job)
    }


async def two_points(world):
    for number in range(2):
        (world.source.tree / f"more-{number}").write_bytes(bytes([number]) * 1000)
        await world.source.backup()


async def opens_by(world, password, output):
    """Restore at a home that keeps no password; the one given is typed."""
    for name in [info.name for info in world.source.keys.list()]:
        world.source.keys.remove_password(name)
    return await world.source.restore(output=output, password=password)


async def test_a_changed_password_opens_every_point_and_the_old_one_none(world):
    await two_points(world)
    old = world.source.keys.user_key("office")
    new = world.source.keys.change_password("office", NEW)
    report = await rewrap(world.source.context)
    assert (report.replaced, report.points, report.failed, report.unreached) == (2, 2, [], {})
    assert set(map(tuple, slots_of(world).values())) == {(new.salt,)}
    assert world.source.keys.unfinished_changes() == [] and world.source.keys.find_by_salt(old.salt) is None
    assert contents(await world.source.restore(output="kept")) == contents(world.source.tree)
    with pytest.raises(WrongPassword):
        await opens_by(world, PASSWORD, "old")
    assert contents(await opens_by(world, NEW, "new")) == contents(world.source.tree)


async def test_neither_points_nor_chunks_are_touched(world):
    await two_points(world)

    def rest():
        root = world.store().path
        return {
            path: path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.relative_to(root).parts[0] in {"packs", "points"}
        }

    before = rest()
    world.source.keys.change_password("office", NEW)
    await rewrap(world.source.context)
    assert rest() == before and len(before) > 2


async def test_between_the_halves_everything_opens_and_goes_on(world):
    await world.source.backup()
    world.source.keys.change_password("office", NEW)
    (world.source.tree / "later").write_bytes(b"later")
    finished = await world.source.backup()
    assert finished.kind == "incremental" and finished.files_unchanged == 6
    assert contents(await world.source.restore()) == contents(world.source.tree)
    report = await rewrap(world.source.context)
    assert (report.replaced, report.points) == (1, 2)
    assert contents(await world.source.restore(output="after")) == contents(world.source.tree)
    assert (await world.source.backup()).files_unchanged == 7


async def test_of_other_passwords_and_other_tenants_nothing_changes(world):
    await world.source.backup()
    await world.neighbour.backup()
    before = slots_of(world, world.neighbour)
    world.source.keys.add_password("spare", b"another")
    world.source.keys.change_password("spare", b"yet another")
    mine = slots_of(world)
    assert (await rewrap(world.source.context)).replaced == 0
    assert slots_of(world) == mine and slots_of(world, world.neighbour) == before
    assert world.source.keys.unfinished_changes() == []


async def test_at_the_target_the_targets_password_is_changed_beside_the_running_daemon(world):
    await world.source.backup("target")
    await world.source.backup("rest")
    await world.source.backup("docs")
    docs = slots_of(world, job="docs")
    new = world.target.keys.change_password("vault", NEW)
    report = await rewrap(world.target.context)
    assert report.replaced == 2
    assert slots_of(world, job="docs") == docs
    assert set(map(tuple, slots_of(world, job="target").values())) == {(new.salt,)}
    assert set(map(tuple, slots_of(world, store="rest").values())) == {(new.salt,)}
    for job in ("target", "rest"):
        assert contents(await world.source.restore(job, output=job)) == contents(world.source.tree)
        assert (await world.source.backup(job)).kind == "incremental"


async def test_a_session_that_began_before_commits_under_the_new_password(world, monkeypatch):
    """Zone target: the provider opened its keys when the session began."""
    await world.source.backup("target")
    old = world.target.keys.user_key("vault")
    (world.source.tree / "later").write_bytes(b"later")
    from transporter.service import backup as service

    real = service.BackupService._commit

    async def changed_before(self, *arguments):
        world.target.keys.change_password("vault", NEW)
        return await real(self, *arguments)

    monkeypatch.setattr(service.BackupService, "_commit", changed_before)
    await world.source.backup("target")
    await rewrap(world.target.context)
    assert all(old.salt not in salts for salts in slots_of(world, job="target").values())
    assert contents(await world.source.restore("target")) == contents(world.source.tree)


async def test_what_the_target_puts_together_before_a_change_and_commits_after_it_is_put_right(world, monkeypatch):
    """The change has been everywhere, and is finished, when the point becomes visible."""
    from transporter.service import committing

    old = world.target.keys.user_key("vault")
    real = committing._head_and_slots

    def changed_after(*arguments):
        made = real(*arguments)
        world.target.keys.change_password("vault", NEW)
        world.target.keys.finish_change(old.salt, replaced=0)
        return made

    with monkeypatch.context() as patched:
        patched.setattr(committing, "_head_and_slots", changed_after)
        await world.source.backup("target")
    new = world.target.keys.user_key("vault")
    assert set(map(tuple, slots_of(world, job="target").values())) == {(new.salt,)}
    assert contents(await world.source.restore("target")) == contents(world.source.tree)


async def test_while_a_job_of_the_password_runs_a_change_is_not_finished(world):
    await world.source.backup()
    world.source.keys.change_password("office", NEW)
    with job_lock(world.source.home, "docs"), pytest.raises(JobBusy, match="docs") as busy:
        await rewrap(world.source.context)
    assert busy.value.remedy == "go on when it has ended: transporter password change office --resume"
    assert len(world.source.keys.unfinished_changes()) == 1
    # Its slots were replaced all the same; only the last look is missing.
    assert (await rewrap(world.source.context)).replaced == 0
    assert world.source.keys.unfinished_changes() == []


async def test_a_job_of_another_password_does_not_matter(world):
    await world.source.backup()
    world.source.keys.change_password("office", NEW)
    with job_lock(world.source.home, "target"):
        await rewrap(world.source.context)


async def test_two_at_once(world, monkeypatch):
    monkeypatch.setattr("transporter.jobs.rewrap_lock.PATIENCE_SECONDS", 0.1)
    world.source.keys.change_password("office", NEW)
    async with rewrap_lock(world.source.home):
        with pytest.raises(JobBusy):
            await rewrap(world.source.context)


async def test_a_point_whose_slot_was_lost_opens_by_the_key_that_was_kept(world):
    await world.source.backup()
    point = break_slot(world)
    assert contents(await world.source.restore()) == contents(world.source.tree)
    assert (await world.source.backup()).kind == "incremental"
    world.source.keys.drop_storage_key(point)
    with pytest.raises((NoKey, DamagedData)):
        await world.source.restore(point=point.hex(), output="closed")


async def test_a_target_that_names_jobs_that_cannot_be_asked_for_stops_nobody_else(world, monkeypatch):
    await world.source.backup()
    world.source.keys.change_password("office", NEW)
    real = point_walk.list_points

    async def lies(context, where):
        rows = await real(context, where)
        return [msgspec.structs.replace(row, job="é" * 200) for row in rows] if where.repository == "main" else rows

    with monkeypatch.context() as patched:
        patched.setattr(point_walk, "list_points", lies)
        with pytest.raises(CannotConnect, match="offsite/main"):
            await rewrap(world.source.context)
    assert (await rewrap(world.source.context)).replaced == 1


async def test_a_place_that_is_not_reached_keeps_the_change_open(world):
    await two_points(world)
    world.source.keys.change_password("office", NEW)
    world.source.dials(Address("127.0.0.1", 9))
    with pytest.raises(CannotConnect, match="old password still opens") as left:
        await rewrap(world.source.context)
    assert "transporter password change office --resume; " in left.value.remedy
    assert len(world.source.keys.unfinished_changes()) == 1
    world.source.dials(world.address)
    assert contents(await world.source.restore()) == contents(world.source.tree)
    assert (await rewrap(world.source.context)).replaced == 2
    assert world.source.keys.unfinished_changes() == []


async def test_a_point_that_is_committed_meanwhile_is_not_missed(world, monkeypatch):
    await world.source.backup()
    old = world.source.keys.user_key("office")
    new = world.source.keys.change_password("office", NEW)
    real, rounds = point_walk.list_points, []

    async def listing(context, where):
        rows = await real(context, where)
        rounds.append(len(rows))
        if len(rounds) == 1:
            (world.source.tree / "later").write_bytes(b"later")
            # A run that began before the change commits with the old password in its hands.
            with monkeypatch.context() as patched:
                patched.setattr(world.source.keys, "user_key", lambda _name, held=None: old)
                await world.source.backup()
        return rows

    monkeypatch.setattr(point_walk, "list_points", listing)
    report = await rewrap(world.source.context)
    assert report.replaced == 2 and max(rounds) == 2
    assert set(map(tuple, slots_of(world).values())) == {(new.salt,)}


async def test_many_points_go_in_several_messages(world, monkeypatch):
    monkeypatch.setattr(point_walk, "MAX_POINTS_AT_ONCE", 2)
    monkeypatch.setattr(point_walk, "LOCAL_BATCH", 2)
    for number in range(3):
        (world.source.tree / "more").write_bytes(bytes([number]) * 100)
        await world.source.backup("docs")
        await world.source.backup("target")
    world.source.keys.change_password("office", NEW)
    world.target.keys.change_password("vault", NEW)
    assert (await rewrap(world.source.context)).replaced == 3
    assert (await rewrap(world.target.context)).replaced == 3
    for job in ("docs", "target"):
        assert contents(await world.source.restore(job, output=job)) == contents(world.source.tree)


async def test_a_damaged_slot_is_made_anew_from_the_key_that_this_home_kept(world):
    await world.source.backup()
    break_slot(world)
    world.source.keys.change_password("office", NEW)
    # The provider leaves out what does not prove itself; here it is the slot's inside that is wrong.
    report = await rewrap(world.source.context)
    assert (report.replaced, report.failed) == (1, [])
    assert contents(await world.source.restore()) == contents(world.source.tree)


async def test_of_two_slots_of_one_password_the_one_that_opens_the_point_counts(world):
    """A commit that was killed between its slot and its point, and repeated, left both; only one has the right key."""
    await world.source.backup()
    point = add_sound_slot_of_another_key(world)
    new = world.source.keys.change_password("office", NEW)
    world.source.keys.drop_storage_key(point)
    report = await rewrap(world.source.context)
    assert (report.replaced, report.failed) == (2, [])
    assert set(map(tuple, slots_of(world).values())) == {(new.salt,)}
    assert contents(await world.source.restore()) == contents(world.source.tree)


async def test_a_slot_of_the_new_password_that_opens_nothing_does_not_count(world):
    await world.source.backup()
    new = world.source.keys.change_password("office", NEW)
    point = add_sound_slot_of_another_key(world, b"\0" * 16)
    report = await rewrap(world.source.context)
    assert report.replaced == 1
    assert slots_of(world)["docs", point] == [new.salt, new.salt]
    assert contents(await world.source.restore()) == contents(world.source.tree)


def add_sound_slot_of_another_key(world, slot_id=b"\0" * 16):
    """It sorts before the right one."""
    from transporter.keys.storage_key import StorageKey, make_password_slot
    from transporter.keys.wrap import point_context

    store, tenant = world.store(), world.tenant(world.source)
    (ref,) = store.points(tenant, "docs")
    key = world.source.keys.user_key("office")
    where = point_context(tenant, store.repository_id, ref.point_id)
    store.put_slot(ref.point_id, slot_id, make_password_slot(StorageKey.generate(), key, key.salt, key.params, where))
    return ref.point_id


async def test_where_nothing_opens_a_slot_the_change_waits_for_a_word(world):
    await two_points(world)
    point = break_slot(world)
    world.source.keys.change_password("office", NEW)
    world.source.keys.drop_storage_key(point)
    with pytest.raises(DamagedData, match=point.hex()):
        await rewrap(world.source.context)
    assert len(world.source.keys.unfinished_changes()) == 1
    report = await rewrap(world.source.context, give_up=True)
    assert report.failed == [point.hex()] and world.source.keys.unfinished_changes() == []
    assert list(world.source.keys.audit.entries())[-1]["given_up"] == 1


def break_slot(world):
    """Replace the slot of the oldest point by one of the same password that belongs to another point."""
    from transporter.keys.storage_key import StorageKey, make_password_slot

    store, tenant = world.store(), world.tenant(world.source)
    ref = store.points(tenant, "docs")[0]
    key = world.source.keys.user_key("office")
    bad = make_password_slot(StorageKey.generate(), key, key.salt, key.params, b"another place")
    from transporter.repository import SlotChange

    store.replace_slots(tenant, "docs", [SlotChange(ref.point_id, b"B" * 16, bad, tuple(store.slots(ref.point_id)))], 0)
    return ref.point_id


@asynccontextmanager
async def killed(monkeypatch, target, name, at, *, after):
    """The process dies at the ``at``-th call of ``name``: nothing of the run goes on."""

    class Killed(BaseException):
        pass

    real, calls = getattr(target, name), []

    def die(*arguments, **named):
        calls.append(1)
        if len(calls) == at and not after:
            raise Killed
        answer = real(*arguments, **named)
        if len(calls) == at:
            raise Killed
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(target, name, die)
        try:
            yield
        except BaseException as error:
            assert error.__class__.__name__ == "Killed" or "Killed" in repr(error), error


STEPS = {
    "writing a slot": (slot_store.files, "create"),
    "showing one, or putting one away": (slot_store.files, "replace"),
    "a flush": (slot_store, "sync_all"),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [2])
@pytest.mark.parametrize("step", STEPS)
async def test_killed_at_any_step_it_goes_on(world, monkeypatch, step, at, after):
    for number in range(2):
        (world.source.tree / "more").write_bytes(bytes([number]) * 100)
        await world.source.backup("target")
    new = world.target.keys.change_password("vault", NEW)
    async with killed(monkeypatch, *STEPS[step], at, after=after):
        await rewrap(world.target.context)
    assert contents(await world.source.restore("target", output="between")) == contents(world.source.tree)
    await rewrap(world.target.context)
    assert set(map(tuple, slots_of(world, job="target").values())) == {(new.salt,)}
    assert world.target.keys.unfinished_changes() == []
    assert contents(await world.source.restore("target", output="after")) == contents(world.source.tree)
    assert world.store().scrub().clean


@pytest.mark.parametrize("at", [2, 3])
async def test_a_link_that_breaks_at_any_message_is_gone_on_with(world, monkeypatch, at):
    await two_points(world)
    new = world.source.keys.change_password("office", NEW)
    real, sent = ControlLink.send, []

    async def send(self, message, payload=b""):
        if type(message).__name__ in {"GetSlots", "PutSlots", "ListPoints", "SlotsPut"}:
            sent.append(message)
            if len(sent) >= at:
                await self.aclose()
        await real(self, message, payload)

    with monkeypatch.context() as patched:
        patched.setattr(ControlLink, "send", send)
        with pytest.raises(TransporterError), trio.fail_after(30):
            await rewrap(world.source.context)
    assert len(world.source.keys.unfinished_changes()) == 1
    assert contents(await world.source.restore(output="between")) == contents(world.source.tree)
    await rewrap(world.source.context)
    assert set(map(tuple, slots_of(world).values())) == {(new.salt,)}


async def test_a_link_that_breaks_once_is_tried_again_by_the_last_look(world, monkeypatch):
    await two_points(world)
    new = world.source.keys.change_password("office", NEW)
    real, sent = ControlLink.send, []

    async def send(self, message, payload=b""):
        if isinstance(message, PutSlots):
            sent.append(message)
            if len(sent) == 1:
                await self.aclose()
        await real(self, message, payload)

    monkeypatch.setattr(ControlLink, "send", send)
    report = await rewrap(world.source.context)
    assert (report.replaced, report.failed) == (2, [])
    assert set(map(tuple, slots_of(world).values())) == {(new.salt,)}


async def test_the_request_that_a_daemon_gets(world):
    await world.source.backup()
    world.source.keys.change_password("office", NEW)
    outcome = await execute(
        world.source.home, RewrapRequest(password_name="office"), world.source.bus, not_running, world.source.clock
    )
    assert outcome.exit_status == 0 and outcome.result["slots_replaced"] == 1
    assert outcome.result["old_slots_kept_until_ns"] > world.source.clock.now_ns()


async def test_nothing_secret_travels(world, monkeypatch):
    await world.source.backup()
    old = world.source.keys.user_key("office")
    real, seen = ControlLink.send, []

    async def send(self, message, payload=b""):
        if isinstance(message, PutSlots):
            seen.append(bytes(payload))
        await real(self, message, payload)

    monkeypatch.setattr(ControlLink, "send", send)
    new = world.source.keys.change_password("office", NEW)
    await rewrap(world.source.context)
    (payload,) = seen
    (point,) = [ref.point_id for ref in world.store().points(world.tenant(world.source))]
    storage_key = world.source.keys.storage_key(point)
    for secret in (NEW, PASSWORD, old.hash.raw, new.hash.raw, new.hash.kek, storage_key.secret):
        assert secret not in payload


async def test_without_the_password_a_restore_says_so(world):
    await world.source.backup()
    world.source.keys.remove_password("office")
    with pytest.raises(NoKey):
        await world.source.restore()
