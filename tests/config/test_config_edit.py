from __future__ import annotations

import threading

import pytest

from transporter.config import JobConfig, RepositoryConfig, load_config
from transporter.config_edit import clear_limit, edit, put_job, put_limit, put_repository, write_skeleton
from transporter.errors import ConfigError
from transporter.quantities import Size


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "config.toml"
    write_skeleton(path, "office", "127.0.0.1:6180")
    return path


def job(**changes):
    return JobConfig(**{"to": "offsite/main", "encrypt": "source", "password": "p", "paths": ["/a"], **changes})


def test_the_skeleton_is_private_and_says_what_it_was_given(path):
    assert load_config(path).node.listen == "127.0.0.1:6180"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_skeleton_refuses_an_unusable_name(tmp_path):
    with pytest.raises(ConfigError):
        write_skeleton(tmp_path / "config.toml", 'a"\nb', "")
    assert not (tmp_path / "config.toml").exists()


def test_what_is_written_is_read_back(path):
    put_job(path, "docs", job(exclude=["*.o"], workload="image"))
    put_job(path, "with.dot", job(to="x/y"))
    put_repository(path, "main", RepositoryConfig(quota=Size(3 << 40), path="/srv/x"))
    config = load_config(path)
    assert config.jobs == {"docs": job(exclude=["*.o"], workload="image"), "with.dot": job(to="x/y")}
    assert config.repositories == {"main": RepositoryConfig(quota=Size(3 << 40), path="/srv/x")}
    assert 'quota = "3TiB"' in path.read_text()


def test_comments_and_other_entries_stay(path):
    put_job(path, "docs", job())
    path.write_text(path.read_text().replace('to = "offsite/main"', 'to = "offsite/main"   # the other town'))
    put_job(path, "docs", job(encrypt="none", password=""))
    put_job(path, "more", job())
    text = path.read_text()
    assert "# the other town" in text
    assert "docs/handbook.md" in text
    assert load_config(path).jobs == {"docs": job(encrypt="none", password=""), "more": job()}


def test_a_change_that_would_not_be_valid_is_not_written(path):
    before = path.read_bytes()
    with pytest.raises(ConfigError):
        put_job(path, "docs", job(to="nonsense"))
    with pytest.raises(ConfigError):
        edit(path, lambda document: document.update({"colour": "red"}))
    assert path.read_bytes() == before


def test_a_broken_file_is_refused_not_overwritten(path):
    path.write_text("[node")
    with pytest.raises(ConfigError, match=":1:"):
        put_job(path, "docs", job())
    assert path.read_text() == "[node"


def test_editors_at_once_lose_nothing(path):
    def add(name):
        for number in range(5):
            put_job(path, f"{name}{number}", job())

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_config(path).jobs) == 15
    assert [entry.name for entry in path.parent.iterdir()] == ["config.toml"]


# --- limits -----------------------------------------------------------------------------------------------------


def limits(path):
    throttle = load_config(path).throttle
    named = [("daemon", throttle.daemon), *throttle.peers.items(), *throttle.jobs.items()]
    return {name: [(rule.text, rule.rate) for rule in schedule.rules] for name, schedule in named if schedule.rules}


def test_limits_are_set_and_cleared(path):
    before = path.read_text()
    put_job(path, "docs", job())
    with_job = path.read_text()
    put_limit(path, ("daemon",), "always", "100Mbit")
    put_limit(path, ("jobs", "docs"), "22:00-06:00", "5MB/s")
    put_limit(path, ("peers", "with.dot"), "always", "unlimited")
    put_limit(path, ("daemon",), "always", "50Mbit")
    assert limits(path) == {
        "daemon": [("always", 6_250_000)],
        "with.dot": [("always", 0)],
        "docs": [("22:00-06:00", 5_000_000)],
    }
    assert clear_limit(path, ("daemon",), None)
    assert clear_limit(path, ("peers", "with.dot"), "always")
    assert not clear_limit(path, ("peers", "with.dot"), "always")
    assert not clear_limit(path, ("jobs", "docs"), "always")
    assert limits(path) == {"docs": [("22:00-06:00", 5_000_000)]}
    assert clear_limit(path, ("jobs", "docs"), None)
    assert limits(path) == {}
    assert path.read_text().rstrip() == with_job.rstrip()
    assert path.read_text().startswith(before.rstrip())


def test_a_new_window_stands_before_always_and_comments_stay(path):
    text = path.read_text()
    path.write_text(
        text + '\n[throttle.daemon]\n# working hours\n"Mon-Fri 08:00-18:00" = "20Mbit"  # agreed\n"always" = "1Gbit"\n'
    )
    put_limit(path, ("daemon",), "Sat,Sun 00:00-24:00", "unlimited")
    put_limit(path, ("daemon",), "Mon-Fri 08:00-18:00", "30Mbit")
    windows = [("Mon-Fri 08:00-18:00", 3_750_000), ("Sat,Sun 00:00-24:00", 0), ("always", 125_000_000)]
    assert limits(path) == {"daemon": windows}
    assert "# working hours\n" in path.read_text() and "# agreed" in path.read_text()


def test_a_limit_that_would_not_be_valid_is_not_written(path):
    before = path.read_text()
    for section, window, rate in (
        (("jobs", "none"), "always", "1Mbit"),
        (("daemon",), "never", "1Mbit"),
        (("daemon",), "always", "1"),
    ):
        with pytest.raises(ConfigError):
            put_limit(path, section, window, rate)
    assert path.read_text() == before
