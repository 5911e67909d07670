"""Everything over IPv6: set up as people do it, and copied."""

from __future__ import annotations

import pytest
from e2e_node import PASSWORD, Node, sealed
from e2e_trees import assert_same, small_tree


@pytest.fixture
def nodes(tmp_path):
    target, source = Node(tmp_path / "B"), Node(tmp_path / "A")
    yield target, source
    for node in (source, target):
        node.kill()


def test_listen_invite_join_backup_restore(nodes, tmp_path):
    target, source = nodes
    secret = tmp_path / "password"
    secret.write_bytes(PASSWORD + b"\n")
    target.ok("init", "--name", "offsite", "--listen", "[::1]:0")
    target.ok("repository", "add", "main")
    target.serve()
    assert f"listening on [::1]:{target.port}" in target.log_text()
    target.configure('listen = "[::1]:0"', f'listen = "[::1]:0"\naddress = "[::1]:{target.port}"')
    (made,) = target.ok("invite", "--repository", "main").objects
    source.ok("init", "--name", "office")
    source.ok("password", "add", "office", "--from-file", secret)
    source.ok("join", made["invitation"])
    (peer,) = source.ok("peer", "list").objects
    assert peer["address"] == f"[::1]:{target.port}"
    tree = small_tree(tmp_path / "tree")
    done = source.ok("backup", "--job", "docs", *sealed(), tree)
    (up,) = done.events("link_up")
    assert up["address"] == f"[::1]:{target.port}"
    source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")
    target.kill_daemon()
    source.limit('redial_for = "1s"')
    failed = source("verify", "docs")
    assert (failed.status, failed.failed["code"]) == (4, "cannot-connect")
    assert f"[::1]:{target.port}" in failed.failed["what"]
