"""Four eyes over the whole way: a job that was sealed is not run unsealed by whoever edits config.toml."""

from __future__ import annotations

import json

from e2e_node import sealed
from e2e_trees import assert_same, small_tree

from transporter.keys.operator_key import seal_operator
from transporter.keys.password import KdfParameters

REFUSED = 5


def unseal(node):
    """Edit config.toml as somebody would who wants to read what is copied."""
    node.configure('\nencrypt = "source"\n', '\nencrypt = "none"\n')
    node.configure('\npassword = "office"\n', "\n")


def test_a_sealed_job_runs_unsealed_only_by_two_operators(new_pair, tmp_path, monkeypatch):
    monkeypatch.setitem(seal_operator.__kwdefaults__, "parameters", KdfParameters(8, 1, 1))
    source = new_pair().source
    source.serve()  # its daemon runs the jobs: the key database refuses there, not the command
    tree = small_tree(tmp_path / "tree")
    source.job("backup", "--job", "docs", *sealed(), tree)

    (tmp_path / "phrase").write_text("a phrase\n")
    phrase = ("--passphrase-file", tmp_path / "phrase")
    for name in ("anna", "bert"):
        key = ("--key", tmp_path / name)
        (made,) = source.ok("operator", "create", name, *key, *phrase).objects
        source.ok("operator", "add", name, made["public"], "--fingerprint", made["fingerprint"])

    def approve(*what):
        asked = source.ok("approval", "request", *what, "--key", tmp_path / "anna", *phrase)
        (tmp_path / "request").write_text(asked.out)
        signed = source.ok("approval", "sign", tmp_path / "request", "--yes", "--key", tmp_path / "bert", *phrase)
        (tmp_path / "approval").write_text(signed.out)
        return tmp_path / "approval"

    source.ok("four-eyes", "require", "encryption", "--approval", approve("four-eyes.require", "encryption"))
    unseal(source)
    done = source("run", "docs")
    assert done.status == REFUSED and done.failed["code"] == "needs-approval"
    assert len(source.points("docs")) == 1
    assert json.loads(source.ok("job", "list").out)["approved_by"] == []

    source.ok("approval", "apply", approve("job.weaken", "docs", "none"))
    source.job("run", "docs")
    assert len(source.points("docs")) == 2
    (row,) = source.ok("job", "list").objects
    assert (row["encrypt"], row["approved_by"]) == ("none", ["anna", "bert"])
    (entry,) = [each for each in source.ok("audit", "log").objects if each["event"] == "job.weaken"]
    assert (entry["was"], entry["zone"], entry["approved_by"]) == ("source", "none", ["anna", "bert"])
    assert source.ok("approval", "verify").objects == [{"approvals": 2}]
    source.ok("audit", "verify")

    # Once allowed it stays so; sealed again, it would need two once more.
    source.job("run", "docs")
    source.configure('\nencrypt = "none"\n', '\nencrypt = "source"\npassword = "office"\n')
    source.job("run", "docs")
    unseal(source)
    assert source("run", "docs").failed["code"] == "needs-approval"
    source.job("restore", "docs", "latest", "--zone", "source", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")
