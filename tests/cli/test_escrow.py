"""Keysets, escrow and recoveries by commands: what goes wrong is one line and a status, and changes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from transporter.clock import ManualClock, SystemClock
from transporter.keys.database import KeyDatabase
from transporter.keys.escrow_table import RingHead
from transporter.keys.key_ring import KeyRing, seal_ring
from transporter.keys.keyset import generate_keyset, seal_private
from transporter.keys.keyset_drill import DrillPoint, DrillWriter
from transporter.keys.keyset_file import encode_keyset
from transporter.keys.node_key import NodeKey
from transporter.keys.password import KdfParameters
from transporter.keys.recovery import make_request
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.keys.storage_key import StorageKey
from transporter.keys.wrap import point_context
from transporter.link.identity import load_identity

CHEAP = KdfParameters(8, 1, 1)
USAGE, REFUSED, NO_KEY, DAMAGED = 2, 5, 6, 7
PHRASE = b"a phrase that hangs in a safe"
TENANT, REPOSITORY, POINT = "office-1a2b", b"r" * 16, b"p" * 16
WHERE = point_context(TENANT, REPOSITORY, POINT)
KEY = StorageKey(b"k" * 32)


@pytest.fixture(scope="module")
def keyset():
    return generate_keyset("2026", ManualClock())


@pytest.fixture(scope="module")
def private(keyset):
    return seal_private(keyset, PHRASE, parameters=CHEAP)


@pytest.fixture(scope="module")
def another():
    return generate_keyset("another", ManualClock())


@pytest.fixture
def escrow(node, keyset, private):
    """A home that has the private half."""
    home = type(node)(node.path.parent / "escrow", node.capsys)
    assert home("init", "--name", "escrow").status == 0
    with keys_of(home) as keys:
        keys.add_keyset(keyset.public, private, event="keyset.create")
    return home


@pytest.fixture
def phrase(tmp_path):
    (tmp_path / "phrase").write_bytes(PHRASE + b"\n")
    return str(tmp_path / "phrase")


@pytest.fixture
def office(node, keyset, escrow, tmp_path):
    """The node that asks; it knows the keyset, and the escrow knows the node."""
    with keys_of(node) as keys:
        keys.add_keyset(keyset.public, None, event="keyset.import")
    (tmp_path / "identity").write_text(node("identity", "export").out)
    assert escrow("escrow", "register", str(tmp_path / "identity")).status == 0
    return node


def keys_of(home):
    return KeyDatabase(home.path / "keys.db")


def ask(home, keyset, tmp_path, name="request", maker=None, clock=None, **changes):
    """What `recover request` does once it found the point."""
    identity = NodeKey(load_identity(home.path, "office", SystemClock()).key)
    sealed = seal_ring(KEY, KeyRing(None, (SessionKey.generate(),), (MetaKey.generate(),)), WHERE)
    facts = {
        "name": "office",
        "tenant": TENANT,
        "repository_id": REPOSITORY,
        "job": "docs",
        "point": POINT,
        "keyset": keyset.public.id,
        "slots": [keyset.public.make_slot(KEY, WHERE, maker or identity)],
        "ring": (len(sealed), sealed[0]),
        "clock": clock or SystemClock(),
    }
    asked = make_request(identity, **facts | changes)
    with keys_of(home) as keys:
        keys.remember_request(asked, RingHead(keyset.public.id, WHERE, len(sealed), sealed[0]))
    path = tmp_path / name
    path.write_text(asked.text)
    return str(path)


def answer(escrow, request, phrase, *more):
    return escrow("escrow", "answer", request, "--yes", "--passphrase-file", phrase, *more)


def state(home):
    """Everything that a refused command must leave as it was, but the trail."""
    with keys_of(home) as keys, keys._read() as db:
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name != 'meta'"
        tables = [row[0] for row in db.execute(query)]
        return {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}


def refused(done, status, words):
    """One line, and the status."""
    shown = ("transporter:   ", "transporter: 'office' asks for ")
    lines = [line for line in done.err.splitlines() if not line.startswith(shown)]
    assert (done.status, done.out, len(lines)) == (status, "", 1), done
    assert words in lines[0] and "(" in lines[0]


def events(home):
    with keys_of(home) as keys:
        return [entry["event"] for entry in keys.audit.entries()]


def test_the_whole_way(escrow, office, keyset, phrase, tmp_path):
    done = answer(escrow, ask(office, keyset, tmp_path), phrase)
    assert done.status == 0
    # Who decides sees what it is about.
    assert TENANT in done.err and POINT.hex() in done.err and "nothing proves" in done.err
    (tmp_path / "response").write_text(done.out)
    assert office("recover", "apply", str(tmp_path / "response")).status == 0
    with keys_of(office) as keys:
        assert keys.storage_key(POINT) == KEY
    assert events(office)[-2:] == ["recovery.request", "recovery.apply"]
    assert events(escrow)[-2:] == ["node.register", "recovery.answer"]
    assert office("recover", "forget", POINT.hex()).status == 0
    with keys_of(office) as keys:
        assert keys.storage_key(POINT) is None


class TestAnswer:
    def refused(self, escrow, request, phrase, status, words, *more):
        before = state(escrow)
        refused(answer(escrow, request, phrase, *more), status, words)
        assert state(escrow) == before
        assert events(escrow)[-1] == "recovery.refused"

    def test_an_unknown_node(self, escrow, office, keyset, phrase, tmp_path):
        assert escrow("escrow", "remove", "office").status == 0
        self.refused(escrow, ask(office, keyset, tmp_path), phrase, REFUSED, "not registered here")

    def test_what_another_node_sealed(self, escrow, office, keyset, phrase, tmp_path):
        from cryptography.hazmat.primitives.asymmetric import ec

        maker = NodeKey(ec.generate_private_key(ec.SECP256R1()))
        request = ask(office, keyset, tmp_path, maker=maker)
        self.refused(escrow, request, phrase, REFUSED, "sealed by a node that is not registered")

    def test_a_wrong_pass_phrase(self, escrow, office, keyset, tmp_path):
        (tmp_path / "wrong").write_bytes(b"another\n")
        request = ask(office, keyset, tmp_path)
        self.refused(escrow, request, str(tmp_path / "wrong"), NO_KEY, "the pass phrase is not the one of")

    def test_a_second_time(self, escrow, office, keyset, phrase, tmp_path):
        request = ask(office, keyset, tmp_path)
        assert answer(escrow, request, phrase).status == 0
        self.refused(escrow, request, phrase, REFUSED, "answered already")

    def test_after_its_time(self, escrow, office, keyset, phrase, tmp_path):
        long_ago = SimpleNamespace(
            now_ns=lambda: SystemClock().now_ns() - 8 * 86400 * 10**9, random_bytes=SystemClock().random_bytes
        )
        self.refused(escrow, ask(office, keyset, tmp_path, clock=long_ago), phrase, REFUSED, "has expired")

    def test_of_a_keyset_that_is_not_here(self, escrow, office, another, phrase, tmp_path):
        with keys_of(office) as keys:
            keys.add_keyset(another.public, None, event="keyset.import")
        self.refused(escrow, ask(office, another, tmp_path), phrase, NO_KEY, "a keyset that is not here")

    def test_of_another_point_than_it_says(self, escrow, office, keyset, phrase, tmp_path):
        self.refused(escrow, ask(office, keyset, tmp_path, point=b"P" * 16), phrase, DAMAGED, "another restore point")

    def test_unless_somebody_says_yes(self, escrow, office, keyset, phrase, tmp_path):
        request, before = ask(office, keyset, tmp_path), state(escrow)
        refused(escrow("escrow", "answer", request, "--passphrase-file", phrase), USAGE, "--yes")
        assert state(escrow) == before

    @pytest.mark.parametrize(
        "change", [lambda text: text[:-40], lambda text: text.replace("A", "B"), lambda _text: "x"]
    )
    def test_altered(self, escrow, office, keyset, phrase, tmp_path, change):
        request, before = ask(office, keyset, tmp_path), state(escrow)
        text = (tmp_path / "request").read_text()
        (tmp_path / "request").write_text(change(text))
        refused(answer(escrow, request, phrase), DAMAGED, "request")
        assert state(escrow) == before

    def test_a_file_without_end(self, escrow, phrase):
        refused(answer(escrow, "/dev/zero", phrase), USAGE, "too long")


class TestApply:
    @pytest.fixture
    def response(self, escrow, office, keyset, phrase, tmp_path):
        (tmp_path / "response").write_text(answer(escrow, ask(office, keyset, tmp_path), phrase).out)
        return tmp_path / "response"

    def refused(self, home, response, status, words):
        before = state(home)
        refused(home("recover", "apply", str(response)), status, words)
        assert state(home) == before and events(home)[-1] == "recovery.response-refused"

    def test_a_second_time(self, office, response):
        assert office("recover", "apply", str(response)).status == 0
        self.refused(office, response, REFUSED, "applied already")

    def test_after_its_time(self, office, response, monkeypatch):
        later = SystemClock().now_ns() + 8 * 86400 * 10**9
        monkeypatch.setattr(SystemClock, "now_ns", lambda _self: later)
        self.refused(office, response, REFUSED, "expired")

    def test_elsewhere(self, office, escrow, response):
        self.refused(escrow, response, NO_KEY, "no request of this node")

    def test_of_another_request(self, escrow, office, keyset, phrase, tmp_path, response):
        """The lines of one response with the request's hash of another."""
        other = answer(escrow, ask(office, keyset, tmp_path, "second"), phrase).out
        text = response.read_text()
        assert other != text
        mixed = "\n".join([*other.splitlines()[:2], *text.splitlines()[2:], ""])
        response.write_text(mixed)
        self.refused(office, response, DAMAGED, "response")

    def test_altered(self, office, response):
        lines = response.read_text().splitlines()
        for number in range(1, len(lines) - 1):
            sign = "A" if lines[number][10] != "A" else "B"
            altered = lines[number][:10] + sign + lines[number][11:]
            response.write_text("\n".join([*lines[:number], altered, *lines[number + 1 :], ""]))
            before = state(office)
            done = office("recover", "apply", str(response))
            assert done.status in (DAMAGED, NO_KEY) and state(office) == before
        assert "recovery.response-refused" in events(office)

    def test_somebody_elses(self, escrow, office, keyset, another, phrase, tmp_path):
        """Made by who read the request on its way, with a keyset of his own."""
        from transporter.keys.recovery import answer_request, read_request

        request = ask(office, keyset, tmp_path)
        asked, asked_hash = read_request((tmp_path / "request").read_text())
        assert request
        import msgspec

        slot = another.public.make_slot(KEY, WHERE, NodeKey(load_identity(office.path, "office", SystemClock()).key))
        forged = msgspec.structs.replace(asked, keyset=another.public.id, slots=[slot])
        text = answer_request(forged, asked_hash, another, lambda _maker: True, SystemClock())
        (tmp_path / "forged").write_text(text)
        self.refused(office, tmp_path / "forged", DAMAGED, "did not come from the escrow")


