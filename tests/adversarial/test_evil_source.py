"""A tenant that is hostile: it speaks the real protocol by the real link, and asks for what is not its own.

It may fill its quota. It must not see or touch another tenant, leave its root, overwrite a committed point, or take the
provider down; and it learns nothing from a refusal.
"""

from __future__ import annotations

import os
import struct
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

import msgspec
import pytest
import trio
from blake3 import blake3
from world import RUN, contents, open_world, quiet_handlers, start_of

from pipeline.chunk import Chunk
from protocol.channel_keys import binding
from protocol.data import HEADROOM, DataChannel
from protocol.frame import encode
from protocol.limits import MAX_PLAIN_LENGTH, MAX_SLOTS, PIECE
from protocol.messages import Chunk as ChunkMessage
from protocol.messages import (
    Commit,
    CommitPlain,
    Committed,
    Flush,
    Flushed,
    Get,
    GetPoint,
    Have,
    KeyB,
    ListPoints,
    Needs,
    Pair,
    Piece,
    Points,
    PutSlot,
    Refused,
    Started,
)
from protocol.pieces import BACKUP_AT_MOST
from transporter.catalog import Peer
from transporter.clock import SystemClock
from transporter.errors import (
    DamagedData,
    IdentityRefused,
    JobBusy,
    NoKey,
    QuotaExceeded,
    RefusedByPeer,
    TamperingDetected,
    TransporterError,
)
from transporter.events import SecurityEvent
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.password import KdfParameters, UserKey, hash_password
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.link.broken import LinkBroken
from transporter.link.dial import dial_carrier
from transporter.points.assemble import Place, PointFacts, assemble_sealed, encode_facts
from transporter.points.domain import domain_of
from transporter.points.run_keys import RunKeys
from transporter.repository.point_head import decode_head, encode_head

ID = b"i" * 32
# Seconds that an answer may take before a test gives up.
PATIENCE = 10


@pytest.fixture
async def world(monkeypatch):
    async with open_world() as made:
        await made.neighbour.backup()
        made.before = snapshot(made)
        yield made
        # This runs before what a test patched is taken back by itself: an honest client has the bounds that there are.
        monkeypatch.undo()
        assert_untouched(made)
        await made.still_serves()
        with trio.fail_after(PATIENCE):
            while made.store()._writers or made.provider.sessions or made.front._half_open.count:
                await trio.sleep(0.01)


def theirs(world):
    """The neighbour's point."""
    (ref,) = world.store().points(world.tenant(world.neighbour), "docs")[:1]
    return ref


def snapshot(world):
    """Every file of the neighbour's points, and everything beside the repositories."""
    store = world.store().path
    files = {}
    tenant = next((store / "points").iterdir())
    for path in (*tenant.rglob("*"), *(store / "slots").rglob("*")):
        if path.is_file():
            files[path] = path.read_bytes()
    return files


HOME = {
    *(
        "config.toml",
        "identity.key",
        "identity.crt",
        "master.key",
        "audit.log",
        "cache",
        "repositories",
        "locks",
        "run",
    ),
    *(f"{name}.db{suffix}" for name in ("keys", "catalog") for suffix in ("", "-wal", "-shm")),
}
BESIDE = ("office", "neighbour", "offsite")


def assert_untouched(world):
    for path, content in world.before.items():
        assert path.read_bytes() == content
    assert all(path.name.partition("-")[0] in BESIDE for path in world.folder.iterdir())
    assert {path.name for path in world.target.home.path.iterdir()} <= HOME
    for path in world.store().path.rglob("*"):
        assert path.resolve().is_relative_to(world.store().path.resolve())


class Attack:
    """A session by the real link, with chunks of the test's own making."""

    def __init__(self, session, send, stored):
        self.session, self._send, self.stored = session, send, stored
        self._sent = 0
        self.started = session.started
        self.link = session.link

    async def chunk(self, stored, chunk_id=ID, codec=0, plain_length=None, metadata=False):
        """Send a stored chunk as it is."""
        length = len(stored) if plain_length is None else plain_length
        memory = bytearray(HEADROOM) + stored
        self._sent += 1
        await self._send(Chunk(chunk_id, length, memory, codec=codec, metadata=metadata))

    async def durable(self):
        """Wait until everything is stored, or until the refusal arrives. A Flush alone would overtake chunks."""
        while sum(map(len, self.stored)) < 32 * self._sent:
            await trio.sleep(0.005)
        await self.session.request(Flush(), b"", Flushed)


