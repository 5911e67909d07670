"""Each finding: it is there when it should be, and a good installation has none of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from transporter.catalog import Catalog, Peer
from transporter.catalog_chain import DROPPED, MISSING, THERE, ChainPoint
from transporter.clock import ManualClock
from transporter.config import Config, parse_config
from transporter.home import Home
from transporter.keys.database import KeyDatabase, PasswordInfo
from transporter.keys.keyset import PublicKeyset, generate_keyset
from transporter.keys.keyset_table import KeysetInfo
from transporter.keys.password import DEFAULT_PARAMETERS, KdfParameters
from transporter.keys.storage_key import StorageKey
from transporter.review.files import review_copies_of_home, review_private_files, review_repositories
from transporter.review.finding import Severity
from transporter.review.installation import DAY_NS, Installation, read_installation
from transporter.review.jobs import review_jobs
from transporter.review.keys import review_keys
from transporter.review.review import review

NOW = 2_000 * DAY_NS
CONFIG = """
[node]
name = "office"
[jobs.docs]
to = "offsite/main"
encrypt = "source"
password = "office"
paths = ["/srv"]
[jobs.docs2]
to = "elsewhere/main"
encrypt = "source"
password = "office"
paths = ["/srv"]
"""

COPY = """
[copies.more]
from = "offsite/main"
to = "vault/second"
seal = "all"
password = "vault"
"""


def keyset(age_days=1, retired=0):
    public = PublicKeyset(b"k" * 16, "2026", NOW - age_days * DAY_NS, None, b"")
    return KeysetInfo(public, NOW, retired, None)


def password(age_days=1, params=DEFAULT_PARAMETERS, kms=""):
    return PasswordInfo("office", "", NOW - age_days * DAY_NS, 0, params, kms)


@pytest.fixture
def good(tmp_path):
    jobs = {(job, how): NOW - DAY_NS for job in ("docs", "docs2") for how in ("backup", "verify")}
    home = Home.create(tmp_path / "home")
    last = {**jobs, ("", "drill"): NOW - DAY_NS}
    config = parse(CONFIG)
    peers = [Peer("offsite", b"p" * 32, added_ns=NOW - DAY_NS)]
    return Installation(home, config, NOW, peers, [password()], [keyset()], [], last, "")


def parse(text) -> Config:
    return parse_config(text, Path("config.toml"))


def codes(found):
    return {each.code: each for each in found}


def job(good, **changes):
    changed = msgspec.structs.replace(good.config.jobs["docs"], **changes)
    return replace(good, config=msgspec.structs.replace(good.config, jobs={**good.config.jobs, "docs": changed}))


def test_a_good_installation(good):
    assert list(review_jobs(good)) == [] and list(review_keys(good)) == []


def test_jobs_that_are_not_sealed(good):
    found = codes(review_jobs(job(good, encrypt="none", password="")))
    assert found["job-not-encrypted"].severity is Severity.SERIOUS
    assert "docs" in found["job-not-encrypted"].subject
    assert codes(review_jobs(job(good, encrypt="target")))["job-encrypted-by-target"].severity is Severity.NOTE


@pytest.mark.parametrize(
    ("key", "age", "code"),
    [
        (("docs", "backup"), None, "job-never-ran"),
        (("docs", "backup"), 8, "job-stale"),
        (("docs", "backup"), 7, None),
        (("docs", "verify"), None, "never-proved"),
        (("docs", "verify"), 90, "not-proved-lately"),
        (("docs", "verify"), 89, None),
        (("", "drill"), None, "no-drill"),
        (("", "drill"), 90, "no-drill"),
        (("", "drill"), 89, None),
    ],
)
def test_what_is_late(good, key, age, code):
    last = {other: when for other, when in good.last.items() if other != key}
    if age is not None:
        last[key] = NOW - age * DAY_NS
    assert set(codes(review_jobs(replace(good, last=last)))) == ({code} if code else set())


def test_a_restore_proves_as_well(good):
    last = {key: when for key, when in good.last.items() if key != ("docs", "verify")}
    assert list(review_jobs(replace(good, last=last | {("docs", "restore"): NOW}))) == []


def test_copies_in_one_place_alone(good):
    only = msgspec.structs.replace(good.config, jobs={"docs": good.config.jobs["docs"]})
    found = codes(review_jobs(replace(good, config=only)))
    assert set(found) == {"copies-missing"} and "offsite" in found["copies-missing"].reason


def test_a_backup_copy_job_is_another_place(good):
    text = CONFIG.partition("[jobs.docs2]")[0]
    for copy, missing in (
        ('from = "offsite/main"\nto = "vault/second"', False),
        ('from = "offsite/main"\nto = "vault/second"\njobs = ["docs"]', False),
        ('from = "offsite/main"\nto = "vault/second"\njobs = ["mail"]', True),
        ('from = "other/main"\nto = "vault/second"', True),
        ('from = "offsite/main"\nto = "offsite/second"', True),
    ):
        found = codes(review_jobs(replace(good, config=parse(f"{text}[copies.more]\n{copy}\n"))))
        assert ("copies-missing" in found) == missing, copy


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ({("vault/second", "docs"): NOW - 39 * DAY_NS}, False),
        ({("vault/second", "docs"): NOW - 40 * DAY_NS}, True),
        ({("vault/second", "mail"): NOW}, True),
        ({("offsite/second", "docs"): NOW}, True),
    ],
    ids=["lately", "long ago", "another job's", "the same node"],
)
def test_a_place_where_points_are_known_to_be_is_another_place(good, there, missing):
    config = parse(CONFIG.partition("[jobs.docs2]")[0])
    found = codes(review_jobs(replace(good, config=config, newest={("offsite/main", "docs"): NOW, **there})))
    assert ("copies-missing" in found) == missing
    if missing:
        assert "no [copies.NAME] takes its data further than to offsite" in found["copies-missing"].reason


def test_what_is_known_of_other_places_is_read_from_the_catalog(good):
    with Catalog(good.home.catalog_db) as catalog, KeyDatabase(good.home.keys_db):
        for number, (state, when) in enumerate([(THERE, 7), (THERE, 9), (MISSING, 11), (DROPPED, 13)]):
            catalog.put_chain("vault/second", "docs", [ChainPoint(bytes([number]) * 16, b"h", when, state)])
        catalog.put_chain("vault/third", "docs", [ChainPoint(b"m" * 16, b"h", 5, MISSING)])
    assert read_installation(good.home, good.config, ManualClock()).newest == {("vault/second", "docs"): 9}


def test_no_second_way(good):
    for keysets in ([], [keyset(retired=NOW)]):
        found = codes(review_keys(replace(good, keysets=keysets)))
        assert found["no-second-way"].severity is Severity.SERIOUS
    # A service opens its points when nobody remembers it.
    assert list(review_keys(replace(good, keysets=[], passwords=[password(kms="main")]))) == []
    # A copy that is sealed on its way, and what this end seals for its tenants, whom no job here names.
    copying = parse(CONFIG.partition("[jobs.docs]")[0] + COPY)
    found = codes(review_keys(replace(good, keysets=[], config=copying)))
    assert found["no-second-way"].subject == "password vault"
    at_a_target = replace(good, keysets=[], config=parse(CONFIG.partition("[jobs.docs]")[0]), sealing=("theirs",))
    assert codes(review_keys(at_a_target))["no-second-way"].subject == "password theirs"
    nothing_sealed = msgspec.structs.replace(good.config, jobs={})
    assert list(review_keys(replace(good, keysets=[], config=nothing_sealed))) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"keysets": [keyset(400)]}, "keyset-old"),
        ({"keysets": [keyset(399)]}, None),
        ({"not_applied": {"2026": 7}}, "keyset-not-applied"),
        ({"not_applied": {"2026": 7}, "keysets": [keyset(retired=NOW), keyset()]}, "keyset-not-applied"),
        ({"not_applied": {"2026": 0}}, None),
        ({"passwords": [password(3 * 365)]}, "password-old"),
        ({"passwords": [password(1, KdfParameters(8, 1, 1))]}, "password-cheap"),
        ({"unfinished": ["office"]}, "password-change-unfinished"),
        ({"peers": [Peer("offsite", b"p" * 32, added_ns=NOW - 3 * 365 * DAY_NS)]}, "pin-old"),
        ({"trail_problem": "cut off"}, "audit-trail-broken"),
    ],
)
def test_keys(good, changes, code):
    assert set(codes(review_keys(replace(good, **changes)))) == ({code} if code else set())


def test_files_open_to_others(good):
    (good.home.path / "master.key").touch(mode=0o600)
    (good.home.path / "config.toml").touch(mode=0o600)
    assert list(review_private_files(good.home)) == []
    (good.home.path / "master.key").chmod(0o640)
    (finding,) = review_private_files(good.home)
    assert (finding.code, finding.severity) == ("readable-by-others", Severity.SERIOUS)
    assert "master.key" in finding.subject and "chmod 600" in finding.remedy


def test_a_file_of_another_user(good, monkeypatch):
    (good.home.path / "identity.key").touch(mode=0o600)
    own = (good.home.path / "identity.key").stat().st_uid
    monkeypatch.setattr("transporter.review.files.os.geteuid", lambda: own + 1)
    found = {each.subject: each for each in review_private_files(good.home)}
    finding = found["file identity.key"]
    assert (finding.code, finding.severity) == ("of-another-user", Severity.WARNING)


def test_repositories(good, tmp_path):
    text = CONFIG + f'[repositories.main]\npath = "{tmp_path}/repo"\nkeep_replaced_slots = "0s"\n'
    (tmp_path / "repo").mkdir(mode=0o755)
    found = codes(review_repositories(replace(good, config=parse(text))))
    assert set(found) == {
        *("readable-by-others", "repository-plain", "replaced-slots-not-kept"),
        *("no-immutability", "no-recycle-bin"),
    }
    locked = text + 'immutable = "14d"\nrecycle = "7d"\n'
    found = codes(review_repositories(replace(good, config=parse(locked))))
    assert {"no-immutability", "no-recycle-bin"}.isdisjoint(found) and "immutable-but-for-root" in found
    assert list(review_repositories(good)) == []


def test_a_master_key_beside_what_it_opens(good):
    (good.home.path / "master.key").touch(mode=0o600)
    assert set(codes(review_copies_of_home(good))) == {"master-key-beside-database"}
    assert list(review_copies_of_home(replace(good, passwords=[]))) == []


def test_it_is_read_from_the_home(tmp_path):
    clock = ManualClock()
    home = Home.create(tmp_path / "home")
    home.config_path.write_text(CONFIG)
    home.config_path.chmod(0o600)
    with Catalog(home.catalog_db) as catalog, KeyDatabase(home.keys_db, clock=clock, parameters=CHEAP) as keys:
        keys.ensure_domain_key("tenant/docs", keys.add_password("office", b"password"))
        for status in (0, 1):
            run = catalog.run_started("docs", "backup", clock.now_ns())
            catalog.run_finished(run, finished_ns=clock.now_ns(), exit_status=status)
            clock.advance(100)
        keys.record("drill", points=3, closed=1, unreached=[])
        unproved = read_installation(home, parse(CONFIG), clock)
        keys.record("drill", points=3, closed=0, unreached=[])
    found = read_installation(home, parse(CONFIG), clock)
    assert found.last["docs", "backup"] == ManualClock().now_ns()
    assert ("", "drill") not in unproved.last and abs(found.last["", "drill"] - clock.now_ns()) < 10**9
    assert (found.trail_problem, found.sealing) == ("", ("office",))
    order = [each.severity for each in review(home, parse(CONFIG), clock)]
    assert order == sorted(order, reverse=True) and order[0] is Severity.SERIOUS
    home.keys_db.with_name("audit.log").write_bytes(b"")
    assert "audit-trail-broken" in codes(review(home, parse(CONFIG), clock))
    # What is open to others comes first, and is not opened.
    home.keys_db.chmod(0o644)
    assert [each.code for each in review(home, parse(CONFIG), clock)] == ["readable-by-others"]


def test_points_older_than_a_keyset_until_it_was_applied_to_all_of_them(tmp_path):
    clock = ManualClock()
    home = Home.create(tmp_path / "home")
    public = generate_keyset("2026", clock).public
    with KeyDatabase(home.keys_db, clock=clock, parameters=CHEAP) as keys:
        office = keys.add_password("office", b"password")
        keys.put_storage_key(b"1" * 16, StorageKey.generate(), office)
        clock.advance(86400)
        keys.add_keyset(public, None, event="keyset.import")
        clock.advance(86400)
        keys.put_storage_key(b"2" * 16, StorageKey.generate(), office)

        def older():
            return dict(read_installation(home, parse(CONFIG), clock).not_applied)

        assert older() == {"2026": 1}
        keys.record("keyset.applied", keysets=["2026"], points=1, slots=0, whole=False)
        keys.record("keyset.applied", keysets=["2025"], points=1, slots=0, whole=True)
        assert older() == {"2026": 1}
        keys.record("keyset.applied", keysets=["2026"], points=1, slots=1, whole=True)
        assert older() == {}


CHEAP = KdfParameters(8, 1, 1)