class TestKeysets:
    def test_made_exported_and_imported(self, node, phrase, tmp_path):
        home = type(node)(tmp_path / "made", node.capsys)
        assert home("init", "--name", "made").status == 0
        made = home.json("keyset", "create", "2026", "--passphrase-file", phrase)
        (facts,) = made.objects()
        exported = home("keyset", "export", "2026", "--public")
        assert facts["fingerprint"] in exported.err
        (tmp_path / "public").write_text(exported.out)
        done = node("keyset", "import", str(tmp_path / "public"), "--fingerprint", facts["fingerprint"].upper())
        assert done.status == 0 and facts["fingerprint"] in done.out
        (row,) = node.json("keyset", "list").objects()
        assert (row["fingerprint"], row["private"], row["retired"]) == (facts["fingerprint"], False, None)

    def exchanged(self, node, tmp_path, keyset, *more):
        (tmp_path / "public").write_text(encode_keyset(keyset.public, None))
        return node("keyset", "import", str(tmp_path / "public"), *more)

    def test_one_that_was_exchanged_on_its_way(self, node, tmp_path, keyset, another):
        before = state(node)
        done = self.exchanged(node, tmp_path, another, "--fingerprint", keyset.public.fingerprint)
        refused(done, DAMAGED, "another fingerprint")
        assert state(node) == before and events(node) == []

    def test_somebody_has_to_vouch_for_it(self, node, tmp_path, keyset, monkeypatch):
        done = self.exchanged(node, tmp_path, keyset)
        assert done.status == USAGE and "--fingerprint" in done.err and events(node) == []
        typed = iter([f"{keyset.public.fingerprint}\n", f"{keyset.public.fingerprint[:-1]}\n"])
        terminal = SimpleNamespace(isatty=lambda: True, readline=lambda: next(typed))
        monkeypatch.setattr(sys, "stdin", terminal)
        assert self.exchanged(node, tmp_path, keyset).status == 0
        assert self.exchanged(node, tmp_path, keyset).status == DAMAGED

    def test_twice(self, office, tmp_path, keyset):
        before = state(office)
        refused(self.exchanged(office, tmp_path, keyset, "--fingerprint", keyset.public.fingerprint), USAGE, "already")
        assert state(office) == before

    def test_truncated(self, node, tmp_path, keyset):
        (tmp_path / "cut").write_text(encode_keyset(keyset.public, None)[:-300])
        refused(node("keyset", "import", str(tmp_path / "cut"), "--fingerprint", "0"), DAMAGED, "only a part")

    def test_a_private_half_with_the_wrong_pass_phrase(self, bare, keyset, private, tmp_path):
        assert bare("init", "--name", "second").status == 0
        (tmp_path / "both").write_text(encode_keyset(keyset.public, private))
        (tmp_path / "wrong").write_text("wrong\n")
        before = state(bare)
        done = bare("keyset", "import", str(tmp_path / "both"), "--passphrase-file", str(tmp_path / "wrong"))
        refused(done, NO_KEY, "pass phrase")
        assert state(bare) == before

    def test_an_escrow_is_no_backup_node(self, escrow, paired, keyset, private, phrase, tmp_path):
        (tmp_path / "both").write_text(encode_keyset(keyset.public, private))
        refused(
            paired("keyset", "import", str(tmp_path / "both"), "--passphrase-file", phrase), USAGE, "is a backup node"
        )
        refused(paired("keyset", "create", "new", "--passphrase-file", phrase), USAGE, "is a backup node")
        for command in (
            ("repository", "add", "main"),
            ("password", "add", "office", "--from-file", phrase),
            ("join", "transporter1:x"),
            ("backup", "--job", "docs", "--to", "offsite/main", "/tmp"),
        ):
            refused(escrow(*command), USAGE, "is an escrow")

    def test_none_to_apply(self, node):
        refused(node("keyset", "apply"), USAGE, "no active keyset")
        assert events(node) == []

    def test_retired_and_removed(self, office, escrow):
        assert office("keyset", "retire", "2026").status == 0
        assert office("keyset", "remove", "2026").status == 0
        refused(office("keyset", "remove", "2026"), NO_KEY, "no keyset")
        refused(escrow("keyset", "remove", "2026"), USAGE, "lost")