@asynccontextmanager
async def attack(node, **fields):
    """Open a session. Whatever ends it is raised as itself."""
    send, receive = trio.open_memory_channel(0)
    try:
        with trio.fail_after(PATIENCE):
            stored = []
            handlers = quiet_handlers(next_chunk=receive.receive, on_stored=stored.append)
            async with node.session(start_of(**fields), handlers=handlers) as session:
                yield Attack(session, send.send, stored)
    except BaseExceptionGroup as group:
        raise next(iter(group.exceptions)) from group


async def refused(node, error=RefusedByPeer, **fields):
    """Expect that a session cannot even be started; return the error."""
    with pytest.raises(error) as caught:
        async with attack(node, **fields):
            pytest.fail("it must be refused")
    return caught.value


def sealed_point(attack, keys=None, **place):
    """A whole sealed point for this session, or for wherever ``place`` says."""
    clock = SystemClock()
    user_key = UserKey("evil", hash_password(b"evil", b"e" * 16, KdfParameters(8, 1, 1)))
    keys = keys or RunKeys(ChunkIdKey(b"c" * 32), SessionKey.generate(clock), MetaKey.generate(clock))
    started = attack.started
    where = Place(started.tenant, "docs", started.repository_id, RUN, started.domain, "source", started.parent)
    needs = place.pop("needs", b"")
    facts = PointFacts(
        kind="full", created_ns=1, workload="tree", manifest=[], needs_hash=blake3(needs).digest(), statistics={}
    )
    head, slots, _ = assemble_sealed(replace(where, **place), facts, keys, user_key, clock)
    return head, slots


async def commit(attack, head, slots, *, needs=b"", point=RUN, slot_point=RUN):
    if needs:
        await attack.session.tell(Needs(ids=needs))
    for slot_id, slot in slots:
        await attack.session.tell(PutSlot(point=slot_point, slot=slot_id), slot)
    return (await attack.session.request(Commit(point=point), head, Committed))[0]


async def test_a_head_that_no_list_could_show_is_not_stored(world):
    """One tenant's point must not end the provider's own lists and copies of the points of all."""
    user_key = UserKey("evil", hash_password(b"evil", b"e" * 16, KdfParameters(8, 1, 1)))
    clock = SystemClock()
    for facts in ({"kind": "\x1b[2J"}, {"created_ns": 2**63}, {"statistics": {"bytes": -1}}):
        with pytest.raises(DamagedData):
            async with attack(world.source) as evil:
                started = evil.started
                place = Place(started.tenant, "docs", started.repository_id, RUN, started.domain, "source")
                keys = RunKeys(ChunkIdKey(b"c" * 32), SessionKey.generate(clock), MetaKey.generate(clock))
                sound = {"kind": "full", "created_ns": 1, "workload": "tree", "manifest": [], "statistics": {}}
                point = PointFacts(**{**sound, **facts}, needs_hash=blake3(b"").digest())
                head, slots, _ = assemble_sealed(place, point, keys, user_key, clock)
                await commit(evil, head, slots)
    assert world.store().points(world.tenant(world.source)) == []


async def test_a_tenant_cannot_fill_the_key_database_with_jobs_that_never_store_anything(world, monkeypatch):
    """Its quota does not count them: each costs a row, and its name is the tenant's choice."""
    monkeypatch.setattr("transporter.service.job_room.MOST_JOBS", 3)
    sealed = {"zone": "target", "password": "vault"}
    copied = {"purpose": "copy-seal", **sealed}
    for fields in (sealed, {"zone": "none"}, {"zone": "none", "acceleration": True}):
        async with attack(world.source, job=f"job-{len(fields)}", **fields):
            pass
    async with attack(world.source, job="first", **sealed):
        pass
    for fields in (sealed, {"zone": "none"}, {"zone": "none", "repository": "rest"}):
        error = await refused(world.source, job="more", **fields)
        assert "keys of 3 jobs" in error.what
    async with attack(world.source, job="first", **sealed):
        pass  # one that is known goes on
    for number in range(4):
        name = bytes([number]) * 16
        if number < 3:
            async with attack(world.source, job="docs", name=name, **copied):
                pass
        else:
            await refused(world.source, job="docs", name=name, **copied)
    await world.neighbour.backup("target")


# --- what belongs to others -----------------------------------------------------------------------------------


