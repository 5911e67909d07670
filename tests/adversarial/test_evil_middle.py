"""Whoever stands in the line: flips, cuts, drops, repeats, reorders, replays, splices. Between two real ends.

Altered bytes end the job as tampering, at once and by name; a cut is redialled; and nothing wrong is ever stored,
restored or committed.
"""

from __future__ import annotations

import math
import random

import msgspec
import pytest
import trio
from evil_middle import ACTS, Middle, cut, flip, once_at, once_on_any
from world import contents, small_tree

from protocol.data import PREFACE_LENGTH
from transporter.errors import (
    CannotConnect,
    IdentityRefused,
    LinkLost,
    RefusedByPeer,
    TamperingDetected,
    TransporterError,
)
from transporter.events import LinkLost as LinkLostEvent
from transporter.events import Note, SecurityEvent
from transporter.link.dial import Peer, dial_control
from transporter.link.tls import TlsStream
from transporter.repository import Repository
from transporter.service.backup import BackupService

# The line may be silent until the last deadline is over. None of this file's own: the clock, which runs while nothing
# happens here, would jump to it whenever a busy machine is slow. What hangs is ended by the test runner.
PATIENCE = math.inf


@pytest.fixture
async def middle(fast_clock, world):
    """The line between ``source`` and the target, honest until told otherwise; at the end all must be well."""
    made = Middle(world.address)
    await world.nursery.start(made.run)
    world.source.dials(made.address)
    small_tree(world.source.tree / "more", seed=9, size=2_500_000)
    yield made
    made.meddle = lambda _way, data: [data]
    with trio.fail_after(PATIENCE):
        await world.source.backup()
        assert contents(await world.source.restore(output="well")) == contents(world.source.tree)
        await all_ended(world)


async def all_ended(world):
    """Wait until the target is done with every session: it goes on a moment after the source has heard all."""
    while world.provider.sessions or world.store()._writers:
        await trio.sleep(1)


async def outcome(function, *arguments, **how):
    with trio.fail_after(PATIENCE):
        try:
            return await function(*arguments, **how)
        except TransporterError as error:
            return error


async def security_event(world):
    """Return what the target's security event says; it may come a moment after the refusal."""
    with trio.fail_after(PATIENCE):
        while not world.target.seen(SecurityEvent):
            await trio.sleep(0.01)
    return world.target.seen(SecurityEvent)[0].what


def committed(world):
    return len(world.store().points(world.tenant(world.source)))


async def test_an_honest_relay_changes_nothing(fast_clock, world, middle):
    await world.still_serves()
    done = await world.source.backup()
    assert done.redials == 0
    assert contents(await world.source.restore()) == contents(world.source.tree)
    assert (middle.counts["control"], middle.counts["data"]) == (3, 4)


# --- data channels --------------------------------------------------------------------------------------------

UP = [9, 30, 90, 170, 300_000]
DOWN = [30, 100]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("at", UP)
async def test_altered_bytes_towards_the_target_end_the_backup(fast_clock, world, middle, monkeypatch, act, at):
    # One channel, so that it is the one which carries the byte at that place.
    monkeypatch.setattr("transporter.jobs.backup.STREAMS", 1)
    middle.meddle = once_at("data", 0, True, at, ACTS[act])
    result = await outcome(world.source.backup)
    if at >= 27 and act in ("flip", "repeat"):
        # Past magic, version, channel number and session id, every byte is the channel's own.
        assert isinstance(result, TamperingDetected), result
        assert "office" in await security_event(world)
        assert not world.source.seen(LinkLostEvent), "a tampered link is never redialled silently"
        assert committed(world) == 0
    else:
        # A byte that is missing where nothing follows is waited for, and the line then called broken. A preface that
        # names nothing known gets no answer, as on a line that lets no data channel through: others are taken then.
        others = at < PREFACE_LENGTH and any("WebSocket" in note.text for note in world.source.seen(Note))
        redialled = act == "drop" and world.source.seen(LinkLostEvent)
        assert isinstance(result, TransporterError) or redialled or others, result


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("at", DOWN)
async def test_altered_bytes_towards_the_source_end_the_backup(fast_clock, world, middle, act, at):
    middle.meddle = once_at("data", 0, False, at, ACTS[act])
    result = await outcome(world.source.backup)
    if act == "flip" or at < 60:
        assert isinstance(result, TamperingDetected), result
        assert committed(world) == 0
    elif not isinstance(result, TransporterError):
        assert committed(world) == 1


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("at", [30, 300_000])
async def test_altered_bytes_end_the_restore_and_leave_nothing(fast_clock, world, middle, act, at):
    await world.source.backup()
    # The data channels of the backup were numbers 0 and 1.
    middle.meddle = once_on_any("data", (2, 3), False, at, ACTS[act])
    result = await outcome(world.source.restore)
    place = world.folder / "office-out"
    if act == "drop" and not isinstance(result, TamperingDetected):
        # Where nothing follows, a byte that is missing is only waited for, and the line then called broken.
        assert isinstance(result, CannotConnect | LinkLost) or contents(place) == contents(world.source.tree)
        return
    assert isinstance(result, TamperingDetected), result
    assert not place.exists() or contents(place) == {}
    assert committed(world) == 1


