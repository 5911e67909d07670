"""Four eyes by commands: what needs two operators is refused without them, once, and nobody talks it away alone."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import msgspec
import pytest

from transporter.catalog import Catalog, Peer
from transporter.clock import ManualClock, SystemClock
from transporter.keys.keyset import generate_keyset, seal_private
from transporter.keys.keyset_file import encode_keyset
from transporter.keys.operator_key import seal_operator
from transporter.keys.password import KdfParameters
from transporter.link.identity import fingerprint_text, load_identity

sys.path.insert(0, str(Path(__file__).parent))

from operators import Office

CHEAP = KdfParameters(8, 1, 1)
USAGE, REFUSED, NO_KEY, DAMAGED = 2, 5, 6, 7
HOUR = 3600 * 10**9


@pytest.fixture(autouse=True)
def cheap_operators(monkeypatch):
    monkeypatch.setitem(seal_operator.__kwdefaults__, "parameters", CHEAP)


@pytest.fixture
def office(paired, tmp_path):
    return Office(paired, tmp_path)


@pytest.fixture
def new(tmp_path):
    (tmp_path / "new").write_bytes(b"another horse\n")
    return str(tmp_path / "new")


@pytest.fixture(scope="module")
def keyset():
    return generate_keyset("2026")


def refused(done, status, words, code=None):
    """One line, and the status."""
    lines = [line for line in done.err.splitlines() if not line.startswith(("transporter:   ", "transporter: 'anna'"))]
    assert (done.status, len(lines)) == (status, 1), done
    assert words in lines[0] and "(" in lines[0], done
    if code:
        assert code in done.out


def user_key(office):
    with office.keys() as keys:
        return keys.user_key("office")


def needs(office, *command):
    """The command is refused for want of an approval, and nothing is changed."""
    before = office.state()
    done = office.node.json(*command)
    assert done.status == REFUSED and done.objects()[-1]["code"] == "needs-approval", done
    assert office.state() == before
    return done.objects()[-1]


class TestTheWholeWay:
    def test_a_password(self, office, new):
        office.require("password")
        told = needs(office, "password", "remove", "office")
        assert "transporter approval request password.remove office --key FILE" in told["remedy"]
        approval = office.approve("password.remove", "office")
        done = office.node("password", "remove", "office", "--approval", approval)
        assert done.status == 0, done
        entry = office.trail()[-1]
        assert (entry["event"], entry["approved_by"]) == ("password.remove", ["anna", "bert"])
        (row,) = [
            row for row in office.node.json("approval", "list").objects() if row["operation"] == "password.remove"
        ]
        assert row["approval"] == entry["approval"] and row["used"] and row["approved_by"] == ["anna", "bert"]
        assert office.node.json("approval", "verify").objects() == [{"approvals": 2}]

    def test_an_approval_may_be_taken_up_before(self, office):
        office.require("password")
        assert office.node("approval", "apply", office.approve("password.remove", "office")).status == 0
        assert office.node("password", "remove", "office").status == 0
        assert office.trail()[-1]["approved_by"] == ["anna", "bert"]
        # It was for once.
        again = ("password", "add", "office", "--from-file", str(office.node.path.parent / "secret"))
        assert office.node(*again, "--approval", office.approve("password.add", "office")).status == 0
        needs(office, "password", "remove", "office")

    def test_who_signs_sees_what_it_is_about(self, office, monkeypatch):
        office.require("password")
        request = office.request("password.remove", "office")
        asked = office.signed("sign", request, by="bert")
        assert asked.status == USAGE and "--yes" in asked.err and asked.out == ""
        for words in ("anna", "password.remove office", "'office'", office.lines["anna"]["fingerprint"]):
            assert words in asked.err
        shown = office.node.json("approval", "show", office.sign(request)).objects()[0]
        assert shown["operation"] == "password.remove" and shown["approved_by"][0] == "bert"
        assert office.node("approval", "show", request).out.startswith("'anna'")

    def test_what_is_not_required_needs_nobody_and_an_approval_is_noted_all_the_same(self, office):
        office.require("keyset")
        approval = office.approve("password.remove", "office")
        assert office.node("password", "remove", "office", "--approval", approval).status == 0
        assert office.trail()[-1]["approved_by"] == ["anna", "bert"]

    def test_where_no_operator_was_registered(self, office):
        for name in ("anna", "bert"):
            office.create(name)
        approval = office.approve("four-eyes.require", "password")
        done = office.node("four-eyes", "require", "password", "--approval", approval)
        refused(done, REFUSED, "no operator was ever registered here")

    def test_without_it_nothing_needs_anybody(self, office):
        assert office.node("password", "remove", "office").status == 0
        assert "approved_by" not in office.trail()[-1]


class TestRefused:
    """Each way in which an approval is none: one line, the status, and nothing changed."""

    @pytest.fixture
    def office(self, office):
        office.require("password")
        return office

    def refused(self, office, approval, words, status=REFUSED):
        before = office.state()
        for command in (("password", "remove", "office", "--approval", approval), ("approval", "apply", approval)):
            refused(office.node(*command), status, words)
            assert office.state() == before

    def test_expired(self, office, monkeypatch):
        approval, later = office.approve("password.remove", "office"), SystemClock().now_ns() + 25 * HOUR
        monkeypatch.setattr(SystemClock, "now_ns", lambda _self: later)
        self.refused(office, approval, "expired")

    def test_expired_after_it_was_taken_up(self, office, monkeypatch):
        assert office.node("approval", "apply", office.approve("password.remove", "office")).status == 0
        later = SystemClock().now_ns() + 25 * HOUR
        monkeypatch.setattr(SystemClock, "now_ns", lambda _self: later)
        needs(office, "password", "remove", "office")

    def test_replayed(self, office, new):
        request = office.request("password.remove", "office")
        approval, second = office.sign(request), office.sign(request)
        assert office.node("password", "remove", "office", "--approval", approval).status == 0
        again = ("password", "add", "office", "--from-file", new)
        assert office.node(*again, "--approval", office.approve("password.add", "office")).status == 0
        self.refused(office, approval, "used already")
        # Who signs one request twice makes nothing that could be used twice.
        self.refused(office, second, "used already")

    def test_for_another_node(self, office, tmp_path):
        other = type(office.node)(tmp_path / "other", office.node.capsys)
        assert other("init", "--name", "office").status == 0
        there = Office(other, tmp_path)
        there.lines = office.lines
        self.refused(office, there.approve("password.remove", "office"), "another identity")
        pin = office.node.json("four-eyes", "show").objects()[0]["node_fingerprint"]
        assert pin == fingerprint_text(load_identity(office.node.path, "office", SystemClock()).pin)
        request = there.signed("request", "password.remove", "office", "--node", pin, by="anna")
        assert office.node("approval", "apply", office.sign(office.put(request.out))).status == 0

    @pytest.mark.parametrize("what", [("password.remove", "vault"), ("password.change", "office")])
    def test_for_something_else(self, office, what):
        before = office.state()
        approval = office.approve(*what)
        done = office.node("password", "remove", "office", "--approval", approval)
        refused(done, REFUSED, f"the approval is for `{' '.join(what)}`")
        assert office.state() == before

    def test_by_an_operator_who_was_removed_meanwhile(self, office):
        waiting, approval = office.approve("password.remove", "office"), office.approve("password.remove", "office")
        assert office.node("approval", "apply", waiting).status == 0
        assert office.add("cleo", "--approval", self.adding(office, "cleo")).status == 0
        gone = office.approve("operator.remove", "bert", office.lines["bert"]["fingerprint"])
        assert office.node("operator", "remove", "bert", "--approval", gone).status == 0
        self.refused(office, approval, "not registered here ('bert'")
        needs(office, "password", "remove", "office")

    def adding(self, office, name):
        return office.approve("operator.add", name, office.create(name)["fingerprint"])

    def test_by_strangers(self, office):
        office.create("eve")
        office.create("mallory")
        for by in (("eve", "bert"), ("anna", "eve"), ("eve", "mallory")):
            self.refused(office, office.approve("password.remove", "office", by=by), "not registered here")

    def test_by_one_alone(self, office):
        request = office.request("password.remove", "office")
        done = office.signed("sign", request, "--yes", by="anna")
        assert (done.status, done.out) == (REFUSED, "") and "cannot approve" in done.err

    def test_a_request_alone(self, office):
        self.refused(office, office.request("password.remove", "office"), "no approval response", DAMAGED)

    @pytest.mark.parametrize("change", [lambda text: text[:-60], lambda text: text.replace("A", "B"), lambda _text: ""])
    def test_altered(self, office, change):
        path = office.approve("password.remove", "office")
        self.refused(office, office.put(change(Path(path).read_text())), "", DAMAGED)

    def test_a_file_without_end(self, office):
        self.refused(office, "/dev/zero", "too long", USAGE)

    def test_older_than_an_import_of_the_home(self, office):
        approval = office.approve("password.remove", "office")
        with office.keys() as keys:
            keys.came_from_bundle(bundle="b")
        self.refused(office, approval, "older than the import")

    def test_a_deed_that_fails_does_not_use_it_up(self, office, new):
        approval = office.approve("password.remove", "office")
        assert office.node("password", "remove", "nobody", "--approval", approval).status != 0
        assert office.node("password", "remove", "office", "--approval", approval).status == 0


class TestEachKind:
    def test_password(self, office, new):
        office.require("password")
        for command in (
            ("change", "office", "--from-file", new),
            ("rotate", "office", "--from-file", str(office.node.path.parent / "secret")),
            ("remove", "office"),
            ("recover", "lost", "--from-file", new),
            ("add", "more", "--from-file", new),
            ("kms", "office", "none"),
        ):
            needs(office, "password", *command)
        before = user_key(office)
        done = office.node(
            "password", "change", "office", "--from-file", new,
            "--approval", office.approve("password.change", "office"),
        )  # fmt: skip
        # Nobody answers at the peer: the second half waits, the first is done.
        assert user_key(office) != before, done
        assert office.trail()[-1]["approved_by"] == ["anna", "bert"]

    def test_a_password_that_is_added_or_locked_another_way(self, office, new):
        office.require("password")
        for command, operation in (
            (("password", "add", "more", "--from-file", new), ("password.add", "more")),
            (("password", "kms", "office", "none"), ("password.kms", "office", "none")),
            (("keys", "master-key", "set", "file"), ("master-key.set", "file")),
        ):
            before = office.node.path.joinpath("master.key").read_bytes()
            needs(office, *command)
            other = office.approve(operation[0], "another", *operation[2:])
            refused(office.node(*command, "--approval", other), REFUSED, "the approval is for")
            assert office.node.path.joinpath("master.key").read_bytes() == before
            done = office.node(*command, "--approval", office.approve(*operation))
            assert done.status == 0, done
            assert office.trail()[-1]["approved"] == " ".join(operation)
            assert office.trail()[-1]["approved_by"] == ["anna", "bert"]
        assert office.node("approval", "verify").status == 0

    def test_a_recovered_password(self, office):
        office.require("password")
        from transporter.errors import NeedsApproval
        from transporter.keys.password import hash_password

        found = [hash_password(b"lost", bytes([number]) * 16, CHEAP) for number in range(2)]
        with office.keys() as keys:
            with pytest.raises(NeedsApproval):
                keys.recover_password("lost", found)
            keys.present(Path(office.approve("password.recover", "lost")).read_text())
            keys.recover_password("lost", found)
            assert {info.name for info in keys.list()} >= {"lost", "lost 2"}
        assert [entry["approved_by"] for entry in office.trail()[-2:]] == [["anna", "bert"]] * 2

    def test_giving_up_on_points(self, office, new):
        office.require("force")
        from transporter.errors import NeedsApproval

        with office.keys() as keys:
            old = keys.user_key("office")
            keys.change_password("office", b"new")
            with pytest.raises(NeedsApproval, match=r"password\.give-up office"):
                keys.finish_change(old.salt, replaced=0, given_up=1)
            assert keys.unfinished_changes("office")
            keys.apply_approval(Path(office.approve("password.give-up", "office")).read_text())
            keys.finish_change(old.salt, replaced=0, given_up=1)
            assert not keys.unfinished_changes("office")

    def test_keyset(self, office, keyset, tmp_path):
        office.require("keyset")
        (tmp_path / "public").write_text(encode_keyset(keyset.public, None))
        mark = keyset.public.fingerprint
        importing = ("keyset", "import", str(tmp_path / "public"), "--fingerprint", mark)
        needs(office, *importing)
        assert office.node(*importing, "--approval", office.approve("keyset.import", mark)).status == 0
        assert (office.trail()[-1]["event"], office.trail()[-1]["approved_by"]) == ("keyset.import", ["anna", "bert"])
        for command in ("retire", "remove"):
            needs(office, "keyset", command, "2026")
            approval = office.approve(f"keyset.{command}", "2026")
            assert office.node("keyset", command, "2026", "--approval", approval).status == 0
            assert office.trail()[-1]["approved_by"] == ["anna", "bert"]

    def test_a_keyset_that_is_made(self, node, tmp_path):
        office = Office(node, tmp_path)
        office.require("keyset")
        needs(office, "keyset", "create", "2027", "--passphrase-file", str(office.phrase))
        # A rotation, too, where there is none yet.
        needs(office, "keyset", "rotate", "--passphrase-file", str(office.phrase))
        assert "keyset.rotate none" in office.node("keyset", "rotate", "--passphrase-file", str(office.phrase)).err

    def test_a_keyset_that_takes_the_place_of_others(self, node, tmp_path, keyset, monkeypatch):
        """One approval for all of it, named by the keyset that is the newest until then."""
        office = Office(node, tmp_path)
        with office.keys() as keys:
            for old in (generate_keyset("2025", ManualClock()), keyset):
                keys.add_keyset(old.public, seal_private(old, b"p", parameters=CHEAP), event="keyset.create")
        office.require("keyset")
        rotating = ("keyset", "rotate", "--older-than", "0s", "--passphrase-file", str(office.phrase))
        needs(office, *rotating)
        refused(office.node(*rotating, "--approval", office.approve("keyset.rotate", "2025")), REFUSED, "is for")
        approval = office.approve("keyset.rotate", "2026")
        done = office.node(*rotating, "--approval", approval)
        assert done.status == 0, done
        retired, made = office.trail()[-2:]
        assert (retired["event"], retired["keyset"], made["event"]) == ("keyset.retire", "2025", "keyset.create")
        assert retired["approval"] == made["approval"]
        refused(office.node(*rotating, "--approval", approval), REFUSED, "used already")
        assert office.node("approval", "verify").status == 0

    def test_a_private_half_that_is_given_out(self, node, tmp_path, keyset):
        office = Office(node, tmp_path)
        with office.keys() as keys:
            keys.add_keyset(keyset.public, seal_private(keyset, b"p", parameters=CHEAP), event="keyset.create")
        office.require("keyset")
        done = node("keyset", "export", "2026", "--private")
        refused(done, REFUSED, "keyset.export-private 2026")
        assert done.out == "" and node("keyset", "export", "2026", "--public").status == 0
        approval = office.approve("keyset.export-private", "2026")
        done = node("keyset", "export", "2026", "--private", "--approval", approval)
        assert done.status == 0 and '"private"' in done.out
        assert (office.trail()[-1]["event"], office.trail()[-1]["approved_by"]) == ("keyset.export", ["anna", "bert"])

    def test_private_halves_that_are_given_out_in_a_bundle(self, node, tmp_path, keyset):
        office = Office(node, tmp_path)
        with office.keys() as keys:
            keys.add_keyset(keyset.public, seal_private(keyset, b"p", parameters=CHEAP), event="keyset.create")
        office.require("keyset")
        (tmp_path / "bundle-password").write_bytes(b"of the bundle\n")
        exporting = ("config", "export", str(tmp_path / "b"), "--password-file", str(tmp_path / "bundle-password"))
        needs(office, *exporting, "--with-keysets")
        assert not (tmp_path / "b").exists()
        wrong = office.approve("keyset.export-private", "2026")
        refused(node(*exporting, "--with-keysets", "--approval", wrong), REFUSED, "the approval is for")
        approval = office.approve("config.export-keysets", "office")
        done = node(*exporting, "--with-keysets", "--approval", approval)
        assert done.status == 0 and (tmp_path / "b").exists(), done
        assert (office.trail()[-1]["event"], office.trail()[-1]["approved_by"]) == ("config.export", ["anna", "bert"])
        (tmp_path / "b").unlink()
        refused(node(*exporting, "--with-keysets", "--approval", approval), REFUSED, "used already")
        # What is no secret of an escrow needs nobody.
        assert node(*exporting).status == 0
        assert node("approval", "verify").status == 0

    def test_a_node_that_may_ask_an_escrow(self, node, tmp_path, keyset):
        office = Office(node, tmp_path)
        with office.keys() as keys:
            keys.add_keyset(keyset.public, seal_private(keyset, b"p", parameters=CHEAP), event="keyset.create")
        office.require("recovery")
        identity = office.put(node("identity", "export").out)
        pin = load_identity(node.path, "office", SystemClock()).pin.hex()
        registering = ("escrow", "register", identity, "--instead-of", "cd" * 32)
        needs(office, *registering)
        without = office.approve("escrow.register", "office", pin)
        refused(node(*registering, "--approval", without), REFUSED, "the approval is for")
        approval = office.approve("escrow.register", "office", pin, "cd" * 32)
        assert node(*registering, "--approval", approval).status == 0
        assert (office.trail()[-1]["event"], office.trail()[-1]["approved_by"]) == ("node.register", ["anna", "bert"])
        more = [word for number in range(7) for word in ("--instead-of", f"{number:064x}")]
        refused(node("escrow", "register", identity, *more), USAGE, "at most 6 others")

    def test_force(self, office, node, keyset):
        office.require("force")
        with office.keys() as keys:
            keys.add_keyset(keyset.public, seal_private(keyset, b"p", parameters=CHEAP), event="keyset.create")
            keys.ensure_domain_key("offsite/main/docs", keys.user_key("office"))
        with Catalog(node.path / "catalog.db") as catalog:
            catalog.put_peer(Peer("old", b"o" * 32, tenant="old-6f6f"))
            catalog.put_peer(Peer("new", b"n" * 32, tenant="new-6e6e"))
        for command, operation in (
            (("password", "remove", "office", "--force"), ("password.remove-in-use", "office")),
            (("keyset", "remove", "2026", "--force"), ("keyset.remove-private", "2026")),
            (("peer", "replace", "old", "new", "--force"), ("peer.replace-force", "old", "new")),
        ):
            needs(office, *command)
            done = office.node(*command, "--approval", office.approve(*operation))
            assert done.status == 0, done
            assert office.trail()[-1]["approved_by"] == ["anna", "bert"]
        with Catalog(node.path / "catalog.db") as catalog:
            assert catalog.peer("old") is None

    def test_a_clock_that_is_believed(self, office):
        """Locks end by it."""
        office.require("force")
        assert office.node("repository", "add", "main").status == 0
        needs(office, "repository", "accept-clock", "main")
        approval = office.approve("repository.accept-clock", "main")
        done = office.node("repository", "accept-clock", "main", "--approval", approval)
        assert done.status == 0, done
        assert office.trail()[-1]["approved_by"] == ["anna", "bert"]

    def test_force_that_is_refused_changes_nothing_at_the_peers(self, office, node):
        office.require("force")
        with Catalog(node.path / "catalog.db") as catalog:
            catalog.put_peer(Peer("old", b"o" * 32, tenant="old-6f6f"))
            catalog.put_peer(Peer("new", b"n" * 32, tenant="new-6e6e"))
        needs(office, "peer", "replace", "old", "new", "--force")
        with Catalog(node.path / "catalog.db") as catalog:
            assert catalog.peer("old") is not None and catalog.peer("new").tenant == "new-6e6e"

    def test_encryption(self, office):
        office.require("encryption")
        with office.keys() as keys:
            keys.take_up_zone("docs", "source")
        job = '[jobs.docs]\nto = "offsite/main"\nencrypt = "none"\npaths = ["/etc/hostname"]\n'
        office.node.add_to_config(job)
        told = needs(office, "run", "docs")
        assert "job.weaken docs none" in told["what"]
        # In the end it is the peer that does not answer.
        done = office.node.json("run", "docs", "--approval", office.approve("job.weaken", "docs", "none"))
        assert done.objects()[-1]["code"] == "cannot-connect"
        assert office.trail()[-1]["approved_by"] == ["anna", "bert"]
        (row,) = office.node.json("job", "list").objects()
        assert row["approved_by"] == ["anna", "bert"]
        assert "anna, bert" in office.node("job", "list").out

    def test_an_approval_for_another_job(self, office):
        office.require("encryption")
        with office.keys() as keys:
            keys.take_up_zone("docs", "source")
        office.node.add_to_config('[jobs.docs]\nto = "offsite/main"\nencrypt = "none"\npaths = ["/etc/hostname"]\n')
        before = office.state()
        done = office.node("run", "docs", "--approval", office.approve("job.weaken", "mail", "none"))
        refused(done, REFUSED, "the approval is for `job.weaken mail none`")
        assert office.state() == before


class TestPolicy:
    def test_it_begins_with_two_who_can_sign(self, office):
        refused(office.node("four-eyes", "require", "password"), USAGE, "fewer than 2 operators")
        assert office.add("anna").status == 0
        refused(office.node("four-eyes", "require", "password"), USAGE, "fewer than 2 operators")
        assert office.add("bert").status == 0
        # Whoever has lost his key would lock everybody out.
        needs(office, "four-eyes", "require", "password")

    def test_it_is_not_weakened_without_an_approval(self, office):
        office.require("password", "keyset")
        office.create("eve")
        eve = office.lines["eve"]
        needs(office, "four-eyes", "stop", "password")
        needs(office, "four-eyes", "require", "force")
        needs(office, "operator", "add", "eve", eve["public"], "--fingerprint", eve["fingerprint"])
        needs(office, "operator", "remove", "bert")
        approval = office.approve("four-eyes.stop", "password")
        assert office.node("four-eyes", "stop", "password", "--approval", approval).status == 0
        assert office.node.json("four-eyes", "show").objects()[0]["required"] == ["keyset"]
        assert office.node("password", "remove", "office").status == 0

    def test_an_approval_to_stop_one_kind_stops_no_other(self, office):
        office.require("password", "keyset")
        before = office.state()
        done = office.node(
            "four-eyes", "stop", "password", "keyset", "--approval", office.approve("four-eyes.stop", "password")
        )
        refused(done, REFUSED, "the approval is for")
        assert office.state() == before

    def test_two_operators_are_left(self, office):
        office.require("password")
        before = office.state()
        done = office.node(
            "operator",
            "remove",
            "bert",
            "--approval",
            office.approve("operator.remove", "bert", office.lines["bert"]["fingerprint"]),
        )
        refused(done, USAGE, "fewer than 2")
        assert {**office.state(), "approvals": 0} == {**before, "approvals": 0}
        off = office.approve("four-eyes.stop", "password")
        assert office.node("four-eyes", "stop", "password", "--approval", off).status == 0
        assert office.node("operator", "remove", "bert").status == 0

    def test_an_operator_is_added_with_the_key_that_was_approved(self, office):
        office.require("password")
        approval = office.approve("operator.add", "cleo", office.create("eve")["fingerprint"])
        office.create("cleo")
        refused(office.add("cleo", "--approval", approval), REFUSED, "the approval is for")

    def test_somebody_vouches_for_a_key(self, office):
        anna, bert = office.create("anna"), office.create("bert")
        done = office.node("operator", "add", "anna", anna["public"], "--fingerprint", bert["fingerprint"])
        refused(done, DAMAGED, "another fingerprint")
        assert office.node("operator", "add", "anna", anna["public"]).status == USAGE
        assert office.node.json("operator", "list").objects() == []
        # As a file, too; and under no name or key twice.
        file = office.put(anna["public"] + "\n")
        assert office.node("operator", "add", "anna", file, "--fingerprint", anna["fingerprint"]).status == 0
        again = office.node("operator", "add", "ann", file, "--fingerprint", anna["fingerprint"])
        refused(again, USAGE, "registered as 'anna' already")

    @pytest.mark.parametrize("name", ["absent/key", "file/key", ""])
    def test_a_key_goes_to_a_place_that_is_there(self, office, name):
        (office.folder / "file").touch()
        # Nobody types a pass phrase for a key that cannot be kept: there is none to be read here.
        done = office.node("operator", "create", "anna", "--key", str(office.folder / name))
        refused(done, USAGE, name or "there already")

    def test_a_key_file_is_private_and_not_overwritten(self, office):
        office.create("anna")
        path = Path(office.key("anna"))
        assert path.stat().st_mode & 0o777 == 0o600
        before = path.read_bytes()
        done = office.node("operator", "create", "anna", "--key", str(path), "--passphrase-file", str(office.phrase))
        refused(done, USAGE, "there already")
        assert path.read_bytes() == before
        (office.folder / "wrong").write_text("wrong\n")
        wrong = ("--key", str(path), "--passphrase-file", str(office.folder / "wrong"))
        refused(office.node("approval", "request", "password.remove", "office", *wrong), NO_KEY, "pass phrase")
        path.chmod(0o644)
        done = office.signed("request", "password.remove", "office", by="anna")
        assert done.status == 3 and "other users" in done.err


class TestEditedByHand:
    """Whoever writes to keys.db without the master key gets nothing but errors."""

    @pytest.fixture
    def office(self, office):
        office.require("password", "encryption")
        with office.keys() as keys:
            keys.take_up_zone("docs", "source")
        return office

    def edit(self, office, *statements):
        with sqlite3.connect(office.node.path / "keys.db", isolation_level=None) as database:
            for statement in statements:
                database.execute(*statement)
        database.close()

    def test_the_policy_is_taken_out_or_altered(self, office):
        self.edit(office, ("DELETE FROM meta WHERE name = 'four-eyes'",))
        done = office.node("password", "remove", "office")
        assert done.status == DAMAGED and user_key(office)
        self.edit(office, ("INSERT INTO meta VALUES ('four-eyes', ?)", (msgspec.msgpack.encode([bytes(32), []]),)))
        assert office.node("password", "remove", "office").status == DAMAGED

    def test_an_operator_is_put_in(self, office):
        from transporter.keys.operator_key import generate_operator

        eve = generate_operator("eve").public
        approval = office.approve("password.remove", "office")
        self.edit(office, ("INSERT INTO operators VALUES ('eve', ?, 1, ?)", (eve.id, eve.key)))
        assert office.node("password", "remove", "office", "--approval", approval).status == DAMAGED

    def test_an_approval_is_put_in_or_made_fit(self, office):
        assert office.node("approval", "apply", office.approve("password.change", "office")).status == 0
        self.edit(office, ("UPDATE approvals SET operation = 'password.remove' WHERE used_ns = 0",))
        assert office.node("password", "remove", "office").status == REFUSED

    def test_the_zone_of_a_job(self, office):
        from transporter.errors import DamagedData

        self.edit(office, ("UPDATE job_zones SET zone = 'none', sealed = x'00'",))
        with office.keys() as keys, pytest.raises(DamagedData):
            keys.take_up_zone("docs", "none")

    def test_what_the_trail_names_is_proved(self, office):
        approval = office.approve("password.remove", "office")
        assert office.node("password", "remove", "office", "--approval", approval).status == 0
        assert office.node("approval", "verify").status == 0
        with office.keys() as keys:
            other = keys.approvals()[0].hash
        self.edit(office, ("DELETE FROM approvals WHERE hash != ?", (other,)))
        done = office.node("approval", "verify")
        refused(done, DAMAGED, "names an approval that does not prove it")

    @pytest.mark.parametrize(
        ("approved", "names"),
        [
            ("password.remove office", ["anna", "bert"]),  # it was for something else
            ("four-eyes.require encryption password", ["bert", "anna"]),
            ("four-eyes.require encryption password", ["anna", "cleo"]),
            ("four-eyes.require encryption password", []),
        ],
    )
    def test_an_entry_by_who_has_the_master_key_too(self, office, approved, names):
        """He can make an entry, and no signatures."""
        with office.keys() as keys:
            (info,) = keys.approvals()
            assert str(info.deed) == "four-eyes.require encryption password"
            keys.record("password.remove", approved=approved, approved_by=names, approval=info.hash.hex())
        for proved in ("audit", "approval"):
            refused(office.node(proved, "verify"), DAMAGED, "names an approval that does not prove it")

    def test_a_trail_that_was_begun_anew_is_proved_as_far_as_it_goes(self, office):
        path = office.node.path / "audit.log"
        path.write_bytes(path.read_bytes()[:-20])
        assert office.node("audit", "begin-anew").status == 0
        approval = office.approve("password.remove", "office")
        assert office.node("password", "remove", "office", "--approval", approval).status == 0
        assert office.node.json("approval", "verify").objects() == [{"approvals": 1}]


class TestZones:
    def zone(self, office, job, zone):
        with office.keys() as keys:
            keys.take_up_zone(job, zone)

    def test_only_a_weaker_one_is_an_event(self, office):
        for zone, events in (("none", 0), ("target", 0), ("source", 0), ("source", 0), ("target", 1), ("none", 2)):
            self.zone(office, "docs", zone)
            assert [entry["event"] for entry in office.trail()].count("job.weaken") == events

    def test_a_job_that_was_sealed_before_zones_were_noted(self, office):
        from transporter.errors import NeedsApproval

        office.require("encryption")
        with office.keys() as keys:
            keys.ensure_domain_key("offsite/main/old", keys.user_key("office"))
            # What others seal here is no job of this home.
            keys.ensure_domain_key("tenant-1a2b/theirs", keys.user_key("office"))
        self.zone(office, "theirs", "none")
        with pytest.raises(NeedsApproval):
            self.zone(office, "old", "none")

    def test_the_jobs_that_are_there_when_it_begins(self, office):
        from transporter.errors import NeedsApproval

        job = '[jobs.fresh]\nto = "offsite/main"\nencrypt = "source"\npassword = "office"\npaths = ["/etc/hostname"]\n'
        office.node.add_to_config(job)
        office.require("encryption")
        for zone in ("target", "none"):
            with pytest.raises(NeedsApproval):
                self.zone(office, "fresh", zone)