async def test_a_repository_that_is_not_open_to_it_looks_like_one_that_is_not_there(world):
    world.target.catalog.remove_peer("office")
    known = world.source.identity.pin
    world.target.catalog.put_peer(Peer("office", known, tenant=world.tenant(world.source), rights=("rest",)))
    texts = []
    for repository in ("main", "nothing", "../main", "main/../main"):
        error = await refused(world.source, repository=repository)
        texts.append(error.what.replace(repr(repository), "X"))
        async with world.source.control() as link:
            await link.send(ListPoints(repository=repository))
            answer = (await link.receive()).message
            assert isinstance(answer, Refused) and answer.code == "refused"
            await link.send(GetPoint(repository=repository, job="docs", point=theirs(world).point_id))
            assert (await link.receive()).message.code == "refused"
    assert len(set(texts)) == 1, "nothing is learnt from the refusal"


async def test_another_tenants_points_are_not_listed_and_not_given(world):
    point = theirs(world).point_id
    tenant = world.tenant(world.neighbour)
    async with world.source.control() as link:
        for job in ("", "docs", tenant, f"../{tenant}/docs", f"{tenant}/docs"):
            await link.send(ListPoints(repository="main", job=job))
            received = await link.receive()
            assert isinstance(received.message, Points)
            assert msgspec.msgpack.decode(received.payload) == []
            await link.send(GetPoint(repository="main", job=job or "docs", point=point))
            answer = (await link.receive()).message
            assert isinstance(answer, Refused) and answer.code == "no-such-point"


async def test_another_tenants_chunks_are_neither_known_nor_given(world):
    ref = theirs(world)
    ids = list(world.store().read_needs(ref.tenant, ref.job, ref.point_id))
    assert ids
    async with attack(world.source) as evil:
        assert await evil.session.have(ids) == [None] * len(ids)
    missing = []
    handlers = quiet_handlers(on_missing=lambda chunk_id, _reason: missing.append(chunk_id))
    recovery = start_of(purpose="recovery", point=ref.point_id, resume=b"")
    async with world.source.session(recovery, handlers=handlers) as session:
        await session.ask_for(ids)
        await session.ask_for(ids, [b"x" * 32])
        with trio.fail_after(PATIENCE):
            while len(missing) < 2 * len(ids):
                await trio.sleep(0.01)
    assert set(missing) == set(ids)


@pytest.mark.parametrize("zone", ["target", "none"])
async def test_another_tenants_point_is_not_opened_for_it(world, zone):
    await world.neighbour.backup(zone)
    (ref,) = world.store().points(world.tenant(world.neighbour), zone)
    await refused(
        world.source, TransporterError, purpose="recovery", zone=zone, job=zone, point=ref.point_id, resume=b""
    )


async def test_a_sealed_point_is_not_opened_by_calling_it_plain(world):
    """A target-zone point asked for as zone none, or the other way round."""
    await world.source.backup("target")
    (ref,) = world.store().points(world.tenant(world.source), "target")
    await refused(world.source, purpose="recovery", zone="none", job="target", point=ref.point_id, resume=b"")


async def test_it_may_not_choose_a_password_that_is_not_there(world):
    await refused(world.source, NoKey, zone="target", password="office", job="other")
    await refused(world.source, NoKey, zone="target", password="", job="other")


async def test_a_domain_belongs_to_a_tenant_and_a_job():
    seen = {
        domain_of(tenant, job)
        for tenant, job in [("a", "b"), ("ab", ""), ("", "ab"), ("b", "a"), ("a/b", "c"), ("a", "b/c"), ("a", "b\0c")]
    }
    assert len(seen) == 7


# --- names ----------------------------------------------------------------------------------------------------

NAMES = [
    "../x",
    "../../../../tmp/x",
    "..",
    ".",
    "/etc/passwd",
    "a/../../b",
    "%2e%2e/x",
    "~",
    "a\\b",
    "a//b",
    "a/",
    "\u202e",
]


@pytest.mark.parametrize("purpose", ["backup", "copy-in"])
@pytest.mark.parametrize("job", NAMES)
async def test_a_path_like_job_name_is_refused(world, job, purpose):
    error = await refused(world.source, job=job, purpose=purpose, name=b"n" * 16)
    assert "not a usable name for a job" in str(error)
    assert [folder.name for folder in (world.store().path / "points").glob("*/*")] == ["docs"]


async def test_a_job_name_of_other_letters_stays_inside_the_repository(world):
    job = "ä" * 30
    async with attack(world.source, job=job) as evil:
        head, slots = sealed_point(evil, job=job)
        await commit(evil, head, slots)
    (ref,) = world.store().points(world.tenant(world.source), job)
    assert ref.job == job
    assert world.store().read_head(ref.tenant, job, RUN) == head
    folders = [path for path in (world.store().path / "points").rglob("*") if path.is_dir()]
    assert all(path.parent.parent == world.store().path / "points" for path in folders if path.parent.name != "points")


