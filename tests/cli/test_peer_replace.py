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


def store_points(node, *tenants):
    with Repository.open(node.path / "repositories" / "main", SystemClock()) as store:
        for number, tenant in enumerate(tenants):
            store.commit_point(tenant, "job", bytes([number]) * 16, b"head", b"", domain=b"D" * 16)


def test_points_whose_owner_nobody_knows_are_adopted(provider):
    store_points(provider, "lost-1234", "old-6f6f")
    done = provider.json("peer", "adopt", "new")
    assert done.objects() == [{"peer": "new", "tenant": "lost-1234"}]
    assert peers(provider)["new"] == (b"n" * 32, "lost-1234", ("main",))
    (entry,) = provider.json("audit", "log").objects()
    assert (entry["event"], entry["peer"], entry["tenant"]) == ("peer.adopt", "new", "lost-1234")
    assert provider("peer", "adopt", "new").status == 2, "it has points by now"


def test_what_cannot_be_adopted(provider):
    before = peers(provider)
    assert provider("peer", "adopt", "new").status == 2, "there are none"
    store_points(provider, "lost-1234", "other-5678", "old-6f6f")
    done = provider("peer", "adopt", "new")
    assert done.status == 2 and "lost-1234, other-5678" in done.err
    assert provider("peer", "adopt", "new", "nobody").status == 2
    assert "peer replace" in provider("peer", "adopt", "new", "old-6f6f").err, "that one is a peer"
    assert provider("peer", "adopt", "old", "lost-1234").status == 2, "it has points of its own"
    assert provider("peer", "adopt", "stranger").status == 3
    assert peers(provider) == before
    assert provider("peer", "adopt", "new", "other-5678").status == 0