async def test_frames_that_change_places_are_noticed(fast_clock, world, middle, monkeypatch):
    """Whole frames: what was sealed stays sealed well, only its order is another."""
    monkeypatch.setattr("transporter.jobs.backup.STREAMS", 1)
    held = []

    def swap(way, data):
        # Once, and then all goes on: what is held back for ever, as the end of a last frame, is silence and no more.
        if way.kind == "data" and way.up and way.number == 0 and way.seen > 400 and len(held) < 3:
            held.append(data)
            return [*held[1:], held[0]] if len(held) == 3 else []
        return [data]

    middle.meddle = swap
    result = await outcome(world.source.backup)
    assert isinstance(result, TamperingDetected), result
    assert committed(world) == 0


async def test_frames_of_one_channel_do_not_go_through_another(fast_clock, world, middle):
    """From some place on, what is sent on channel 1 arrives on channel 0 and the other way round."""

    def cross(way):
        if way.kind != "data" or not way.up or way.number > 1 or way.seen < 400:
            return None
        return ("data", 1 - way.number, True)

    middle.divert = cross
    result = await outcome(world.source.backup)
    assert isinstance(result, TamperingDetected)
    assert committed(world) == 0


async def test_tampering_is_told_however_long_the_session_takes_to_end(fast_clock, world, middle, monkeypatch):
    """A target whose disk is slow writes its pack for longer than a broken channel is wondered at."""
    really_close = BackupService.close

    async def close(self):
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        await really_close(self)

    monkeypatch.setattr("transporter.jobs.backup.STREAMS", 1)
    monkeypatch.setattr(BackupService, "close", close)
    middle.meddle = once_at("data", 0, True, 300_000, flip)
    result = await outcome(world.source.backup)
    assert isinstance(result, TamperingDetected), result
    assert not world.source.seen(LinkLostEvent)
    assert committed(world) == 0


# Behind magic, version, number, session and salt.
COMMITMENT = 60


@pytest.mark.parametrize("number", [0, 1], ids=["the first channel", "the second channel"])
async def test_an_altered_preface_is_told_before_its_channel_closes(fast_clock, world, middle, monkeypatch, number):
    """However long the target takes to close its packs: the source must not take it for a line that broke."""
    closing = await packs_stay_open(world, monkeypatch)
    middle.meddle = once_at("data", number, True, COMMITMENT, flip)
    await is_told(world, closing)


async def test_an_altered_preface_of_a_channel_that_is_added_later_is_told_too(fast_clock, world, middle, monkeypatch):
    async def grow(session, opener, *_measured):
        while session.data_bytes < 10_000:
            await trio.sleep(0.01)
        middle.meddle = once_at("data", 1, True, COMMITMENT, flip)
        await opener.grow_to(2)

    monkeypatch.setattr("transporter.jobs.backup.STREAMS", 1)
    monkeypatch.setattr("transporter.link.channels._stripe", grow)
    closing = await packs_stay_open(world, monkeypatch)
    await is_told(world, closing)