class TestRotation:
    def rotate(self, escrow, phrase, *more):
        return escrow("keyset", "rotate", "--passphrase-file", phrase, *more)

    def names(self, escrow, *, active):
        with keys_of(escrow) as keys:
            return [info.public.name for info in keys.keysets() if info.active == active]

    def test_not_before_the_newest_is_old_enough(self, escrow, phrase, monkeypatch):
        monkeypatch.setattr(SystemClock, "now_ns", lambda _self: ManualClock().now_ns() + 364 * 86400 * 10**9)
        done = self.rotate(escrow, phrase)
        assert done.status == 0 and "nothing to do" in done.out and self.names(escrow, active=True) == ["2026"]

    def test_another_by_the_day_and_the_one_before_stays(self, escrow, phrase, monkeypatch):
        """ManualClock begins at 2023-11-14."""
        made = []
        for year in (1, 2, 3):
            monkeypatch.setattr(
                SystemClock, "now_ns", lambda _s, y=year: ManualClock().now_ns() + y * 365 * 86400 * 10**9
            )
            (row,) = escrow.json("keyset", "rotate", "--passphrase-file", phrase).objects()
            made.append(row["keyset"])
        assert made == ["2024-11-13", "2025-11-13", "2026-11-13"]
        assert self.names(escrow, active=True) == made[1:]
        assert self.names(escrow, active=False) == ["2026", made[0]]

    def test_where_none_can_be_made_none_is_retired(self, escrow, phrase):
        for number in (1, 2):
            assert self.rotate(escrow, phrase, "--older-than", "0s").status == 0, number
        before = state(escrow)
        refused(escrow("keyset", "rotate", "--older-than", "0s"), USAGE, "--passphrase-file")
        assert state(escrow) == before

    def test_where_there_is_none_one_is_made(self, node, phrase):
        assert self.rotate(node, phrase, "--older-than", "0s").status == 0
        assert self.rotate(node, phrase, "--older-than", "0s").status == 0
        first, second = self.names(node, active=True)
        assert second == f"{first}.2"

    def test_an_age_that_is_none(self, escrow, phrase):
        refused(self.rotate(escrow, phrase, "--older-than", "old"), USAGE, "older-than")


