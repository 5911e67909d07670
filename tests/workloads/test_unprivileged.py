"""Restoring as somebody who is not root: what he may not set is noted, the rest is right."""

from __future__ import annotations

import os
import stat

import pytest

from transporter.workloads.entry import Entry, pack_extents
from transporter.workloads.tree_restore import TreeWriter

ID = b"i" * 32


def entries():
    content = {"size": 3, "packed_extents": pack_extents([(ID, 0, 3)])}
    yield Entry(b"r", "d", mode=0o750, mtime_ns=11)
    yield Entry(b"r/closed", "d", mode=0o555, mtime_ns=22)
    yield Entry(b"r/closed/deeper", "d", mode=0o500, mtime_ns=33)
    yield Entry(
        b"r/closed/deeper/f", "f", mode=0o444, xattrs={b"user.k": b"v", b"trusted.t": b"t"}, mtime_ns=44, **content
    )
    yield Entry(b"r/closed/none", "d", mode=0o000)
    yield Entry(b"r/closed/none/inside", "d", mode=0o000)
    yield Entry(b"r/dev", "c", rdev=259)
    yield Entry(b"r/suid", "f", mode=0o6755, uid=1, gid=1, mtime_ns=55, **content)


def restore(output, **options):
    with TreeWriter(output, "p", [b"r"], **options) as writer:
        for group in writer.plan(entries()):
            writer.write_group(group, memoryview(b"abc"))
        writer.finish()
        writer.publish()
    return [[n.code, n.path.decode(), n.gap] for n in writer.take_notes()]


@pytest.mark.parametrize("times", [1, 2])
def test_restore(reachable, as_nobody, times):
    reachable.chmod(0o777)
    out = reachable / "out"

    def act():
        first = restore(out)
        return restore(out, overwrite=True) if times == 2 else first

    notes = as_nobody(act)
    assert [n[2] for n in notes if n[0] == "owner-not-set"] == [False]  # said once
    assert [n for n in notes if n[2]] == [["not-restored", "r/dev", True]]
    assert ["metadata-not-set", "r/closed/deeper/f", False] in notes
    for path, mode, mtime in (
        ("", 0o750, 11),
        ("closed", 0o555, 22),
        ("closed/deeper", 0o500, 33),
        ("closed/deeper/f", 0o444, 44),
        ("suid", 0o755, 55),  # not setuid for somebody else than was meant
    ):
        state = (out / path).stat()
        assert (path, stat.S_IMODE(state.st_mode), state.st_mtime_ns) == (path, mode, mtime)
    assert os.getxattr(out / "closed/deeper/f", b"user.k") == b"v"
    assert sorted(os.listdir(out)) == ["closed", "suid"]


def test_an_abandoned_restore_is_removed_whatever_its_modes(reachable, as_nobody):
    reachable.chmod(0o777)

    def act():
        with TreeWriter(reachable / "out", "p", [b"r"]) as writer:
            for group in writer.plan(entries()):
                writer.write_group(group, memoryview(b"abc"))
            writer.finish()
        return os.listdir(reachable)

    assert as_nobody(act) == []


def test_an_output_that_may_not_be_written_to(reachable, as_nobody):
    (reachable / "out").mkdir(mode=0o755)

    def act():
        try:
            TreeWriter(reachable / "out", "p", [b"r"])
        except Exception as error:
            return type(error).__name__

    assert as_nobody(act) == "UsageError"
