"""What a run builds on: the target names it, this home vouches for it, and its keys count only once its MAC fits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from protocol.messages import GetPoint, PointHead, Started
from transporter.clock import ManualClock
from transporter.events import EventBus, Note
from transporter.jobs.parent import Parent, find_parent
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.password import KdfParameters, UserKey, hash_password
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.points.assemble import Place, PointFacts, assemble_sealed, no_services
from transporter.points.run_keys import RunKeys

CLOCK = ManualClock()
USER_KEY = UserKey("office", hash_password(b"a password", b"s" * 16, KdfParameters(8, 1, 1)))
NEWEST, OLDER = b"n" * 16, b"o" * 16
OUR_HASH, THEIR_HASH = b"h" * 32, b"t" * 32
STARTED = Started(
    session=bytes(16), key_a=bytes(32), domain=b"d" * 16, tenant="office-1", repository_id=b"r" * 16, parent=NEWEST,
    parent_hash=THEIR_HASH,
)  # fmt: skip
FACTS = PointFacts(kind="full", created_ns=1, workload="tree", manifest=[], needs_hash=bytes(32), statistics={})


class Home:
    """A home that committed ``last`` to ``destination`` (or nothing), and holds the password of ``salt``."""

    def __init__(self, last=NEWEST, destination="offsite/main", salt=USER_KEY.salt):
        self.events = []
        bus = EventBus()
        bus.subscribe(self.events.append)
        kept = last and SimpleNamespace(point=last, destination=destination, point_hash=OUR_HASH)
        self.context = SimpleNamespace(
            bus=bus,
            catalog=SimpleNamespace(last_point=lambda _name: kept),
            keys=SimpleNamespace(
                open_kms_slot=no_services,
                find_by_salt=lambda asked: USER_KEY if asked == salt else None,
                storage_key=lambda _point: None,
            ),
        )

    async def parent(self, zone="none", started=STARTED, link=None, **how):
        job = SimpleNamespace(encrypt=zone, to="offsite/main", repository="main")
        return await find_parent(self.context, "docs", job, link, started, **how)

    @property
    def notes(self):
        return [event.text for event in self.events if isinstance(event, Note)]


class Target:
    """Serves one sealed point; ``change`` alters its head on the way."""

    def __init__(self, change=lambda head: head, **place):
        fields = {
            "tenant": "office-1", "job": "docs", "repository_id": b"r" * 16, "point_id": NEWEST, "domain": b"d" * 16,
            "zone": "source", **place,
        }  # fmt: skip
        self.keys = RunKeys(ChunkIdKey(b"i" * 32), SessionKey.generate(CLOCK), MetaKey.generate(CLOCK))
        self.head, self.slots, _ = assemble_sealed(Place(**fields), FACTS, self.keys, USER_KEY, CLOCK)
        self.change = change
        self.asked = []

    async def parent_head(self, _point):
        return None

    async def request(self, message, payload, reply):
        assert (payload, reply) == (b"", PointHead)
        self.asked.append(message)
        answer = PointHead(point=message.point, slots=[slot for _, slot in self.slots])
        return answer, memoryview(self.change(self.head))


async def test_a_first_run_builds_on_nothing():
    home = Home(last=None)
    assert await home.parent(started=Started(session=bytes(16), key_a=bytes(32), domain=bytes(16))) == Parent()
    assert home.notes == []


@pytest.mark.parametrize("zone", ["target", "none"])
async def test_the_point_that_this_home_committed_last_is_known_by_the_hash_that_it_remembers(zone):
    assert await Home().parent(zone) == Parent(NEWEST, OUR_HASH, None, known_here=True)


async def test_a_run_that_reads_everything_again_continues_the_chain_and_trusts_no_kept_manifest():
    assert await Home().parent(reread=True) == Parent(NEWEST, OUR_HASH, None, known_here=False)


async def test_a_point_that_this_home_did_not_commit_last_is_said_and_its_files_are_read():
    home = Home(last=OLDER)
    assert await home.parent() == Parent(NEWEST, THEIR_HASH, None, known_here=False)
    (note,) = home.notes
    assert "not the one this node committed last" in note


@pytest.mark.parametrize("home", [Home(last=None), Home(destination="elsewhere/main")], ids=["new", "moved"])
async def test_a_home_that_committed_nothing_there_has_nothing_to_complain_of(home):
    assert await home.parent() == Parent(NEWEST, THEIR_HASH, None, known_here=False)
    assert home.notes == []


async def test_the_ring_of_a_sealed_parent_is_opened():
    target = Target()
    parent = await Home().parent("source", link=target)
    assert target.asked == [GetPoint(repository="main", job="docs", point=NEWEST)]
    assert [key.key_id for key in parent.ring.session_keys] == [target.keys.session_key.key_id]
    assert (parent.point, parent.point_hash, parent.known_here) == (NEWEST, OUR_HASH, True)


UNUSABLE = {
    "altered": (Target(lambda head: head[:-1] + bytes([head[-1] ^ 1])), Home()),
    "garbage": (Target(lambda _head: b"garbage"), Home()),
    "of another job": (Target(job="letters"), Home()),
    "of another zone": (Target(zone="target"), Home()),
    "under a password that is not here": (Target(), Home(salt=b"x" * 16)),
}


@pytest.mark.parametrize("how", UNUSABLE)
async def test_a_sealed_parent_that_does_not_open_lends_no_key_and_no_file_counts_as_known(how):
    target, home = UNUSABLE[how]
    assert await home.parent("source", link=target) == Parent(NEWEST, OUR_HASH, None, known_here=False)
    (note,) = home.notes
    assert note.startswith("the newest point cannot be built upon: ")