@pytest.mark.parametrize("job", ["", "ä" * 100])
async def test_a_job_name_that_cannot_be_a_folder_is_refused(world, job):
    await refused(world.source, TransporterError, job=job)


@pytest.mark.parametrize("name", [b"a\0b", b"a\nb", b"\x1b[31m", b"x" * 201, b"\xff\xfe"])
async def test_a_name_that_is_no_text_breaks_the_protocol(world, name):
    async with world.source.control() as link:
        header = msgspec.msgpack.encode(
            {"purpose": "backup", "repository": "main", "zone": "source", "resume": RUN, "job": "@@"}
        ).replace(b"\xa2@@", b"\xd9" + bytes([len(name)]) + name)
        await raw(link, 10, header)
        await closed(link)


async def raw(link, kind, header=b"\x80", payload=b""):
    """Send a control message that our own end would not let out."""
    body = struct.pack(">BH", kind, len(header)) + header + payload
    await link._websocket.send_message(struct.pack(">I", len(body)) + body)


async def closed(link):
    """Expect that the provider ends the connection without another message but a refusal."""
    with trio.fail_after(PATIENCE), pytest.raises((LinkBroken, RefusedByPeer)):
        while True:
            received = await link.receive()
            assert isinstance(received.message, Refused), received.message


# --- points ---------------------------------------------------------------------------------------------------


async def test_the_attackers_own_point_is_accepted(world):
    """Else the refusals below would prove nothing."""
    async with attack(world.source) as evil:
        done = await commit(evil, *sealed_point(evil))
    assert done.point == RUN


