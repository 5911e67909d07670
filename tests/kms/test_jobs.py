"""Whole jobs with a service: who opens what, and what an outage stops and does not stop."""

from __future__ import annotations

import pytest
import trio
from misbehaving import Relay
from world import PASSWORD, contents

from transporter.errors import KmsKeyDisabled, KmsUnreachable, NoKey
from transporter.events import Note
from transporter.jobs import commit as commit_module
from transporter.jobs.drill import drill, explain, unknown_salts
from transporter.jobs.kms_apply import apply_kms
from transporter.jobs.search import SearchOrder, search
from transporter.keys import database, kms_access, kms_http
from transporter.keys.password import KdfParameters, hash_password
from transporter.keys.slot import read_kms_slot
from transporter.workloads.fsi_query import Query


@pytest.fixture
def relay(openbao):
    with Relay(openbao.endpoint) as made:
        yield made


@pytest.fixture
def kms(world, relay, openbao, monkeypatch):
    """Both ends of the world have the service; the passwords are not locked by it yet."""
    monkeypatch.setattr(kms_http, "PAUSE", 0.0)
    key = openbao.new_key(f"jobs-{world.folder.name}")
    section = (
        f'[kms.main]\nkind = "transit"\nkey = "{key}"\nendpoint = "{relay.endpoint}"\ntoken_file = "{openbao.root}"\n'
    )
    for node in (world.source, world.target):
        with node.home.config_path.open("a") as file:
            file.write(section)
    return key


def forget_all():
    kms_access.CACHE.clear()
    database._prepared.clear()


def points(world, job="docs"):
    return [ref.point_id for ref in world.store().points(world.tenant(world.source), job)]


def services_of(world, job="docs"):
    return [
        slot
        for point in points(world, job)
        for slot in map(read_kms_slot, world.store().slots(point).values())
        if slot is not None
    ]


async def lock(node, name="office"):
    await trio.to_thread.run_sync(node.keys.set_password_kms, name, "main")


def states(ways):
    return [(way["kind"], way["state"]) for way in ways]


async def test_every_new_point_has_a_slot_of_the_service(world, kms):
    await world.source.backup()
    assert services_of(world) == []
    await lock(world.source)
    await world.source.backup()
    await world.source.backup()
    assert [slot.reference for slot in services_of(world)] == [f"transit/{kms}"] * 2
    assert contents(await world.source.restore()) == contents(world.source.tree)


async def test_a_home_without_the_password_opens_it_by_the_service(world, kms):
    await lock(world.source)
    await world.source.backup()
    world.source.keys.remove_password("office")
    forget_all()
    assert contents(await world.source.restore()) == contents(world.source.tree)
    assert (await world.source.verify()).files_skipped == 0
    last = [e for e in world.source.keys.audit.entries() if e["event"] == "kms.unwrap"][-1]
    assert (last["purpose"], last["tenant"], last["point"]) == (
        "restore point",
        world.tenant(world.source),
        points(world)[0].hex(),
    )


@pytest.mark.parametrize("job", ["target", "rest"])
async def test_what_the_target_seals_has_one_too(world, kms, job):
    await lock(world.target, "vault")
    await world.source.backup(job)
    world.target.keys.remove_password("vault")
    forget_all()
    assert contents(await world.source.restore(job)) == contents(world.source.tree)


@pytest.mark.parametrize("job", ["docs", "target"])
async def test_a_search_opens_it_by_the_service_too(world, kms, relay, job):
    """In a repository of this node, and at a peer; without the service it says what was not searched."""
    node, password = (world.source, "office") if job == "docs" else (world.target, "vault")
    await lock(node, password)
    await world.source.backup(job)
    node.keys.remove_password(password)
    node.keys.drop_storage_key(points(world, job)[0])
    forget_all()
    report = await search(node.context, SearchOrder(Query("large"), job=job))
    assert (report.hits, report.error()) == (1, None)
    relay.on = False
    forget_all()
    report = await search(node.context, SearchOrder(Query("large"), job=job))
    assert (report.hits, report.closed) == (0, 1)
    assert any("is not searched" in note.text for note in node.seen(Note))
    error = report.error()
    assert isinstance(error, KmsUnreachable) and error.exit_status == 4 and "1 restore points" in error.what


async def test_without_the_service_the_password_still_opens_it(world, kms, relay):
    await lock(world.source)
    await world.source.backup()
    relay.on = False
    forget_all()
    with pytest.raises(KmsUnreachable):
        await world.source.restore(output="closed")
    assert contents(await world.source.restore(output="typed", password=PASSWORD)) == contents(world.source.tree)


@pytest.mark.parametrize("job", ["docs", "target"])
async def test_an_outage_after_the_start_stops_no_job(world, kms, relay, monkeypatch, job):
    node, name = (world.source, "office") if job == "docs" else (world.target, "vault")
    await lock(node, name)
    asked = relay.questions
    gone = []
    real = commit_module.commit_point

    async def outage(*arguments):
        relay.on = False
        kms_access.CACHE.clear()  # as if the job had gone on for days
        gone.append(relay.questions)
        await real(*arguments)

    monkeypatch.setattr("transporter.jobs.backup.commit_point", outage)
    await world.source.backup(job)
    assert len(services_of(world, job)) == 1 and gone[0] > asked
    relay.on = True
    forget_all()
    assert contents(await world.source.restore(job)) == contents(world.source.tree)


