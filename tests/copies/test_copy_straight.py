"""Straight from peer to peer: who may have what pushed where, in whose name."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

import msgspec
import pytest
import trio
from copy_world import contents

from protocol.messages import CopyTo, ListPoints, Mandated, Refused, Start, Started
from protocol.messages import Mandate as MandateMessage
from protocol.messages import Progress as ProgressMessage
from transporter.config import parse_config
from transporter.errors import QuotaExceeded, RefusedByPeer, TransporterError
from transporter.events import LinkLost, Progress
from transporter.jobs import copy_conduct
from transporter.jobs.context import JobContext
from transporter.jobs.copy import run_copy
from transporter.jobs.copy_plan import CopyOrder, End
from transporter.keys.node_key import NodeKey
from transporter.link.control_link import ControlLink, refusal_to_error
from transporter.link.dial import dial_control
from transporter.points.mandate import VALID_SECONDS, Mandate, make_mandate, read_mandate
from transporter.service import mandated, provider

WAY = ("offsite/main", "second/main")
NAME = b"n" * 16


def copies(world):
    return world.there().points(world.tenant(world.source), "docs")


def mandate_of(world, **fields):
    """A mandate of the office for one point that there is not."""
    now = world.second.clock.now_ns()
    made = Mandate(
        version=1,
        public=NodeKey(world.source.identity.key).public,
        source=world.target.identity.pin,
        target=world.second.identity.pin,
        repository="main",
        job="docs",
        name=NAME,
        made_ns=now,
        ends_ns=now + 10**12,
        points=[(b"p" * 16, b"h" * 32)],
    )
    return msgspec.structs.replace(made, **fields)


def signed(world, node=None, **fields):
    return make_mandate(NodeKey((node or world.source).identity.key), mandate_of(world, **fields))


async def show(world, raw, node=None):
    """Show a mandate to the second provider, as the source would; raise what it says."""
    node = node or world.target
    async with dial_control(node.context.peer("second"), node.identity) as link:
        await link.send(MandateMessage(), raw)
        answer = (await link.receive()).message
        if isinstance(answer, Refused):
            raise refusal_to_error(answer.code, answer.what, answer.remedy)
        assert isinstance(answer, Mandated)


async def test_the_data_goes_straight_and_the_points_are_the_conductors(world):
    await world.source.backup()
    await world.source.backup()
    done = await world.copy(world.source, *WAY, jobs=("docs",), through=False)
    assert done.points == 2 and done.chunks_new > 0 and done.bytes_received == 0
    assert len(copies(world)) == 2 and world.there().scrub().clean
    place = await world.source.restore("docs", source="second/main", output="back")
    assert contents(place) == contents(world.source.tree)
    again = await world.copy(world.source, *WAY, jobs=("docs",), through=False)
    assert again.points == 0
    # One name, whichever way they went: chunks are shared.
    await world.source.backup()
    more = await world.copy(world.source, *WAY, jobs=("docs",))
    assert more.points == 1 and more.chunks_new < done.chunks_new


async def test_where_the_source_does_not_know_the_target_it_is_said_what_to_do(world):
    await world.source.backup()
    world.target.catalog.remove_peer("second")
    with pytest.raises(RefusedByPeer, match="offsite does not know the node that the points are to go to") as caught:
        await world.copy(world.source, *WAY, jobs=("docs",), through=False)
    assert "`join` at offsite" in caught.value.remedy and "--through" in caught.value.remedy


async def test_where_the_source_cannot_reach_the_target_it_is_said_what_to_do(world):
    await world.source.backup()
    known = world.target.catalog.peer("second")
    world.target.catalog.put_peer(replace(known, address="127.0.0.1:1"))
    with pytest.raises(RefusedByPeer, match="second cannot be reached from offsite") as caught:
        await world.copy(world.source, *WAY, jobs=("docs",), through=False)
    assert "--through" in caught.value.remedy


STRAIGHT = CopyOrder("copy", End.of(WAY[0]), End.of(WAY[1]), jobs=("docs",))


def limit_copies(context, rate):
    """Set the limit of `STRAIGHT` at the node that conducts it."""
    copies = '[copies.copy]\nfrom = "offsite/main"\nto = "second/main"\n'
    throttle = f'[throttle.jobs.copy]\nalways = "{rate}"\n[throttle.daemon]\nalways = "8Mbit"\n'
    config = parse_config(f'[node]\nname = "x"\n{copies}{throttle}', context.home.config_path)
    context.throttle.apply(config.throttle, context.clock.local_time())


async def test_the_conductors_limit_on_the_copy_holds_where_its_data_goes(world, monkeypatch):
    """And its other limits do not: nothing of the copy is on its line."""
    await world.source.backup()
    context = world.source.context
    limit_copies(context, "80Mbit")
    paces, flow_of = [], JobContext.flow

    def flow(context, peer, job):
        made = flow_of(context, peer, job)
        if context.home is world.target.home:
            paces.append(made.sending)
        return made

    monkeypatch.setattr(JobContext, "flow", flow)
    await run_copy(context, STRAIGHT)
    assert paces
    assert [[bucket.rate for bucket in pace.buckets if bucket.rate] for pace in paces] == [[10_000_000]] * len(paces)


async def test_a_limit_that_changes_while_the_data_goes_straight_is_told_and_the_copy_goes_on(world, monkeypatch):
    monkeypatch.setattr(mandated, "PROGRESS_SECONDS", 0.01)
    await world.source.backup()
    context = world.source.context
    limit_copies(context, "80Mbit")
    provider, rates = world.one.provider, []
    push_on = provider.push

    async def push(tenant, asked, *how):
        rates.append(asked.bytes_per_second)
        if len(rates) == 1:
            limit_copies(context, "160Mbit")
            await trio.sleep_forever()
        return await push_on(tenant, asked, *how)

    monkeypatch.setattr(provider, "push", push)
    with trio.fail_after(60):
        done = await run_copy(context, STRAIGHT)
    assert done.points == 1 and rates == [10_000_000, 20_000_000]
    assert world.source.seen(LinkLost) == []


async def test_what_goes_straight_is_seen_by_who_conducts_it(world, monkeypatch):
    monkeypatch.setattr(mandated, "PROGRESS_SECONDS", 0.01)
    await world.source.backup()
    provider, seen = world.one.provider, trio.Event()
    push_on = provider.push

    async def push(tenant, asked, mandate, signed, note):
        note(12_345)
        await seen.wait()
        return await push_on(tenant, asked, mandate, signed, note)

    def look(event):
        if isinstance(event, Progress) and event.bytes_read == 12_345:
            seen.set()

    monkeypatch.setattr(provider, "push", push)
    world.source.bus.subscribe(look)
    with trio.fail_after(60):
        await world.copy(world.source, *WAY, jobs=("docs",), through=False)


@pytest.mark.parametrize("refused", [False, True], ids=["done", "refused"])
async def test_the_answer_comes_behind_a_word_of_progress_that_is_still_being_sent(world, monkeypatch, refused):
    """On a slow line: a word cut short would be the connection's last, and what was done would look like a loss."""
    await world.source.backup()
    provider, push_on, sending = world.one.provider, world.one.provider.push, trio.Event()
    say, send_on = ControlLink.send, trio.SocketStream.send_all

    async def push(tenant, asked, *how):
        done = await push_on(tenant, asked, *how)
        monkeypatch.setattr(ControlLink, "send", send)
        with trio.fail_after(60):
            await sending.wait()
        if refused:
            raise QuotaExceeded("there is no room", "make some")
        return done

    async def send(link, message, payload=b""):
        if isinstance(message, ProgressMessage):
            monkeypatch.setattr(trio.SocketStream, "send_all", slowly)
        await say(link, message, payload)

    async def slowly(stream, data):
        monkeypatch.setattr(trio.SocketStream, "send_all", send_on)
        sending.set()
        await trio.sleep(0.1)
        await send_on(stream, data)

    monkeypatch.setattr(mandated, "PROGRESS_SECONDS", 0.01)
    monkeypatch.setattr(provider, "push", push)
    with pytest.raises(QuotaExceeded, match="no room") if refused else nullcontext():
        done = await run_copy(world.source.context, STRAIGHT)
        assert done.points == 1
    assert world.source.seen(LinkLost) == []