class TestNodes:
    def test_the_fingerprint_to_compare_is_said_at_both_ends(self, node, escrow, tmp_path):
        exported = node("identity", "export")
        (tmp_path / "identity").write_text(exported.out)
        (row,) = escrow.json("escrow", "register", str(tmp_path / "identity")).objects()
        assert row["fingerprint"] in exported.err

    def test_rebuilt(self, escrow, office, tmp_path):
        rebuilt = type(office)(tmp_path / "rebuilt", office.capsys)
        assert rebuilt("init", "--name", "office2").status == 0
        (tmp_path / "second").write_text(rebuilt("identity", "export").out)
        done = escrow("escrow", "register", str(tmp_path / "second"), "--instead-of", "office")
        assert done.status == 0
        rows = [json.loads(line) for line in escrow.json("escrow", "nodes").out.splitlines()]
        assert {row["node"]: row["stands_for"] for row in rows} == {"office": [], "office2": ["office"]}
        refused(escrow("escrow", "remove", "nobody"), USAGE, "no node")

    @pytest.mark.parametrize("text", ["", "name: x\n", "name: \x1b[2J\n-----BEGIN PUBLIC KEY-----\n", "x" * 9000])
    def test_what_is_no_identity(self, escrow, tmp_path, text):
        (tmp_path / "identity").write_text(text)
        before = state(escrow)
        done = escrow("escrow", "register", str(tmp_path / "identity"))
        refused(done, USAGE if len(text) > 4096 else DAMAGED, "")
        assert state(escrow) == before