async def test_an_outage_before_the_start_stores_nothing_and_says_so(world, kms, relay):
    await lock(world.source)
    relay.on = False
    forget_all()
    with pytest.raises(KmsUnreachable, match=r"\[kms.main\]"):
        await world.source.backup()
    assert points(world) == []
    relay.on = True
    forget_all()
    await world.source.backup()
    assert (await drill(world.source.context)).closed == []


async def test_a_parent_that_cannot_be_opened_now_is_no_reason_to_send_everything_again(world, kms, openbao):
    await lock(world.source)
    await world.source.backup()
    openbao.ask("DELETE", f"transit/keys/{kms}/soft-delete")
    forget_all()
    world.source.keys.kms._keys.clear()
    with pytest.raises(KmsKeyDisabled):
        await world.source.backup()
    openbao.ask("POST", f"transit/keys/{kms}/soft-delete-restore")
    forget_all()
    assert (await world.source.backup()).kind == "incremental"


async def test_the_drill_proves_the_service_and_explain_only_reads(world, kms, relay):
    await lock(world.source)
    await world.source.backup()
    await world.source.backup()
    forget_all()
    asked = relay.questions
    (found,) = await explain(world.source.context, points(world)[0].hex())
    assert ("kms", "live") in states(found["ways"])
    world.source.keys.remove_password("office")
    forget_all()
    asked = relay.questions
    report = await drill(world.source.context)
    assert (report.points, report.closed) == (2, []) and relay.questions > asked
    counted = [e for e in world.source.keys.audit.entries() if e["event"] == "kms.unwrap" and "keys" in e]
    assert [entry["keys"] for entry in counted] == [2]


async def test_a_drill_without_the_service_lists_the_points_and_waits_once(world, kms, relay):
    await lock(world.source)
    for _time in range(3):
        await world.source.backup()
    world.source.keys.remove_password("office")
    relay.on = False
    forget_all()
    tried = relay.asked
    report = await drill(world.source.context)
    assert len(report.closed) == 3 and report.unreached == {}
    assert {way["state"] for closed in report.closed for way in closed["ways"] if way["kind"] == "kms"} == {
        "opens nothing"
    }
    assert relay.asked == tried
    with pytest.raises(NoKey):
        report.check()


async def test_a_password_that_a_service_keeps_locked_can_still_be_typed(world, kms, relay):
    """`explain` and the drill say what a restore does: see `test_without_the_service_the_password_still_opens_it`."""
    await lock(world.source)
    await world.source.backup()
    relay.on = False
    forget_all()
    (found,) = await explain(world.source.context, points(world)[0].hex())
    assert ("password", "must be typed") in states(found["ways"])
    (closed,) = (await drill(world.source.context)).closed
    assert ("password", "must be typed") in states(closed["ways"])


async def test_a_password_that_is_changed_leaves_the_service_slot_alone(world, kms):
    from transporter.jobs.rewrap import rewrap

    await lock(world.source)
    await world.source.backup()
    before = [slot.wrapped for slot in services_of(world)]
    await trio.to_thread.run_sync(world.source.keys.change_password, "office", b"another")
    await rewrap(world.source.context, "office")
    assert [slot.wrapped for slot in services_of(world)] == before
    world.source.keys.remove_password("office")
    forget_all()
    assert contents(await world.source.restore()) == contents(world.source.tree)


async def test_points_that_are_there_already_get_a_slot_once(world, kms, relay):
    await world.source.backup()
    await world.source.backup()
    report = await apply_kms(world.source.context, "main")
    assert (report.points, report.added, report.closed) == (2, 2, [])
    assert (await apply_kms(world.source.context, "main")).added == 0
    world.source.keys.remove_password("office")
    forget_all()
    assert contents(await world.source.restore()) == contents(world.source.tree)
    entries = [e["event"] for e in world.source.keys.audit.entries()]
    assert entries.count("kms.wrap") == 1 and entries.count("kms.apply") == 2


async def test_points_that_nothing_opens_get_none_and_are_counted(world, kms, relay):
    await world.source.backup()
    world.source.keys.remove_password("office")
    with pytest.raises(NoKey, match="1 restore points open by nothing"):
        await apply_kms(world.source.context, "main")
    relay.on = False
    forget_all()
    world.source.keys.kms._keys.clear()
    with pytest.raises(KmsUnreachable):
        await apply_kms(world.source.context, "main")


async def test_after_the_service_is_gone_for_good_a_typed_password_goes_on_from_what_is_there(world, kms, relay):
    """The runbook: forget what only the service opens, keep the hash anew, and run."""
    await lock(world.source)
    await world.source.backup()
    relay.on = False
    forget_all()
    world.source.keys.remove_password("office")
    (facts,) = await unknown_salts(world.source.context)
    price = KdfParameters(facts["memory_kib"], facts["iterations"], facts["lanes"])
    world.source.keys.remember_hash("office", hash_password(PASSWORD, bytes.fromhex(facts["salt"]), price))
    assert (await world.source.backup()).kind == "incremental"
    assert contents(await world.source.restore()) == contents(world.source.tree)
