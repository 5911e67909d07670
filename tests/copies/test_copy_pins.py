"""A pin of a point stands at its copies, whichever way these went."""

from __future__ import annotations

import pytest
from copy_world import local_repository
from msgspec import structs

from transporter.daemon.copier import _looks
from transporter.errors import RefusedByPeer
from transporter.jobs import copy_pins
from transporter.jobs.copy_ends import CopyRow
from transporter.jobs.copy_plan import CopyOrder, End
from transporter.jobs.points import PointRow, Where, list_points
from transporter.repository import PROVIDER, Repository
from transporter.repository.keeping_files import Pin, decode, encode

WAY = ("offsite/main", "second/main")


def original(world):
    return world.one.store(), world.tenant(world.source)


async def pinned_backup(world, reason="before the move"):
    point = bytes.fromhex((await world.source.backup()).point)
    store, tenant = original(world)
    store.keeping.pin(tenant, "docs", point, reason, tenant)
    return point, store.keeping.pin_of(point)


@pytest.mark.parametrize("through", [True, False], ids=["through", "straight"])
async def test_a_copy_between_peers_keeps_reason_who_and_when_of_a_pin(world, through):
    point, pin = await pinned_backup(world)
    await world.copy(world.source, *WAY, jobs=("docs",), through=through)
    copied = world.there().keeping.pin_of(point)
    assert (copied.reason, copied.first_by, copied.at_ns) == (pin.reason, pin.by, pin.at_ns)
    (row,) = await list_points(world.source.context, Where("second", "main", "docs"))
    shown = row.public()
    assert (shown["pinned"], shown["pinned_by"]) == (pin.reason, pin.by) and shown["pinned_at"]
    # Here it is the conductor's, who may take it away.
    tenant = world.tenant(world.source)
    assert copied.by == tenant
    assert world.there().keeping.unpin(tenant, "docs", point, tenant)


async def test_a_providers_copy_keeps_who_pinned_it_and_is_the_providers(world):
    point, pin = await pinned_backup(world)
    await world.copy(world.target, "main", "second/main")
    copied = world.there().keeping.pin_of(point)
    assert (copied.reason, copied.by) == (pin.reason, world.tenant(world.target))
    assert (copied.first_by, copied.at_ns) == (world.tenant(world.source), pin.at_ns)


async def test_a_copy_to_a_repository_of_this_node_and_on_from_there_keeps_who_was_first(world):
    point, pin = await pinned_backup(world)
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here")
        with Repository.open(world.source.home.repository_path("here"), world.source.clock, writable=False) as here:
            copied = here.keeping.pin_of(point)
        assert (copied.reason, copied.by, copied.first_by) == (pin.reason, PROVIDER, pin.by)
        await world.copy(world.source, "here", "second/main")
    second = world.there().keeping.pin_of(point)
    assert (second.reason, second.by, second.at_ns) == (pin.reason, world.tenant(world.source), pin.at_ns)
    assert second.first_by == pin.by


@pytest.mark.parametrize("through", [True, False], ids=["through", "straight"])
async def test_a_pin_set_later_comes_with_the_next_copy_and_goes_with_none(world, through):
    point = bytes.fromhex((await world.source.backup()).point)
    await world.copy(world.source, *WAY, jobs=("docs",), through=through)
    assert world.there().keeping.pin_of(point) is None
    store, tenant = original(world)
    store.keeping.pin(tenant, "docs", point, "the audit", PROVIDER)
    again = await world.copy(world.source, *WAY, jobs=("docs",), through=through)
    assert again.points == 0
    assert world.there().keeping.pin_of(point).reason == "the audit"
    assert world.there().keeping.pin_of(point).first_by == PROVIDER
    store.keeping.unpin(tenant, "docs", point, PROVIDER)
    await world.copy(world.source, *WAY, jobs=("docs",), through=through)
    assert world.there().keeping.pin_of(point).reason == "the audit"


async def test_a_pin_that_is_there_stays_as_it_is_whoever_set_it(world):
    point, _ = await pinned_backup(world)
    store, tenant = original(world)
    store.keeping.unpin(tenant, "docs", point, tenant)
    await world.copy(world.source, *WAY, jobs=("docs",))
    world.there().keeping.pin(tenant, "docs", point, "theirs", PROVIDER)
    store.keeping.pin(tenant, "docs", point, "ours", tenant)
    await world.copy(world.source, *WAY, jobs=("docs",))
    assert world.there().keeping.pin_of(point).reason == "theirs"
    assert world.there().keeping.bring_pin(tenant, "docs", point, "again", tenant, "", 1)
    assert world.there().keeping.pin_of(point).reason == "theirs"


async def test_what_cannot_be_pinned_is_copied_all_the_same_and_the_run_says_so(world, monkeypatch):
    point, _ = await pinned_backup(world)
    newer = bytes.fromhex((await world.source.backup()).point)

    def refuse(*_args):
        raise RefusedByPeer("no", "ask")

    monkeypatch.setattr(world.there().keeping, "bring_pin", refuse)
    with pytest.raises(RefusedByPeer, match="no"):
        await world.copy(world.source, *WAY, jobs=("docs",))
    copies = world.there().points(world.tenant(world.source), "docs")
    assert [ref.point_id for ref in copies] == [point, newer]
    monkeypatch.undo()
    await world.copy(world.source, *WAY, jobs=("docs",))
    assert world.there().keeping.pin_of(point) is not None


@pytest.mark.parametrize("said", ["", "   ", "\u200b", "x" * 300, "\U0001f600" * 200], ids=ascii)
def test_whatever_a_source_says_the_pin_has_a_reason_that_a_pin_can_have(said, tmp_path):
    order = CopyOrder("c", End.of("a/b"), End.of("main"))
    row = PointRow(b"p" * 16, "docs", "full", 0, pinned=said, pinned_by="\U0001f600" * 200)
    reason, by = copy_pins._claims(order, CopyRow("", row))
    assert reason.strip() and reason.isprintable() and len(reason) <= 200 and len(reason.encode()) <= 2000
    assert len(by.encode()) <= 200


async def test_a_time_to_come_is_not_believed(world):
    point = bytes.fromhex((await world.source.backup()).point)
    store, tenant = original(world)
    assert not store.keeping.bring_pin(tenant, "docs", point, "why", tenant, "who", 2**63 - 1)
    assert store.keeping.pin_of(point).at_ns <= store.keeping.clock.now_ns()


async def test_a_continuous_copy_sees_a_pin_in_a_repository_of_this_node(world):
    point = bytes.fromhex((await world.source.backup()).point)
    store, tenant = original(world)
    before = _looks(store.path)
    assert _looks(store.path) == before
    store.keeping.pin(tenant, "docs", point, "why", tenant)
    assert _looks(store.path) != before


def test_the_file_of_a_pin_that_came_with_no_copy_is_what_it_was():
    plain = Pin(point_id=b"p" * 16, reason="r", by="t", at_ns=1)
    assert b"origin_by" not in encode(plain)
    copied = structs.replace(plain, origin_by="")
    assert decode(encode(copied), Pin, "pin") == copied and copied.first_by == ""
