from __future__ import annotations

from pathlib import Path

import pytest

from transporter.config import JobConfig, is_address, job_problem, load_config, parse_config
from transporter.errors import ConfigError

PATH = Path("/home/config.toml")
GOOD = """\
# a comment
[node]
name = "office"
listen = "127.0.0.1:6180"

[repositories.main]
quota = "2TiB"

[jobs.docs]
to = "offsite/main"
encrypt = "source"
password = "office"
paths = ["/a",
    "/b"]  # two
exclude = ["*.o"]

[limits]
redial_for = "5m"
"""


def test_a_good_file_is_read():
    config = parse_config(GOOD, PATH)
    assert config.node.name == "office"
    assert config.repositories["main"].quota == 2 << 40
    job = config.job("docs")
    assert (job.peer, job.repository, job.paths, job.workload) == ("offsite", "main", ["/a", "/b"], "tree")
    assert config.limits.redial_for == 300
    assert config.limits.connect_timeout == 15


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("password", "pasword", "12:1", "unknown key 'pasword' in [jobs.docs] (did you mean 'password'?)"),
        ("[limits]", "[limit]", "17:2", "unknown section [limit] (did you mean 'limits'?)"),
        ('"source"', '"sorce"', "11:1", 'write "source", "target" or "none"'),
        ('"2TiB"', '"2 elephants"', "7:1", "is not a size; write for example 500GB or 2TiB"),
        ('"2TiB"', "true", "7:1", "quota"),
        ('"5m"', '"soon"', "18:1", "is not a duration"),
        ('to = "offsite/main"', "", "9:7", "[jobs.docs] lacks 'to'"),
        ('"/a"', "3", "13:1", "expected a text, got a number"),
        ('"/a"', '"a"', "13:1", "a path is not absolute"),
        ('"offsite/main"', '"offsite"', "10:1", "does not name a repository at a peer"),
        ('encrypt = "source"', 'encrypt = "none"', "12:1", "a password is named, but nothing is encrypted"),
        ('"office"\nlisten', '"of/fice"\nlisten', "3:1", "'of/fice' is not a usable name"),
        ("127.0.0.1:6180", "127.0.0.1", "4:1", "is not an address"),
        ("[jobs.docs]", '[jobs."a/b"]', "9:7", "is not a usable name"),
        ("redial_for", "max_streams = 99\nredial_for", "18:1", "outside 1…32"),
        ('name = "office"', "name = office", "3:8", "not valid TOML"),
        ('"5m"', '"5m', "18:17", "not valid TOML"),
        ("[node]", "[[node]]", "2:3", "is not a section"),
        ('encrypt = "source"', 'compression = "gzip"\nencrypt = "source"', "11:1", "compression in [jobs.docs]"),
        ('encrypt = "source"', 'encrypt = "source"\nnetwork_acceleration = true', "12:1", "names their chunks"),
        ("[repositories.main]", "[repositories]\nmain = 3", "7:1", "is not a section"),
        ('quota = "2TiB"', 'prune = "often"', "7:1", "prune: 'often' is not a schedule"),
        ('quota = "2TiB"', 'scrub = "often"', "7:1", "scrub: 'often' is not a schedule"),
        ('quota = "2TiB"', 'prune_grace = "long"', "7:1", "is not a duration"),
        ('encrypt = "source"', 'retention = "daily"\nencrypt = "source"', "11:1", "no policy says what to keep"),
        (
            'encrypt = "source"',
            'retention = "x"\nkeep = { last = 1 }\nencrypt = "source"',
            "11:1",
            "retention: 'x' is not a schedule",
        ),
        ('encrypt = "source"', 'transform = "monthly"\nencrypt = "source"', "11:1", "how far to fold"),
        ('encrypt = "source"', 'transform_keep = 3\nencrypt = "source"', "11:1", "when to fold"),
        ('encrypt = "source"', 'transform_before = "9d"\nencrypt = "source"', "11:1", "when to fold"),
        (
            'encrypt = "source"',
            'transform = "0 0 30 2 *"\ntransform_keep = 3\nencrypt = "source"',
            "11:1",
            "is not a schedule",
        ),
        (
            "[limits]",
            '[copies.v]\nfrom = "a/b"\nto = "c/d"\ncontinuous = true\nschedule = "daily"\n[limits]',
            "21:1",
            "a continuous copy has no times",
        ),
        (
            "[limits]",
            '[copies.v]\nfrom = "a/b"\nto = "c/d"\nschedule = "x"\n[limits]',
            "20:1",
            "schedule: 'x' is not a schedule",
        ),
    ],
)
def test_an_error_names_line_column_and_remedy(old, new, place, words):
    assert GOOD.count(old) >= 1
    with pytest.raises(ConfigError) as caught:
        parse_config(GOOD.replace(old, new, 1), PATH)
    assert str(caught.value).startswith(f"{PATH}:{place}: "), str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_an_unknown_key_in_an_inline_table_is_found():
    text = '[node]\nname = "a"\n[repositories]\nmain = { quota = "1B", colour = "red" }\n'
    with pytest.raises(ConfigError, match=r":4:24: unknown key 'colour'"):
        parse_config(text, PATH)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin")