async def test_a_mandate_is_good_for_its_two_nodes_its_time_and_its_signer_alone(world):
    await show(world, signed(world))
    pin = world.second.identity.pin
    now = world.second.clock.now_ns()
    week = VALID_SECONDS * 10**9
    for raw, node in (
        (signed(world), world.one.neighbour),  # somebody else shows it
        (signed(world, source=pin), None),
        (signed(world, target=world.target.identity.pin), None),
        (signed(world, repository="other"), None),
        (signed(world, job="docs\n\x1b[2J"), None),  # it is logged
        (signed(world, node=world.target), None),  # signed by who shows it, in the office's name
        (signed(world, made_ns=now - 3 * week, ends_ns=now - 2 * week), None),
        (signed(world, made_ns=now + 2 * week, ends_ns=now + 3 * week), None),
        (b"", None),
        (signed(world)[:-1], None),
    ):
        with pytest.raises(TransporterError):
            await show(world, raw, node)


async def test_every_altered_byte_of_a_mandate_is_found(world):
    raw = signed(world)
    now = world.second.clock.now_ns()
    read_mandate(raw, now)
    for at in range(len(raw)):
        with pytest.raises(RefusedByPeer):
            read_mandate(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], now)


async def test_a_mandate_of_somebody_who_was_removed_is_none(world):
    world.second.catalog.remove_peer("office")
    with pytest.raises(TransporterError):
        await show(world, signed(world))


