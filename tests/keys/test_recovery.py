from __future__ import annotations

import secrets

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from transporter.clock import ManualClock
from transporter.errors import DamagedData, IdentityRefused, NoKey, RefusedByPeer, UsageError
from transporter.keys.armour import Signed, armour, read_armour
from transporter.keys.database import KeyDatabase
from transporter.keys.derive import RECOVERY_REQUEST, bind
from transporter.keys.escrow_table import RingHead
from transporter.keys.key_ring import KeyRing, seal_ring
from transporter.keys.keyset import generate_keyset
from transporter.keys.node_key import NodeKey, pin_of
from transporter.keys.password import KdfParameters
from transporter.keys.recovery import (
    LIFETIME_NS,
    MAX_SLOTS,
    answer_request,
    check_time,
    make_request,
    open_response,
    read_request,
    read_response,
)
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.keys.storage_key import StorageKey
from transporter.keys.wrap import point_context

CHEAP = KdfParameters(8, 1, 1)
TENANT, REPOSITORY, POINT = "office-1a2b", b"r" * 16, b"p" * 16
WHERE = point_context(TENANT, REPOSITORY, POINT)
KEY = StorageKey(b"s" * 32)
WEEK = LIFETIME_NS / 1e9


def ring_of(key, where=WHERE):
    sealed = seal_ring(key, KeyRing(None, (SessionKey.generate(),), (MetaKey.generate(),)), where)
    return len(sealed), sealed[0]


def new_node():
    return NodeKey(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def keyset():
    return generate_keyset("2026", ManualClock())


@pytest.fixture(scope="module")
def impostor():
    return generate_keyset("2026", ManualClock())


class SecretClock(ManualClock):
    """Its secrets are none that a file holds by chance, as small numbers are."""

    def random_bytes(self, count):
        return secrets.token_bytes(count)


@pytest.fixture
def clock():
    return SecretClock()


@pytest.fixture
def database(tmp_path, clock):
    with KeyDatabase(tmp_path / "keys.db", parameters=CHEAP, clock=clock) as opened:
        yield opened


@pytest.fixture(scope="module")
def node():
    return new_node()


@pytest.fixture
def ask(keyset, node, clock):
    def make(by=node, **changes):
        facts = {
            "name": "office",
            "tenant": TENANT,
            "repository_id": REPOSITORY,
            "job": "docs",
            "point": POINT,
            "keyset": keyset.public.id,
            "slots": [keyset.public.make_slot(KEY, WHERE, node)],
            "ring": ring_of(KEY),
            "clock": clock,
        }
        return make_request(by, **facts | changes)

    return make


def own(node):
    """Of a node that stands for itself alone."""
    return lambda maker: maker == pin_of(node.public)


@pytest.fixture
def answer(keyset, node, clock):
    def make(text, with_keyset=keyset, may_open=None):
        request, asked = read_request(text)
        return answer_request(request, asked, with_keyset, may_open or own(node), clock)

    return make


def opened(text, one_time, keyset):
    return open_response(read_response(text, lambda _asked: keyset.public), one_time)


def test_the_node_that_asked_gets_the_key(ask, keyset, answer):
    asked = ask()
    text = answer(asked.text)
    assert read_response(text, lambda _asked: keyset.public).request == asked.hash
    assert opened(text, asked.one_time, keyset) == KEY


def test_nobody_else_gets_it(ask, keyset, answer):
    asked, another = ask(), ask()
    text = answer(asked.text)
    with pytest.raises(DamagedData):
        opened(text, another.one_time, keyset)
    for travels, secret in ((text, KEY.secret), (asked.text, asked.one_time)):
        kind = "REQUEST" if travels == asked.text else "RESPONSE"
        signed = read_armour(kind, travels)
        assert secret not in signed.body and secret not in signed.signature
    assert repr(asked.one_time) not in repr(asked)


def test_two_answers_of_one_request_differ(ask, answer):
    asked = ask()
    assert answer(asked.text) != answer(asked.text)


class TestWhatIsOpened:
    """What a hostile, but registered, node may try."""

    def test_not_what_another_node_sealed(self, ask, answer, keyset):
        thief = new_node()
        with pytest.raises(IdentityRefused):
            answer(ask(by=thief).text, may_open=own(thief))

    def test_not_under_the_name_of_another_place(self, ask, answer):
        for lie in ({"tenant": "mine"}, {"repository_id": b"R" * 16}, {"point": b"P" * 16}):
            with pytest.raises(DamagedData):
                answer(ask(**lie).text)

    def test_not_what_does_not_open_the_point(self, ask, answer):
        """Else an answer would be good for another ring than the one that was shown."""
        with pytest.raises(NoKey, match="opens this restore point"):
            answer(ask(ring=ring_of(StorageKey(b"o" * 32))).text)

    def test_of_several_slots_the_one_that_opens_the_point(self, ask, answer, keyset, node):
        """A commit that was killed and repeated left one of each attempt."""
        dead = keyset.public.make_slot(StorageKey(b"d" * 32), WHERE, node)
        live = keyset.public.make_slot(KEY, WHERE, node)
        for slots in ([dead, live], [live, dead], [b"junk", dead, b"", live], [live] * MAX_SLOTS):
            asked = ask(slots=slots)
            assert opened(answer(asked.text), asked.one_time, keyset) == KEY

    def test_not_a_point_that_the_target_made_up(self, ask, answer, keyset, node):
        """It has the public half, and so can wrap a key of its own for a ring of its own; but nobody signed that."""
        target, made_up = new_node(), StorageKey(b"m" * 32)
        slot = keyset.public.make_slot(made_up, WHERE, target)
        with pytest.raises(IdentityRefused):
            answer(ask(slots=[slot], ring=ring_of(made_up)).text)

    def test_no_slot_of_the_keyset(self, ask, answer, impostor):
        with pytest.raises(NoKey):
            answer(ask().text, with_keyset=impostor)
        with pytest.raises(NoKey):
            answer(ask(slots=[b"junk"]).text)


def test_a_response_of_somebody_else_is_refused(ask, answer, keyset, impostor, node):
    """What is needed to make one stands in the request; but it is signed by a keyset that the node knows."""
    slot = impostor.public.make_slot(KEY, WHERE, node)
    asked = ask(slots=[slot], keyset=impostor.public.id)
    text = answer(asked.text, with_keyset=impostor)
    assert opened(text, asked.one_time, impostor) == KEY
    with pytest.raises(DamagedData, match="escrow"):
        opened(text, asked.one_time, keyset)


def altered(text):
    lines = text.splitlines()
    for number in range(1, len(lines) - 1):
        for at in range(number % 3, len(lines[number]), 3):
            sign = "A" if lines[number][at] != "A" else "B"
            line = lines[number][:at] + sign + lines[number][at + 1 :]
            yield "\n".join([*lines[:number], line, *lines[number + 1 :]])


def test_every_alteration_of_a_request_is_found(ask):
    for text in altered(ask().text):
        with pytest.raises(DamagedData):
            read_request(text)


def test_every_alteration_of_a_response_is_found(ask, keyset, answer):
    for text in altered(answer(ask().text)):
        with pytest.raises(DamagedData):
            read_response(text, lambda _asked: keyset.public)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "-----BEGIN", "x" * 100_000, "-----BEGIN TRANSPORTER RECOVERY REQUEST-----\n!\n-----END REQUEST-----"],
)
def test_garbage(text):
    with pytest.raises(DamagedData):
        read_request(text)
    with pytest.raises(DamagedData):
        read_response(text, pytest.fail)


