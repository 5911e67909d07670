"""Whoever holds a tenant's identity may replace slots; by that he must not destroy points, nor reach another's."""

from __future__ import annotations

import os

import msgspec
import pytest
import trio
from world import PASSWORD, contents, open_world

from protocol.limits import MAX_POINTS_AT_ONCE, MAX_SLOTS
from protocol.messages import GetSlots, PutSlots, Refused, Slots, SlotsPut
from transporter.keys.storage_key import StorageKey, make_password_slot
from transporter.points.slot_rows import decode_point_slots
from transporter.repository import slot_store
from transporter.repository.limits import REPLACED_PER_POINT


@pytest.fixture
async def world():
    async with open_world() as made:
        await made.neighbour.backup()
        await made.source.backup()
        await made.source.backup("target")
        yield made
        # Whatever was tried: every point still opens, for its own tenant.
        for node in (made.source, made.neighbour):
            assert contents(await node.restore(output="well")) == contents(node.tree)
        assert contents(await made.source.restore("target", output="well-too")) == contents(made.source.tree)
        await made.still_serves()


def point_of(world, node, job="docs"):
    (ref,) = world.store().points(world.tenant(node), job)
    return ref.point_id


def any_slot(world, place=b"anywhere"):
    key = world.source.keys.user_key("office")
    return make_password_slot(StorageKey.generate(), key, key.salt, key.params, place)


async def ask(world, message, payload=b""):
    async with world.source.control() as link:
        await link.send(message, payload)
        received = await link.receive()
        return received.message, bytes(received.payload)


async def put(world, rows, job="docs", repository="main"):
    answer, _ = await ask(world, PutSlots(repository, job), msgspec.msgpack.encode(rows))
    return answer


async def test_a_point_that_was_robbed_of_its_slot_is_given_back(world):
    """A thief replaces the slot by rubbish. The provider still has the old one, hidden, and puts it back."""
    point = point_of(world, world.source)
    store = world.store()
    (old,) = store.slots(point)
    answer = await put(world, [[point, b"e" * 16, any_slot(world), [old]]])
    assert isinstance(answer, SlotsPut) and answer.kept_until_ns > world.target.clock.now_ns()
    assert set(store.slots(point)) == {b"e" * 16}
    (kept,) = store.replaced_slots(point)
    assert kept == old
    give_back(world, point)
    entries = list(world.target.keys.audit.entries())
    assert entries[-1]["event"] == "slots.replace" and entries[-1]["tenant"] == world.tenant(world.source)


def give_back(world, point):
    """What the provider does about a theft: the first slot that was replaced is in use again, and no other."""
    folder = world.store().path / "slots" / point.hex()
    first = min((path for path in folder.iterdir() if "." in path.name), key=lambda path: path.name.partition(".")[2])
    for path in folder.iterdir():
        if "." not in path.name:
            path.unlink()
    os.rename(first, folder / first.name.partition(".")[0])


async def test_a_point_never_loses_its_last_slot(world):
    point = point_of(world, world.source)
    (old,) = world.store().slots(point)
    for row in ([point, bytes(16), b"", [old]], [point, old, any_slot(world), [old]]):
        assert isinstance(await put(world, [row]), Refused)
    assert set(world.store().slots(point)) == {old}


async def test_only_ones_own_points_that_were_sealed_at_the_source(world):
    mine = point_of(world, world.source)
    cases = {
        "a neighbour's": (point_of(world, world.neighbour), "docs"),
        "none at all": (b"z" * 16, "docs"),
        "another job's": (mine, "logs"),
        "of zone target": (point_of(world, world.source, "target"), "target"),
    }
    for whose, (point, job) in cases.items():
        before = world.store().slots(point)
        answer = await put(world, [[point, b"e" * 16, any_slot(world), list(before)]], job=job)
        assert isinstance(answer, Refused), whose
        assert world.store().slots(point) == before and world.store().replaced_slots(point) == {}, whose