async def test_who_acts_for_another_may_do_nothing_else_in_its_name(world):
    await world.source.backup()
    for ask in (
        ListPoints(repository="main", job=""),
        Start(purpose="recovery", job="docs", repository="main", zone="source", point=b"p" * 16),
        Start(purpose="backup", job="docs", repository="main", zone="source", resume=b"r" * 16),
        Start(purpose="copy-out", job="", repository="main", zone="source"),
        Start(purpose="copy-in", job="other", repository="main", zone="source", resume=b"r" * 16, name=NAME),
        Start(purpose="copy-in", job="docs", repository="main", zone="source", resume=b"r" * 16, name=b"m" * 16),
        CopyTo(repository="main", job="docs", peer=b"p" * 32),
    ):
        node = world.target
        async with dial_control(node.context.peer("second"), node.identity) as link:
            await link.send(MandateMessage(), signed(world))
            assert isinstance((await link.receive()).message, Mandated)
            await link.send(ask)
            answer = (await link.receive()).message
            assert isinstance(answer, Refused) and "mandate does not allow" in answer.what


@asynccontextmanager
async def copying_in(world, job="docs"):
    """A copy session at the second provider, in the office's name, as whoever was given a mandate opens one."""
    node = world.target
    async with dial_control(node.context.peer("second"), node.identity) as link:
        await link.send(MandateMessage(), signed(world, job=job))
        assert isinstance((await link.receive()).message, Mandated)
        start = Start(purpose="copy-in", job=job, repository="main", zone="source", resume=b"r" * 16, name=NAME)
        await link.send(start)
        assert isinstance((await link.receive()).message, Started)
        yield link


async def test_who_acts_for_another_is_in_nobodys_way(world, monkeypatch):
    """It may hold its session for ever. The conductor's own copy of that job takes its place, and it that of none."""
    await world.source.backup()
    async with copying_in(world):
        done = await world.copy(world.source, *WAY, jobs=("docs",))
        assert done.points == 1
    start = Start(purpose="copy-in", job="docs", repository="main", zone="source", resume=b"o" * 16, name=NAME)
    async with dial_control(world.source.context.peer("second"), world.source.identity) as link:
        await link.send(start)
        assert isinstance((await link.receive()).message, Started)
        # From now on: the session before this one may have been waited for.
        monkeypatch.setattr(provider, "HAND_OVER_SECONDS", 0)
        async with dial_control(world.target.context.peer("second"), world.target.identity) as other:
            await other.send(MandateMessage(), signed(world))
            await other.receive()
            await other.send(replace(start, resume=b"r" * 16))
            answer = (await other.receive()).message
            assert isinstance(answer, Refused) and answer.code == "job-busy"


async def test_sessions_in_another_name_take_none_of_its_places(world, monkeypatch):
    await world.source.backup()
    monkeypatch.setattr(provider, "SESSIONS_AT_MOST", 1)
    async with copying_in(world, job="other"):
        done = await world.copy(world.source, *WAY, jobs=("docs",))
        assert done.points == 1


async def test_a_point_that_the_mandate_does_not_name_is_not_stored(world, monkeypatch):
    await world.source.backup()
    really = copy_conduct.Mandate

    def other_hash(**fields):
        return really(**{**fields, "points": [(point, b"x" * 32) for point, _ in fields["points"]]})

    monkeypatch.setattr(copy_conduct, "Mandate", other_hash)
    with pytest.raises(RefusedByPeer, match="does not name this restore point"):
        await world.copy(world.source, *WAY, jobs=("docs",), through=False)
    assert copies(world) == []


async def test_a_tenant_has_only_its_own_points_pushed(world):
    await world.one.neighbour.backup()
    await world.source.backup()
    (theirs,) = world.one.store().points(world.tenant(world.one.neighbour), "docs")
    raw = signed(world, points=[(theirs.point_id, theirs.hash)])
    async with dial_control(world.source.context.peer("offsite"), world.source.identity) as link:
        await link.send(CopyTo(repository="main", job="docs", peer=world.second.identity.pin), raw)
        answer = (await link.receive()).message
    assert isinstance(answer, Refused) and "not every restore point" in answer.what
    assert world.there().tenants() == []