async def packs_stay_open(world, monkeypatch):
    """Have the target commit nothing, and close no pack, before the returned event is set."""
    may_close = trio.Event()
    really_close, really_commit = BackupService.close, BackupService._commit

    async def close(self):
        with trio.CancelScope(shield=True):
            await may_close.wait()
        await really_close(self)

    async def commit(self, received):
        # The job must not be done before what was altered has been looked at.
        await may_close.wait()
        await really_commit(self, received)

    monkeypatch.setattr(BackupService, "close", close)
    monkeypatch.setattr(BackupService, "_commit", commit)
    return may_close


async def is_told(world, closing):
    """Back up; fail unless that ends as tampering while the target still closes its packs."""
    result = await outcome(world.source.backup)
    assert world.provider.sessions, "the target is not done yet"
    closing.set()
    assert isinstance(result, TamperingDetected), result
    assert not world.source.seen(LinkLostEvent), "and nothing was dialled again"
    assert not [note for note in world.source.seen(Note) if "WebSocket" in note.text]
    assert "was not opened by" in await security_event(world)
    assert committed(world) == 0


# --- the control connection -----------------------------------------------------------------------------------

# A backup moves some 3,900 bytes up and 2,900 down on it; the handshake is over after about 2,000.
CONTROL = [3, 1_300, 2_000, 2_600]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("at", CONTROL)
async def test_altered_bytes_of_the_control_connection_never_do_harm(fast_clock, world, middle, act, up, at):
    """In the handshake it cannot be told from a peer that talks something else; after it, it is tampering."""
    middle.meddle = once_at("control", 0, up, at, ACTS[act])
    result = await outcome(world.source.backup)
    assert middle.passed["control", up] > at, "the place came by"
    if isinstance(result, TransporterError):
        assert isinstance(result, TamperingDetected | CannotConnect | RefusedByPeer), result
        assert committed(world) == 0
    else:
        assert committed(world) == 1


async def test_an_altered_record_in_a_session_is_tampering_for_both_ends(fast_clock, world, middle):
    armed = []

    def meddle(way, data):
        if way.kind == "data" and way.up and way.seen > 10_000 and not armed:
            armed.append(True)
        if way.kind == "control" and not way.up and armed == [True]:
            armed.append(True)
            return flip(data, len(data) - 1)
        return [data]

    middle.meddle = meddle
    assert isinstance(await outcome(world.source.backup), TamperingDetected)
    assert not world.source.seen(LinkLostEvent)
    assert committed(world) == 0


async def test_a_relay_that_ends_tls_itself_is_refused(fast_clock, world, middle):
    """It has keys of its own, and nobody's pin."""
    mallory = world.neighbour.identity

    async def impostor(stream):
        tls = TlsStream(stream, mallory, server=True, accept_pin=lambda _: True)
        with pytest.raises(IdentityRefused):
            await tls.do_handshake()
        await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    world.nursery.start_soon(trio.serve_listeners, impostor, listeners)
    host, port = listeners[0].socket.getsockname()
    address = type(middle.address)(host, port)
    world.source.dials(address)
    result = await outcome(world.source.backup)
    assert isinstance(result, IdentityRefused)
    assert "pinned" in result.what
    world.source.dials(middle.address)


async def test_a_replayed_control_connection_gets_nowhere(fast_clock, world, middle):
    recorded = []

    def record(way, data):
        if way.kind == "control" and way.up:
            recorded.append(data)
        return [data]

    middle.meddle = record
    await world.source.backup()
    await all_ended(world)
    before = committed(world)
    async with await trio.open_tcp_stream(world.address.host, world.address.port) as stream:
        with trio.fail_after(PATIENCE):
            answer = b""
            try:
                for block in recorded:
                    await stream.send_all(block)
                while more := await stream.receive_some():
                    answer += more
            except trio.BrokenResourceError:
                pass
    assert committed(world) == before
    assert world.provider.sessions == {}