async def test_slots_of_others_are_not_shown(world):
    theirs = point_of(world, world.neighbour)
    mine = point_of(world, world.source)
    answer, payload = await ask(world, GetSlots("main", "docs", theirs + b"z" * 16 + mine))
    assert isinstance(answer, Slots)
    assert [row.point for row in decode_point_slots(payload)] == [mine]
    # Nor those that the target opens by a password of its own.
    answer, payload = await ask(world, GetSlots("main", "target", point_of(world, world.source, "target")))
    assert decode_point_slots(payload) == []
    for repository in ("secret", "none"):
        answer, _ = await ask(world, GetSlots(repository, "docs", mine))
        assert isinstance(answer, Refused)


async def test_what_is_no_slot_is_not_stored(world):
    point = point_of(world, world.source)
    good = any_slot(world)
    for bad in (b"x", good[:-1], good[:40] + bytes([good[40] ^ 1]) + good[41:], good + b"x", PASSWORD):
        assert isinstance(await put(world, [[point, b"e" * 16, bad, []]]), Refused)
    assert len(world.store().slots(point)) == 1


async def test_slots_are_bounded_also_for_who_asks_many_times_at_once(world):
    point = point_of(world, world.source)
    answers = []

    async def one(number):
        answers.append(await put(world, [[point, bytes([number]) * 16, any_slot(world), []]]))

    async with trio.open_nursery() as nursery:
        for number in range(MAX_SLOTS + 6):
            nursery.start_soon(one, number)
    assert sum(isinstance(answer, SlotsPut) for answer in answers) == MAX_SLOTS - 1
    assert len(world.store().slots(point)) == MAX_SLOTS


async def test_replaced_slots_are_bounded_too(world):
    """Each takes a block of the provider's disk that no quota counts before the next start."""
    point = point_of(world, world.source)
    (current,) = world.store().slots(point)
    for number in range(REPLACED_PER_POINT + 6):
        new = bytes([number]) * 16
        if isinstance(await put(world, [[point, new, any_slot(world), [current]]]), SlotsPut):
            current = new
    assert len(world.store().replaced_slots(point)) == REPLACED_PER_POINT
    # The first of them opens the point: the provider gives it back.
    give_back(world, point)


async def test_who_repeats_himself_costs_the_provider_nothing(world, monkeypatch):
    point = point_of(world, world.source)
    slot = any_slot(world)
    assert isinstance(await put(world, [[point, b"e" * 16, slot, []]]), SlotsPut)
    flushes = []
    monkeypatch.setattr(slot_store, "sync_all", lambda _fd: flushes.append(1))
    before = len(list(world.target.keys.audit.entries()))
    for rows in ([], [[point, b"e" * 16, slot, []]], [[point, bytes(16), b"", [b"u" * 16]]]):
        assert isinstance(await put(world, rows), SlotsPut)
    assert isinstance(await put(world, [[point, b"f" * 16, b"junk", []]]), Refused)
    assert flushes == [] and len(list(world.target.keys.audit.entries())) == before


GARBAGE = [
    b"",
    b"\xc1",
    b"\x90\x90",
    b"\xdd\xff\xff\xff\xff",
    msgspec.msgpack.encode([[b"short", b"e" * 16, b"x", []]]),
    msgspec.msgpack.encode([[b"p" * 16, b"e" * 16, b"x" * 5000, []]]),
    msgspec.msgpack.encode([[b"p" * 16, b"e" * 16, b"x", [b"o" * 16] * 17]]),
    msgspec.msgpack.encode([[b"p" * 16, b"e" * 16, b"x", [], 1]]),
    msgspec.msgpack.encode([[b"p" * 16, b"e" * 16, b"x", []]] * 2),
    msgspec.msgpack.encode([[bytes([n % 256, n // 256]) * 8, b"e" * 16, b"x", []] for n in range(300)]),
    msgspec.msgpack.encode({"point": b"p" * 16}),
]


async def test_garbage_is_refused_in_order(world):
    async with world.source.control() as link:
        for payload in GARBAGE:
            await link.send(PutSlots("main", "docs"), payload)
            assert isinstance((await link.receive()).message, Refused), payload[:40]
            # The connection is of use as before.
            await link.send(GetSlots("main", "docs", point_of(world, world.source)))
            assert isinstance((await link.receive()).message, Slots)


async def test_too_many_points_at_once(world):
    answer, payload = await ask(world, GetSlots("main", "docs", b"z" * 16 * MAX_POINTS_AT_ONCE))
    assert isinstance(answer, Slots) and decode_point_slots(payload) == []