LIES = {
    "another job": {"job": "other"},
    "another tenant": {"tenant": "neighbour"},
    "another point": {"point_id": b"\x22" * 16},
    "another domain": {"domain": b"d" * 16},
    "another zone": {"zone": "none"},
    "a parent that is not the newest": {"parent": b"q" * 16},
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_head_that_does_not_belong_to_the_session_is_refused(world, lie):
    with pytest.raises(RefusedByPeer):
        async with attack(world.source) as evil:
            await commit(evil, *sealed_point(evil, **LIES[lie]))
    assert world.store().points(world.tenant(world.source)) == []


@pytest.mark.parametrize("how", ["garbage", "no slots", "commit of another point", "slot of another point", "too many"])
async def test_a_commit_that_is_not_as_it_should_be_is_refused(world, how):
    with pytest.raises((RefusedByPeer, DamagedData)):
        async with attack(world.source) as evil:
            head, slots = sealed_point(evil)
            if how == "garbage":
                await commit(evil, b"garbage", slots)
            elif how == "no slots":
                await commit(evil, head, [])
            elif how == "commit of another point":
                await commit(evil, head, slots, point=theirs(world).point_id)
            elif how == "slot of another point":
                await commit(evil, head, slots, slot_point=theirs(world).point_id)
            else:
                await commit(evil, head, [(bytes([n]) * 16, b"s") for n in range(MAX_SLOTS + 1)])
    assert world.store().points(world.tenant(world.source)) == []


async def test_a_point_that_names_unknown_chunks_is_not_committed(world):
    ref = theirs(world)
    foreign = next(iter(world.store().read_needs(ref.tenant, ref.job, ref.point_id)))[:32]
    for needs in (ID, foreign, ID * 3000):
        with pytest.raises(TransporterError) as caught:
            async with attack(world.source) as evil:
                head, slots = sealed_point(evil, needs=needs)
                await commit(evil, head, slots, needs=needs)
        assert caught.value.code == "missing-chunks"
    assert world.store().points(world.tenant(world.source)) == []
    assert world.store().slots(RUN) == {}, "room that is charged to nobody"


async def test_a_list_of_chunks_other_than_the_announced_one_is_refused(world):
    with pytest.raises(RefusedByPeer):
        async with attack(world.source) as evil:
            await commit(evil, *sealed_point(evil, needs=ID), needs=b"")
    with pytest.raises(RefusedByPeer, match="not the one that was announced"):
        async with attack(world.source, zone="none") as evil:
            facts = PointFacts(
                kind="full", created_ns=1, workload="tree", manifest=[], needs_hash=bytes(32), statistics={}
            )
            await evil.session.request(CommitPlain(point=RUN), encode_facts(facts), Committed)


async def test_a_committed_point_is_not_overwritten_by_a_second_commit(world):
    async with attack(world.source) as evil:
        head, slots = sealed_point(evil)
        first = await commit(evil, head, slots)
    async with attack(world.source) as evil:
        other, other_slots = sealed_point(evil)
        again = await commit(evil, other, other_slots)
    assert again.hash == first.hash, "the answer that was lost, once more"
    (ref,) = world.store().points(world.tenant(world.source), "docs")
    assert world.store().read_head(ref.tenant, "docs", RUN) == head
    assert list(world.store().slots(RUN)) == [slots[0][0]]


async def test_who_knows_the_id_of_anothers_point_cannot_bury_its_slots(world):
    """Ids are random and told to nobody; and if one leaks, the point still opens."""
    point = theirs(world).point_id
    for _ in range(2):
        try:
            async with attack(world.source, resume=point) as evil:
                head, _ = sealed_point(evil, point_id=point)
                slots = [(os.urandom(16), b"s" * 100) for _ in range(MAX_SLOTS)]
                await commit(evil, head, slots, point=point, slot_point=point)
        except RefusedByPeer:
            pass
    assert len(world.store().slots(point)) <= MAX_SLOTS
    place = await world.neighbour.restore(output="well-buried")
    assert contents(place) == contents(world.neighbour.tree)


async def test_facts_that_are_none_are_refused(world):
    for payload in (b"", b"garbage", b"\xdd\xff\xff\xff\xff", b"\x91" * 10_000):
        with pytest.raises(DamagedData):
            async with attack(world.source, zone="none") as evil:
                await evil.session.request(CommitPlain(point=RUN), payload, Committed)


async def test_a_sealed_job_commits_no_plain_facts(world):
    facts = PointFacts(
        kind="full", created_ns=1, workload="tree", manifest=[], needs_hash=blake3(b"").digest(), statistics={}
    )
    with pytest.raises(RefusedByPeer):
        async with attack(world.source) as evil:
            await evil.session.request(CommitPlain(point=RUN), encode_facts(facts), Committed)


async def test_a_clock_of_its_own_pushes_no_point_out(world):
    """A point dated to the end of time: the order is that of the commits, and nothing is removed for it."""
    async with attack(world.source) as evil:
        head, slots = sealed_point(evil)
        late = msgspec.structs.replace(decode_head(head), created_ns=2**63 - 1)
        await commit(evil, encode_head(late), slots)
    assert len(world.store().points(world.tenant(world.neighbour))) == 1
    with pytest.raises(TransporterError):
        await world.source.restore()


# --- chunks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "stored"),
    [
        ("source", b"\0plain"),
        ("source", b"\1cut short"),
        ("source", b"\2" + bytes(100)),
        ("source", b""),
        ("target", b"\1" + bytes(100)),
        ("target", b""),
        ("none", b"\1" + bytes(100)),
        ("none", b"\7"),
    ],
)
async def test_a_chunk_in_a_form_that_its_zone_does_not_allow_is_refused(world, zone, stored):
    password = "vault" if zone == "target" else ""
    with pytest.raises(RefusedByPeer):
        async with attack(world.source, zone=zone, password=password) as evil:
            await evil.chunk(stored)
            await trio.sleep_forever()
    assert world.store().have(domain_of(world.tenant(world.source), "docs"), [ID]) == [()]


@pytest.mark.parametrize("zone", ["source", "target", "none"])
async def test_a_chunk_that_claims_an_impossible_length_is_refused(world, zone):
    password = "vault" if zone == "target" else ""
    stored = (b"\1" if zone == "source" else b"\0") + bytes(100)
    for length in ((4 << 20) + 1, 2**32 - 1):
        with pytest.raises(RefusedByPeer, match="longer than any can be"):
            async with attack(world.source, zone=zone, password=password) as evil:
                await evil.chunk(stored, plain_length=length)
                await trio.sleep_forever()


@pytest.mark.parametrize("zone", ["target", "none"])
async def test_lies_about_content_and_length_harm_only_the_liar(world, zone):
    """The target cannot know what a chunk should be; whoever restores it finds out, and it opens for nobody else."""
    password = "vault" if zone == "target" else ""
    async with attack(world.source, job=zone, zone=zone, password=password) as evil:
        key = ChunkIdKey(evil.started.chunk_id_key)
        for number, (content, length) in enumerate([(b"not what the id says", 20), (b"a longer length", 4 << 20)]):
            await evil.chunk(b"\0" + content, key.id_of(bytes([number])), plain_length=length, metadata=True)
        await evil.durable()
        ids = [key.id_of(bytes([number])) for number in range(2)]
        needs = b"".join(ids)
        manifest = [(ids[0], 20), (ids[1], 4 << 20)]
        facts = PointFacts(
            kind="full", created_ns=1, workload="tree", manifest=manifest, needs_hash=blake3(needs).digest(),
            statistics={},
        )  # fmt: skip
        await evil.session.tell(Needs(ids=needs))
        await evil.session.request(CommitPlain(point=RUN), encode_facts(facts), Committed)
    with pytest.raises(DamagedData):
        await world.source.restore(zone)


