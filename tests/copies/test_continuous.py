"""Continuous copies: the daemon copies as soon as a point appears; and the configuration that says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from transporter.config import parse_config
from transporter.daemon import copier as copier_module
from transporter.daemon.copier import Copier
from transporter.daemon.execute import not_running
from transporter.daemon.requests import configured_copy
from transporter.daemon.running import RunningJobs
from transporter.errors import ConfigError
from transporter.link.routes import Parking

COPIES = '[copies.vault]\nfrom = "main"\nto = "second/main"\ncontinuous = true\n'


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(copier_module, "LOOK_SECONDS", 0.02)


async def test_a_point_is_copied_as_soon_as_it_appears_until_the_configuration_says_otherwise(world, often):
    path = world.target.home.config_path
    before = path.read_text()
    path.write_text(before + COPIES)
    provider = world.one.provider
    running = RunningJobs(provider)
    copier = Copier(provider, running.job, not_running, Parking(provider.parked, provider.tickets))
    tenant = world.tenant(world.target)

    async def there(count):
        while len(world.there().points(tenant)) < count:
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(copier.run)
        with trio.fail_after(60):
            await world.source.backup()
            await there(1)
            await world.source.backup()
            await there(2)
            # It goes by itself once nobody wants it any more.
            path.write_text(before)
            while copier._copies:
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    assert running.idle()
    assert world.there().scrub().clean


def config(text):
    return parse_config(f'[node]\nname = "n"\n[repositories.main]\n{text}', Path("config.toml"))


def test_what_a_copy_of_the_configuration_says():
    text = '[copies.c]\nfrom = "a/b"\nto = "main"\njobs = ["docs"]\nseal = "all"\npassword = "p"\nthrough = true\n'
    request = configured_copy("c", config(text).copy("c"))
    assert (request.job, request.source, request.target, request.jobs) == ("c", "a/b", "main", ["docs"])
    assert (request.seal, request.password, request.through) == ("all", "p", True)
    limit = '[copies.c]\nfrom = "a/b"\nto = "main"\n[throttle.jobs.c]\nalways = "1Mbit"\n'
    assert "c" in config(limit).throttle.jobs


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[copies.c]\nfrom = "a/b"\nto = "nowhere"\n', 6),
        ('[copies.c]\nfrom = "a/b/c"\nto = "main"\n', 5),
        ('[copies.c]\nfrom = "main"\nto = "main"\n', 6),
        ('[copies.c]\nfrom = "main"\nto = "a/b"\nseal = "plain"\n', 7),
        ('[copies.c]\nfrom = "main"\nto = "a/b"\nseal = "both"\npassword = "p"\n', 7),
        ('[repositories.second]\n[copies.c]\nfrom = "main"\nto = "second"\nseal = "target"\n', 8),
        ('[copies.c]\nfrom = "main"\nto = "a/b"\nalways = true\n', 7),
    ],
)
def test_a_copy_that_cannot_work_is_named_with_its_line(text, line):
    with pytest.raises(ConfigError, match=rf"config\.toml:{line}:"):
        config(text)


def test_a_copy_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="there is no copy 'x'"):
        config("").copy("x")