async def test_data_channels_of_an_old_session_are_worth_nothing(fast_clock, world, middle):
    recorded = {}

    def record(way, data):
        if way.kind == "data" and way.up:
            recorded.setdefault(way.number, []).append(data)
        return [data]

    middle.meddle = record
    await world.source.backup()
    (world.source.tree / "new").write_bytes(b"new" * 100_000)

    def splice(way, data):
        # The bytes of the old channel 0 (or 1) in place of the new one's.
        if way.kind == "data" and way.up and way.seen == 0:
            return recorded[way.number % 2]
        return [] if way.kind == "data" and way.up else [data]

    middle.meddle = splice
    world.target.events.clear()
    result = await outcome(world.source.backup)
    assert isinstance(result, TransporterError)
    assert committed(world) == 1
    for blocks in recorded.values():
        async with await trio.open_tcp_stream(world.address.host, world.address.port) as stream:
            with trio.fail_after(PATIENCE):
                try:
                    await stream.send_all(b"".join(blocks))
                    assert await stream.receive_some() == b""
                except trio.BrokenResourceError:
                    pass


async def test_an_old_session_behind_a_new_preface_is_tampering(fast_clock, world, middle):
    """Routed to the new session by its preface, then fed with the frames of the old one."""
    recorded = []

    def record(way, data):
        if way.kind == "data" and way.up and way.number == 0:
            recorded.append(data)
        return [data]

    middle.meddle = record
    await world.source.backup()
    old = b"".join(recorded)
    (world.source.tree / "new").write_bytes(b"new" * 100_000)

    def splice(way, data):
        if way.kind == "data" and way.up and way.seen == 0:
            return [data[:83] + old[83:]]
        return [data]

    middle.meddle = splice
    assert isinstance(await outcome(world.source.backup), TamperingDetected)
    assert await security_event(world)
    assert committed(world) == 1


async def test_two_sessions_spliced_into_each_other_are_tampering(fast_clock, world, middle):
    """A relay between two tenants: one's data channels are led to the other's session."""
    # Else it would go on over WebSockets, whose session cannot be read, and so not be exchanged.
    link = msgspec.structs.replace(world.source.config.link, data="direct")
    world.source.config = msgspec.structs.replace(world.source.config, link=link)
    own = Middle(world.address)
    await world.nursery.start(own.run)
    prefaces = []

    def note(way, data):
        if way.kind == "data" and way.up and way.seen == 0:
            prefaces.append(data[:83])
        return [data]

    own.meddle = note
    async with world.neighbour.session(None) as session:
        stranger = session.started.session

        def splice(way, data):
            if way.kind == "data" and way.up and way.seen == 0:
                return [data[:11] + stranger + data[27:]]
            return [data]

        middle.meddle = splice
        result = await outcome(world.source.backup)
        assert isinstance(result, TransporterError)
    assert committed(world) == 0


# --- cuts and silence -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize(
    ("kind", "number", "at"),
    [("data", 0, 500), ("data", 0, 700_000), ("data", 1, 100), ("data", 1, 400_000)],
)
async def test_a_cut_is_redialled_and_nothing_acknowledged_is_sent_twice(
    fast_clock, world, middle, kind, number, at, up
):
    middle.meddle = once_at(kind, number, up, at, cut)
    done = await world.source.backup()
    assert committed(world) == 1
    if not up:
        return  # the target says little on a data channel: the place may never come
    assert done.bytes_sent <= 3_300_000 + 2 * 3_300_000 * done.redials


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
async def test_a_cut_of_the_control_connection_in_a_session_is_redialled(fast_clock, world, middle, up):
    cuts = []

    def meddle(way, data):
        if not cuts and way.kind == "data" and way.up and way.seen > 300_000:
            cuts.append("due")
        if cuts == ["due"] and way.kind == "control" and way.up == up:
            cuts.append("done")
            return None
        return [data]

    middle.meddle = meddle
    done = await world.source.backup()
    assert cuts == ["due", "done"] and done.redials == 1
    assert committed(world) == 1
    assert done.bytes_sent <= 2 * 3_300_000