async def test_a_quota_is_charged_before_anything_is_written():
    async with open_world(quota=1_000_000) as world:
        (world.source.tree / "much").write_bytes(os.urandom(3_000_000))
        with pytest.raises(QuotaExceeded, match="quota"):
            await world.source.backup()
        store = world.store()
        assert store.points(world.tenant(world.source)) == []
        assert sum(path.stat().st_size for path in store.path.rglob("packs/*/*")) <= 1_000_000
        assert not store._writers
        await world.neighbour.backup("none")  # another tenant has a quota of its own
        await world.neighbour.verify("none")
        (world.source.tree / "much").unlink()
        (world.source.tree / "large").write_bytes(b"small")
        await world.source.backup()


async def test_ids_of_chunks_that_do_not_end_are_refused(world, monkeypatch):
    monkeypatch.setattr("transporter.service.backup.NEEDS_AT_MOST", 32 * 1000)
    with pytest.raises(RefusedByPeer, match="too many chunks"):
        async with attack(world.source) as evil:
            for _ in range(5):
                await evil.session.tell(Needs(ids=ID * 500))
            await trio.sleep_forever()


async def test_two_runs_of_one_job_do_not_meet_and_another_job_is_not_disturbed(world, monkeypatch):
    async with attack(world.source):
        # For this one alone: a run that comes right behind the one before it waits until that has ended.
        with monkeypatch.context() as patch:
            patch.setattr("transporter.service.provider.HAND_OVER_SECONDS", 0.05)
            await refused(world.source, JobBusy, resume=b"\x22" * 16)
        async with attack(world.source, job="other"):
            pass
        await world.neighbour.backup()


async def test_the_same_run_over_a_new_link_replaces_the_old_session(world):
    with pytest.raises(RefusedByPeer, match="replaced"):
        async with attack(world.source), attack(world.source) as second:
            await second.durable()
            await trio.sleep_forever()


# --- the protocol ---------------------------------------------------------------------------------------------

START = msgspec.msgpack.encode(
    {"purpose": "backup", "job": "docs", "repository": "main", "zone": "source", "resume": RUN}
)
OUT_OF_PLACE = {
    "an unknown kind": (99, b"\x80"),
    "kind zero": (0, b"\x80"),
    "Hello again": (1, msgspec.msgpack.encode({"version_min": 1, "version_max": 1, "name": "x", "agent": "x"})),
    "Start twice": (10, START),
    "what only a provider says": (25, msgspec.msgpack.encode({"point": RUN, "hash": bytes(32)})),
    "a message of a data channel": (102, msgspec.msgpack.encode({"id": ID, "codec": 0, "plain_length": 1})),
    "no map": (30, b"\x90"),
    "a bomb of maps": (30, b"\x81\xa1x" * 20_000 + b"\x80"),
    "a claim of four thousand million fields": (30, b"\xdf\xff\xff\xff\xff"),
    "a missing field": (23, b"\x80"),
    "an ill-typed field": (23, msgspec.msgpack.encode({"point": "text"})),
}


@pytest.mark.parametrize("what", OUT_OF_PLACE)
async def test_messages_out_of_their_place_end_the_connection_and_nothing_else(world, what):
    with pytest.raises((RefusedByPeer, LinkBroken)):
        async with attack(world.source) as evil:
            await raw(evil.link, *OUT_OF_PLACE[what])
            await trio.sleep_forever()


@pytest.mark.parametrize("message", [Get(batch=1, ids=ID), Pair(proof=bytes(32), name="x")], ids=["Get", "Pair"])
async def test_messages_of_another_conversation_are_refused(world, message):
    with pytest.raises((RefusedByPeer, LinkBroken, IdentityRefused)):
        async with attack(world.source) as evil:
            evil.link._connection.state = "BACKUP" if isinstance(message, Get) else "IDLE"
            await evil.link.send(message)
            await trio.sleep_forever()


async def test_text_and_frames_that_are_none_end_the_connection(world):
    for data in ("text", b"", b"\0\0\0\1", b"\xff" * 100, b"\0\0\0\x05\x1e\0\1\x80"):
        async with world.source.control() as link:
            await link._websocket.send_message(data)
            await closed(link)