def test_a_part_of_a_file_or_the_wrong_file(ask, answer):
    text = ask().text
    response = answer(text)
    with pytest.raises(DamagedData):
        read_response(text, pytest.fail)
    with pytest.raises(DamagedData):
        read_request(response)
    for length in range(0, len(text) - 2, 50):
        with pytest.raises(DamagedData):
            read_request(text[:length])


@pytest.mark.parametrize("facts", [{"job": "a\x1b[2J"}, {"tenant": "x" * 300}, {"ring": (0, b"")}, {"slots": []}])
def test_impossible_facts_are_not_signed(ask, facts):
    """They come from the repository, and would be shown on the escrow's terminal."""
    with pytest.raises(DamagedData, match="impossible"):
        ask(**facts)


def test_impossible_facts_are_not_read_either(ask, node):
    asked = ask()
    request = msgspec.structs.replace(asked.request, name="a\x1b]0;b\x07")
    body = msgspec.msgpack.encode(request)
    text = armour("REQUEST", msgspec.msgpack.encode(Signed(body, node.sign(bind(RECOVERY_REQUEST, body)))))
    with pytest.raises(DamagedData):
        read_request(text)


def test_a_request_lives_a_week(ask, answer, clock):
    asked = ask()
    clock.advance(WEEK - 1)
    check_time(asked.request, clock)
    clock.advance(2)
    with pytest.raises(RefusedByPeer, match="expired"):
        answer(asked.text)


def test_no_node_gives_its_request_longer_than_a_week(ask, clock):
    request, _ = read_request(ask().text)
    check_time(request, clock)
    longer = msgspec.structs.replace(request, expires_ns=request.created_ns + LIFETIME_NS + 1)
    with pytest.raises(RefusedByPeer, match="expired"):
        check_time(longer, clock)


def test_a_request_from_the_future(ask):
    request, _ = read_request(ask().text)
    with pytest.raises(RefusedByPeer, match="future"):
        check_time(request, ManualClock(wall_ns=request.created_ns - 2 * 3600 * 10**9))


def spki_of(node):
    return node.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


