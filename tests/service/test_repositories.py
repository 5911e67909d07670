"""The repositories of a daemon: each is opened as it was made, and one that cannot be does not stop the others."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

import pytest
from world import REPOSITORIES, contents, in_memory, make_node

from transporter.clock import SystemClock
from transporter.config import load_config
from transporter.daemon.serve import open_repositories
from transporter.errors import ConfigError, DamagedData, RefusedByPeer
from transporter.repository import Repository, RepositoryBusy
from transporter.service.provider import Provider


@pytest.fixture
def target():
    """A provider whose repositories were made and are closed."""
    with in_memory() as folder, ExitStack() as stack:
        node = make_node(folder, "offsite", REPOSITORIES, SystemClock(), stack)
        for name, settings in node.config.repositories.items():
            place = node.home.repository_path(name)
            Repository.create(place, clock=node.clock, encrypted=bool(settings.encrypt_at_rest)).close()
        yield Provider(node.home, node.config, node.identity, node.catalog, node.keys, node.clock)


def close(provider):
    for opened in provider.repositories.values():
        opened.store.close()


def format_of(provider, name):
    return provider.home.repository_path(name) / "format"


def test_all_are_opened(target):
    open_repositories(target)
    assert (set(target.repositories), target.closed) == ({"main", "rest"}, {})
    close(target)


@pytest.mark.parametrize("damage", ["damaged", "not there"])
def test_one_that_cannot_be_opened_does_not_stop_the_others(target, damage):
    if damage == "damaged":
        format_of(target, "main").write_bytes(b"rot")
    else:
        shutil.rmtree(target.home.repository_path("main"))
    open_repositories(target)
    assert (set(target.repositories), set(target.closed)) == ({"rest"}, {"main"})
    close(target)


def test_none_at_all_ends_the_start(target):
    for name in target.config.repositories:
        format_of(target, name).write_bytes(b"rot")
    with pytest.raises(DamagedData):
        open_repositories(target)


def test_one_that_another_process_has_ends_the_start(target):
    with Repository.open(target.home.repository_path("rest"), target.clock), pytest.raises(RepositoryBusy):
        open_repositories(target)
    close(target)


@pytest.mark.parametrize(
    ("name", "before", "after", "remedy"),
    [("rest", '\nencrypt_at_rest = "vault"', "", "put"), ("main", "main]", 'main]\nencrypt_at_rest = "vault"', "take")],
)
def test_one_that_was_made_for_another_encryption_at_rest_is_not_served(target, name, before, after, remedy):
    path = target.home.config_path
    path.write_text(path.read_text().replace(before, after))
    target.config = load_config(path)
    with pytest.raises(ConfigError, match=f"{name!r} was .*made to be encrypted at rest") as caught:
        open_repositories(target)
    assert caught.value.remedy.startswith(remedy)
    close(target)
    Repository.open(target.home.repository_path(name), target.clock).close()


async def test_who_may_use_it_hears_why_it_is_closed(world):
    served = world.provider.repositories.pop("main")
    world.provider.closed["main"] = DamagedData("the format file is damaged", "look at the disk")
    with pytest.raises(RefusedByPeer, match=r"out of service.*format file is damaged"):
        await world.source.backup("docs")
    await world.source.backup("rest")
    assert contents(await world.source.restore("rest")) == contents(world.source.tree)
    del world.provider.closed["main"]
    world.provider.repositories["main"] = served
    await world.source.backup("docs")