def test_an_unknown_job_or_repository_suggests_the_nearest():
    config = parse_config(GOOD, PATH)
    with pytest.raises(ConfigError, match="did you mean 'docs'"):
        config.job("dosc")
    with pytest.raises(ConfigError, match="repository add"):
        config.repository("x")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, None),
        ({"encrypt": "target", "password": ""}, "encrypt"),
        ({"paths": []}, "paths"),
        ({"workload": "stream", "paths": ["/a"]}, "paths"),
        ({"workload": "stream", "paths": ["-"]}, None),
        ({"workload": "image", "paths": ["/a", "/b"]}, "paths"),
        ({"stdin_name": "../x"}, "stdin_name"),
        ({"to": "/x"}, "to"),
        ({"to": "a/b/c"}, "to"),
        ({"network_acceleration": True}, "network_acceleration"),
        ({"network_acceleration": True, "encrypt": "target"}, "network_acceleration"),
        ({"network_acceleration": True, "encrypt": "none", "password": ""}, None),
        ({"compression": "lz4"}, None),
    ],
)
def test_what_cannot_work_is_found_before_the_run(changes, field):
    settings = {"to": "a/b", "encrypt": "source", "password": "p", "paths": ["/a"], **changes}
    problem = job_problem(JobConfig(**settings))
    assert (problem and problem[0]) == field


@pytest.mark.parametrize("text", ["host:1", "[::1]:6180", "127.0.0.1:65535", "backup.example.org:6180"])
def test_addresses(text):
    assert is_address(text)


@pytest.mark.parametrize("text", ["host", ":1", "host:", "host:65536", "::1:80", "a b:1", "host:1\n"])
def test_no_addresses(text):
    assert not is_address(text)


THROTTLE = """\
[node]
name = "office"
[jobs.docs]
to = "offsite/main"
encrypt = "none"
paths = ["/a"]
[throttle.daemon]
"Mon-Fri 08:00-18:00" = "20Mbit"
"always" = "100Mbit"
[throttle.peers.offsite]
"Sat,Sun 00:00-24:00" = "unlimited"
[throttle.jobs.docs]
"22:00-06:00" = "5MB/s"
"""


def test_limits_of_bandwidth():
    throttle = parse_config(THROTTLE, PATH).throttle
    assert [(rule.text, rule.rate) for rule in throttle.daemon.rules] == [
        ("Mon-Fri 08:00-18:00", 2_500_000),
        ("always", 12_500_000),
    ]
    assert {name: schedule.rules[0].rate for name, schedule in throttle.peers.items()} == {"offsite": 0}
    assert {name: schedule.rules[0].rate for name, schedule in throttle.jobs.items()} == {"docs": 5_000_000}
    assert parse_config(GOOD, PATH).throttle.daemon.rules == ()


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ('"20Mbit"', '"20Mb"', "8:1", "Mon-Fri 08:00-18:00: '20Mb' is not a rate"),
        ('"20Mbit"', "20", "8:1", "expected a rate in quotes, got 20"),
        ('"20Mbit"', '"1kbit"', "8:1", "is outside 64kbit"),
        ('"always"', '"ever"', "9:1", "'ever' is not a window of time"),
        ("Sat,Sun", "Sat,Son", "11:1", "'Son' is not a day"),
        ("22:00-06:00", "22:00-22:00", "13:1", "the window is empty"),
        (
            "[throttle.jobs.docs]",
            "[throttle.jobs.dosc]",
            "12:16",
            "there is no job 'dosc' to limit (did you mean 'docs'?",
        ),
        ("[throttle.daemon]", "[throttle.demon]", "7:11", "unknown section [throttle.demon] (did you mean 'daemon'?"),
        ("[throttle.peers.offsite]", '[throttle.peers."/"]', "10:17", "is not a usable name"),
        ("[throttle.peers.offsite]", "[throttle.peers]", "11:1", "is not a section"),
        ("[throttle.daemon]", "[throtle.daemon]", "7:2", "unknown section [throtle] (did you mean 'throttle'?"),
    ],
)
def test_an_error_in_a_limit_names_line_column_and_remedy(old, new, place, words):
    assert THROTTLE.count(old) >= 1
    with pytest.raises(ConfigError) as caught:
        parse_config(THROTTLE.replace(old, new, 1), PATH)
    assert str(caught.value).startswith(f"{PATH}:{place}: "), str(caught.value)
    assert words in str(caught.value)
    assert caught.value.remedy