class TestNodes:
    def test_only_registered_ones_may_ask(self, database, ask, node):
        request, _ = read_request(ask().text)
        with pytest.raises(IdentityRefused, match="not registered"):
            database.registered_as(request)
        database.register_node("the office", spki_of(node))
        assert database.registered_as(request) == "the office"
        for name in ("the office", "another"):
            with pytest.raises(UsageError, match="already"):
                database.register_node(name, spki_of(node))
        database.remove_node("the office")
        with pytest.raises(IdentityRefused):
            database.registered_as(request)
        with pytest.raises(UsageError):
            database.remove_node("the office")

    def test_one_that_was_rebuilt_stands_for_the_old_one(self, database):
        first, second, third, other = (new_node() for _ in range(4))
        pins = [pin_of(each.public) for each in (first, second, third, other)]
        database.register_node("first", spki_of(first))
        database.register_node("other", spki_of(other))
        database.register_node("second", spki_of(second), ["first"])
        database.remove_node("first")
        database.register_node("third", spki_of(third), ["second"])
        assert [database.may_open(pins[2], maker) for maker in pins] == [True, True, True, False]
        assert [database.may_open(pins[3], maker) for maker in pins] == [False, False, False, True]
        with pytest.raises(UsageError, match="registered as 'nobody'"):
            database.register_node("fourth", spki_of(new_node()), ["nobody"])

    def test_one_that_was_never_registered_is_named_by_its_fingerprint(self, database):
        old, new = new_node(), new_node()
        text = "SHA256:" + ":".join(pin_of(old.public).hex()[at : at + 4] for at in range(0, 64, 4))
        database.register_node("new", spki_of(new))
        database.register_node("new", spki_of(new), [text])
        assert database.may_open(pin_of(new.public), pin_of(old.public))
        assert database.registered_nodes()[0].stands_for == (pin_of(old.public).hex()[:16],)


class TestTable:
    def ring(self, keyset):
        return RingHead(keyset.public.id, WHERE, *ring_of(KEY))

    def test_a_request_is_answered_once(self, database, ask):
        request, asked = read_request(ask().text)
        database.check_unanswered(request, asked)
        database.remember_answer(request, asked, "office")
        with pytest.raises(RefusedByPeer, match="already"):
            database.remember_answer(request, asked, "office")
        with pytest.raises(RefusedByPeer, match="already"):
            database.check_unanswered(request, asked)
        entries = list(database.audit.entries())
        assert [entry["event"] for entry in entries] == ["recovery.answer"]
        assert (entries[0]["point"], entries[0]["tenant"]) == (POINT.hex(), TENANT)

    def test_a_response_is_applied_once_and_for_its_request(self, database, ask, keyset):
        asked, another = ask(), ask()
        database.remember_request(asked, self.ring(keyset))
        with pytest.raises(NoKey, match="no request of this node"):
            database.open_request(another.hash)
        opened = database.open_request(asked.hash)
        assert opened.one_time == asked.one_time
        database.keep_recovered(opened, KEY)
        assert database.recovered_key(POINT) == database.storage_key(POINT) == KEY
        with pytest.raises(RefusedByPeer, match="already"):
            database.open_request(asked.hash)
        with pytest.raises(RefusedByPeer, match="already"):
            database.keep_recovered(opened, KEY)
        assert [entry["event"] for entry in database.audit.entries()] == ["recovery.request", "recovery.apply"]

    def test_the_keyset_that_was_asked_must_be_known(self, database, ask, keyset):
        asked = ask()
        database.remember_request(asked, self.ring(keyset))
        with pytest.raises(NoKey, match=keyset.public.fingerprint):
            database.keyset_of_request(asked.hash)
        database.add_keyset(keyset.public, None, event="keyset.import")
        assert database.keyset_of_request(asked.hash) == keyset.public

    def sealed_keys(self, database):
        with database._read() as db:
            return [row[0] for row in db.execute("SELECT sealed FROM recoveries ORDER BY expires_ns")]

    def test_the_one_time_key_goes_with_its_use(self, tmp_path, database, ask, keyset):
        asked = ask()
        database.remember_request(asked, self.ring(keyset))
        (sealed,) = self.sealed_keys(database)
        assert sealed
        database.keep_recovered(database.open_request(asked.hash), KEY)
        assert self.sealed_keys(database) == [b""]
        for path in tmp_path.iterdir():
            assert sealed not in path.read_bytes() and KEY.secret not in path.read_bytes()

    def test_the_one_time_key_goes_with_its_time(self, database, ask, keyset, clock):
        database.remember_request(ask(), self.ring(keyset))
        clock.advance(WEEK + 1)
        database.remember_request(ask(), self.ring(keyset))
        first, second = self.sealed_keys(database)
        assert not first and second

    def test_a_recovered_key_can_be_forgotten(self, database, ask, keyset):
        for forget in (lambda: database.forget_recovered(POINT.hex()), lambda: database.drop_storage_key(POINT)):
            asked = ask()
            database.remember_request(asked, self.ring(keyset))
            database.keep_recovered(database.open_request(asked.hash), KEY)
            forget()
            assert database.storage_key(POINT) is None
        with pytest.raises(UsageError):
            database.forget_recovered(POINT.hex())