async def test_a_session_that_is_asked_before_it_began(world):
    async with world.source.control() as link:
        await raw(link, Have.KIND, msgspec.msgpack.encode({"batch": 1}), ID)
        await closed(link)


async def test_a_node_that_was_removed_can_do_nothing_more(world):
    world.target.catalog.remove_peer("office")
    with pytest.raises(TransporterError) as caught:
        async with attack(world.source):
            pytest.fail("it is a stranger now")
    assert caught.value.code == "identity-refused"
    assert isinstance(caught.value, IdentityRefused)


# --- data channels --------------------------------------------------------------------------------------------


class Opening:
    """A session just started: its data channels are the test's to open, in any order and by any key."""

    def __init__(self, world, link, started):
        self.world, self.link, self.started = world, link, started
        node = world.source
        self.bound = binding(node.identity.pin, link.peer_pin, link.exporter)
        self.carriers = []

    async def dial(self):
        carrier = await dial_carrier(self.world.source.offsite, self.world.source.identity)
        self.carriers.append(carrier)
        return carrier

    def channel(self, number, key, **how):
        fields = {"session": self.started.session, "binding": self.bound, "salt": os.urandom(24), **how}
        return DataChannel.initiate(number, fields["session"], key, fields["binding"], fields["salt"])

    async def opened(self, number, key, **how):
        """Send a preface; return what comes back until the provider closes or answers."""
        channel, carrier = self.channel(number, key, **how), await self.dial()
        await carrier.send_all(channel.data_to_send())
        return channel, carrier

    async def properly(self, key_b=b"B" * 32):
        """Open channel 0 as it should be."""
        channel, carrier = await self.opened(0, self.started.key_a)
        await carrier.send_all(channel.switch_to_key_b(key_b))
        buffer = bytearray(56)
        await receive(carrier, buffer)
        assert channel.receive_data(buffer) == []
        received = await self.link.receive()
        assert type(received.message).__name__ == "Ready"
        return channel, carrier

    async def is_closed(self, carrier):
        """The provider must close this connection, having said nothing on it."""
        with trio.fail_after(PATIENCE):
            try:
                assert await carrier.receive_into(memoryview(bytearray(1))) == 0
            except trio.BrokenResourceError:
                pass


async def receive(carrier, buffer):
    view = memoryview(buffer)
    with trio.fail_after(PATIENCE):
        while view:
            count = await carrier.receive_into(view)
            assert count
            view = view[count:]


@asynccontextmanager
async def opening(world):
    with trio.fail_after(PATIENCE):
        async with world.source.control() as link:
            await link.send(start_of())
            started = (await link.receive()).message
            assert isinstance(started, Started)
            made = Opening(world, link, started)
            try:
                yield made
            finally:
                for carrier in made.carriers:
                    with trio.CancelScope(shield=True):
                        await carrier.aclose()


async def test_a_channel_before_key_b_or_with_a_number_used_already_is_closed_and_the_session_goes_on(world):
    async with opening(world) as session:
        _, early = await session.opened(1, b"B" * 32)
        await session.is_closed(early)
        await session.properly()
        for number, key in ((0, session.started.key_a), (0, b"B" * 32)):
            _, carrier = await session.opened(number, key)
            await session.is_closed(carrier)
        first, carrier = await session.opened(1, b"B" * 32)
        answer = bytearray(56)
        await receive(carrier, answer)
        assert first.receive_data(answer) == []
        _, again = await session.opened(1, b"B" * 32)
        await session.is_closed(again)
        await session.link.send(Flush())
        assert isinstance((await session.link.receive()).message, Flushed)


async def test_a_replayed_preface_is_closed_and_gets_no_answer(world):
    async with opening(world) as session:
        channel = session.channel(0, session.started.key_a)
        preface = channel.data_to_send()
        carrier = await session.dial()
        await carrier.send_all(preface)
        await receive(carrier, bytearray(56))
        for _ in range(3):
            replay = await session.dial()
            await replay.send_all(preface)
            await session.is_closed(replay)
        await carrier.send_all(channel.switch_to_key_b(b"B" * 32))
        assert type((await session.link.receive()).message).__name__ == "Ready"