class TestDrill:
    @pytest.fixture
    def file(self, office, keyset, tmp_path):
        """What `keyset drill-request` writes, of two points, one of which the keyset opens."""
        identity = NodeKey(load_identity(office.path, "office", SystemClock()).key)
        ring = seal_ring(KEY, KeyRing(None, (SessionKey.generate(),), (MetaKey.generate(),)), WHERE)
        with (tmp_path / "drill").open("wb") as file:
            writer = DrillWriter(file)
            for slots in ([keyset.public.make_slot(KEY, WHERE, identity)], []):
                writer.add(DrillPoint("main", TENANT, REPOSITORY, "docs", POINT, slots, len(ring), ring[0]))
            writer.finish(identity, 1)
        return tmp_path / "drill"

    def drill(self, escrow, file, phrase):
        return escrow("keyset", "drill", "2026", str(file), "--passphrase-file", phrase)

    def test_what_does_not_open_is_listed(self, escrow, file, phrase):
        done = self.drill(escrow, file, phrase)
        assert done.status == NO_KEY and "1 of 2 restore points" in done.err
        assert done.out.startswith(f"{POINT.hex()}\tdocs\tmain\t") and done.out.count("\n") == 1
        assert events(escrow)[-1] == "keyset.drill"

    def test_a_file_of_an_unknown_node(self, escrow, file, phrase):
        assert escrow("escrow", "remove", "office").status == 0
        before = state(escrow)
        refused(self.drill(escrow, file, phrase), REFUSED, "not registered here")
        assert state(escrow) == before

    def test_a_file_that_was_cut(self, escrow, file, phrase):
        file.write_bytes(file.read_bytes()[:-1])
        refused(self.drill(escrow, file, phrase), DAMAGED, "cut on its way")

    def test_of_a_node_without_points(self, office, escrow, phrase, tmp_path):
        done = office("keyset", "drill-request", str(tmp_path / "none"))
        assert done.status == 0 and "0 restore points" in done.out
        done = self.drill(escrow, tmp_path / "none", phrase)
        assert done.status == 0 and "every one of 0" in done.out

    @pytest.mark.parametrize("name", ["absent/drill", "file/drill", "folder", "a" * 250])
    def test_where_no_file_can_be_made(self, office, tmp_path, name):
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        refused(office("keyset", "drill-request", str(tmp_path / name)), USAGE, name)
        assert not [path for path in tmp_path.rglob("*.part")]


