from __future__ import annotations

import pytest

from transporter.catalog import Catalog, Peer
from transporter.clock import SystemClock
from transporter.repository import Repository


@pytest.fixture
def provider(node):
    assert node("repository", "add", "main").status == 0
    with Catalog(node.path / "catalog.db") as catalog:
        catalog.put_peer(Peer("old", b"o" * 32, tenant="old-6f6f", rights=("main", "more")))
        catalog.put_peer(Peer("new", b"n" * 32, tenant="new-6e6e", rights=("main",)))
        catalog.put_peer(Peer("relay", b"r" * 32, "127.0.0.1:1"))
    return node


def peers(node):
    with Catalog(node.path / "catalog.db") as catalog:
        return {peer.name: (peer.pin, peer.tenant, peer.rights) for peer in catalog.peers()}


def test_the_new_one_is_the_tenant_that_the_old_one_was(provider):
    done = provider.json("peer", "replace", "old", "new")
    assert done.objects() == [{"peer": "new", "replaced": "old", "tenant": "old-6f6f"}]
    assert peers(provider)["new"] == (b"n" * 32, "old-6f6f", ("main", "more"))
    assert set(peers(provider)) == {"new", "relay"}
    (entry,) = provider.json("audit", "log").objects()
    assert (entry["event"], entry["old"], entry["new"]) == ("peer.replace", "old", "new")


@pytest.mark.parametrize("names", [("old", "nobody"), ("nobody", "new"), ("old", "old"), ("relay", "new")])
def test_what_cannot_be(provider, names):
    before = peers(provider)
    assert provider("peer", "replace", *names).status == 3
    assert peers(provider) == before


def test_points_of_the_new_one_are_not_lost_sight_of_without_a_word(provider):
    with Repository.open(provider.path / "repositories" / "main", SystemClock()) as store:
        store.commit_point("new-6e6e", "job", b"p" * 16, b"head", b"", domain=b"D" * 16)
    done = provider("peer", "replace", "old", "new")
    assert done.status == 2 and "--force" in done.err
    assert provider("peer", "replace", "old", "new", "--force").status == 0