async def test_a_run_of_more_sessions_than_are_remembered_commits_a_point_that_opens(
    fast_clock, world, middle, monkeypatch
):
    """Each session of a job that the target seals has keys of its own; what lies under forgotten ones is sent again."""
    monkeypatch.setattr("transporter.keys.database.MOST_RUNS", 1)
    # Not all of it is on its way before anything is acknowledged.
    monkeypatch.setattr("transporter.link.outbox.UNACKNOWLEDGED_BYTES", 2 << 20)
    (world.source.tree / "long").write_bytes(random.Random(5).randbytes(12 << 20))
    stored, cuts, rings = [], [], []
    really, really_commit = BackupService._acknowledge, Repository.commit_point

    async def acknowledge(service, ids):
        await really(service, ids)
        stored.append(service._session.session_id)

    def meddle(way, data):
        # The first two sessions end right behind their first acknowledgement: something lies under the keys of each.
        if way.kind == "data" and way.up and len(cuts) < 2 and stored and stored[-1] not in cuts:
            cuts.append(stored[-1])
            return None
        return [data]

    def commit(store, *arguments, key_ids, **how):
        rings.append(key_ids)
        return really_commit(store, *arguments, key_ids=key_ids, **how)

    monkeypatch.setattr(BackupService, "_acknowledge", acknowledge)
    monkeypatch.setattr(Repository, "commit_point", commit)
    middle.meddle = meddle
    await world.source.backup("target")
    assert len(cuts) == 2
    # Three to each: for data, metadata and the index of files.
    assert rings and all(len(ring) == 2 * 3 for ring in rings), "the third knows its own, the second's, not the first's"
    assert contents(await world.source.restore("target")) == contents(world.source.tree)


@pytest.mark.parametrize("at", [0, 100, 1_000, 1_900])
@pytest.mark.parametrize("kind", ["control", "data"])
async def test_a_cut_before_the_first_session_stands_is_that_it_cannot_connect(fast_clock, world, middle, kind, at):
    middle.meddle = once_at(kind, 0, True, min(at, 90) if kind == "data" else at, cut)
    result = await outcome(world.source.backup)
    assert isinstance(result, CannotConnect) or kind == "data", "a data channel can be opened anew"
    assert committed(world) == (0 if isinstance(result, TransporterError) else 1)
    if isinstance(result, TransporterError):
        assert isinstance(result, CannotConnect), result


async def test_cuts_during_a_restore_are_redialled(fast_clock, world, middle):
    await world.source.backup()
    cuts = []

    def meddle(way, data):
        # How much each channel carries is chance: whichever of the restore's gets so far, three times.
        if way.kind == "data" and not way.up and way.number >= 2 and way.seen > 200_000 and len(cuts) < 3:
            cuts.append(way.number)
            return None
        return [data]

    middle.meddle = meddle
    assert contents(await world.source.restore()) == contents(world.source.tree)
    assert cuts


async def test_a_line_that_swallows_everything_is_given_up(fast_clock, world, middle):
    """It stays open, and nothing arrives any more."""
    began = []

    def swallow(way, data):
        if began or (way.kind == "data" and way.seen > 300_000):
            began.append(trio.current_time())
            return []
        return [data]

    middle.meddle = swallow
    try:
        await world.source.backup()
        pytest.fail("nothing arrives")
    except LinkLost:
        pass
    assert trio.current_time() - began[0] < 300
    assert committed(world) == 0


# --- what it sees ---------------------------------------------------------------------------------------------


async def test_it_sees_no_content_no_name_no_password_and_no_key(fast_clock, world, middle):
    marker, name = b"MARKER-IN-THE-CONTENT", "MARKER-IN-A-NAME"
    for number in range(50):
        (world.source.tree / f"{name}-{number}").write_bytes(marker * (number + 1))
    seen = []

    def record(_way, data):
        seen.append(data)
        return [data]

    middle.meddle = record
    for job in ("docs", "none", "target"):
        await world.source.backup(job)
        await world.source.restore(job, output=f"seen-{job}")
    everything = b"".join(seen)
    assert len(everything) > 1_000_000
    keys = [world.source.keys.user_key("office").hash.raw, world.target.keys.user_key("vault").hash.raw]
    for secret in (marker, name.encode(), b"correct horse", *keys):
        assert secret not in everything


async def test_a_node_that_is_no_peer_cannot_use_the_relay_either(fast_clock, world, middle):
    from transporter.clock import SystemClock
    from transporter.link.identity import create_identity

    (world.folder / "office-stranger").mkdir()
    stranger = create_identity(world.folder / "office-stranger", "stranger", SystemClock())
    with pytest.raises(IdentityRefused):
        async with dial_control(Peer("offsite", middle.address, world.target.identity.pin), stranger):
            pytest.fail("nobody knows it")