class TestFourEyes:
    def test_an_answer_needs_two_where_the_escrow_says_so(self, escrow, office, keyset, phrase, tmp_path, monkeypatch):
        from transporter.keys.operator_key import seal_operator

        sys.path.insert(0, str(Path(__file__).parent))
        from operators import Office

        monkeypatch.setitem(seal_operator.__kwdefaults__, "parameters", CHEAP)
        desk = Office(escrow, tmp_path)
        phrase_of_keyset = tmp_path / "phrase-of-keyset"
        phrase_of_keyset.write_bytes(PHRASE + b"\n")
        phrase = str(phrase_of_keyset)
        desk.require("recovery")
        request = ask(office, keyset, tmp_path)
        before = state(escrow)
        refused(answer(escrow, request, phrase), REFUSED, "two operators must approve `recovery.answer")
        assert state(escrow) == before and events(escrow)[-1] == "recovery.refused"

        other = desk.approve("recovery.answer", "00" * 32, POINT.hex(), TENANT)
        refused(answer(escrow, request, phrase, "--approval", other), REFUSED, "the approval is for")
        assert state(escrow) == before
        approval = desk.approve("recovery.answer", request)  # the file: who signs sees point and tenant
        shown = escrow("approval", "show", approval).out
        assert POINT.hex() in shown and TENANT in shown
        done = answer(escrow, request, phrase, "--approval", approval)
        assert done.status == 0, done
        (tmp_path / "response").write_text(done.out)
        assert office("recover", "apply", str(tmp_path / "response")).status == 0
        assert desk.trail()[-1]["approved_by"] == ["anna", "bert"]
        second = ask(office, keyset, tmp_path, "second")
        refused(answer(escrow, second, phrase, "--approval", approval), REFUSED, "used already")