@pytest.mark.parametrize("what", ["key", "binding", "session of nobody"])
async def test_a_channel_under_another_key_or_connection_ends_the_session_as_tampering(world, what):
    async with opening(world) as session:
        key, how = session.started.key_a, {}
        if what == "key":
            key = b"x" * 32
        elif what == "binding":
            how = {"binding": b"x" * 32}
        else:
            how = {"session": b"x" * 16}
        _, carrier = await session.opened(0, key, **how)
        await session.is_closed(carrier)
        if what == "session of nobody":
            await session.properly()
            return
        answer = (await session.link.receive()).message
        assert isinstance(answer, Refused) and answer.code == "tampering"
    while not world.target.seen(SecurityEvent):
        await trio.sleep(0.01)
    assert "office" in world.target.seen(SecurityEvent)[0].what


@pytest.mark.parametrize("what", ["altered", "something else", "garbage"])
async def test_channel_zero_that_does_not_deliver_key_b_ends_the_session(world, what):
    async with opening(world) as session:
        channel, carrier = await session.opened(0, session.started.key_a)
        frame = bytearray(channel.switch_to_key_b(b"B" * 32))
        if what == "altered":
            frame[-1] ^= 1
        elif what == "garbage":
            frame = bytearray(b"\xff" * 100)
        else:
            # A chunk under Key A: sealed well, and out of its place.
            other = session.channel(0, session.started.key_a, salt=channel._preface.salt)
            frame = other._send.seal(encode(ChunkMessage(id=ID, codec=0, plain_length=1))[0])
        await carrier.send_all(frame)
        answer = (await session.link.receive()).message
        assert isinstance(answer, Refused)
        assert answer.code == ("refused" if what == "something else" else "tampering")


async def test_a_channel_that_never_delivers_key_b_is_let_go(world, monkeypatch):
    # Enough for the provider's own answer on a busy machine, which the time is for, too.
    monkeypatch.setattr("transporter.daemon.listener.ATTACH_SECONDS", 1.0)
    async with opening(world) as session:
        _, carrier = await session.opened(0, session.started.key_a)
        await receive(carrier, bytearray(56))
        await session.is_closed(carrier)


async def test_more_channels_than_there_may_be(world):
    async with opening(world) as session:
        await session.properly()
        for number in range(1, 32):
            _, carrier = await session.opened(number, b"B" * 32)
            await receive(carrier, bytearray(56))
        preface = bytearray(session.channel(31, b"B" * 32).data_to_send())
        preface[9:11] = (32).to_bytes(2, "big")
        carrier = await session.dial()
        await carrier.send_all(preface)
        await session.is_closed(carrier)
        await session.link.send(Flush())
        assert isinstance((await session.link.receive()).message, Flushed)


async def test_an_altered_chunk_frame_ends_the_session_as_tampering(world):
    with pytest.raises(TamperingDetected):
        async with attack(world.source) as evil:
            (channel,) = evil.session._channels
            await channel._carrier.send_all(b"\0\0\0\x40" + os.urandom(64))
            await trio.sleep_forever()


async def test_a_message_that_does_not_belong_on_a_data_channel_is_refused(world):
    with pytest.raises(RefusedByPeer):
        async with attack(world.source) as evil:
            (channel,) = evil.session._channels
            await channel._carrier.send_all(channel._channel._send.seal(encode(KeyB(key=bytes(32)))[0]))
            await trio.sleep_forever()


async def test_a_session_of_another_tenant_is_not_joined(world):
    """Even who knows its id and Key A: the keys are bound to the TLS connection and to both identities."""
    async with opening(world) as session:
        stolen = binding(world.neighbour.identity.pin, world.target.identity.pin, session.link.exporter)
        _, carrier = await session.opened(0, session.started.key_a, binding=stolen)
        await session.is_closed(carrier)


@pytest.mark.parametrize(("more", "refused"), [(0, False), (1, True)])
async def test_chunks_that_are_begun_in_pieces_and_not_finished_are_bounded(world, more, refused):
    """Each first piece makes the provider hold a whole chunk; an honest source has 16 MiB and a chunk under way."""
    with pytest.raises(RefusedByPeer, match="not finished") if refused else nullcontext():
        async with attack(world.source) as evil:
            (channel,) = evil.session._channels
            for number in range(BACKUP_AT_MOST // MAX_PLAIN_LENGTH + more):
                begun = {"codec": 0, "plain_length": MAX_PLAIN_LENGTH, "length": MAX_PLAIN_LENGTH, "index": 0}
                await channel.send(Piece(id=number.to_bytes(32, "big"), **begun), bytes(PIECE))
            # Once a chunk behind them is stored, all of them were looked at.
            stored = b"\1" + bytes(100)
            await evil.chunk(stored, plain_length=60)
            while not evil.stored:
                await trio.sleep(0.005)
