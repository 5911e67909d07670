"""Verify: what passes can be restored."""

from __future__ import annotations

import pytest
from world import contents

from transporter.errors import DamagedData
from transporter.events import DamageFound

# A fault of the scanner: two neighbours change places.
FAULTY_READER = """
from transporter.jobs import read_worker
from transporter.jobs.manifest_stream import ManifestStream

really_add = ManifestStream.add

def add(self, entries):
    entries = list(entries)
    if len(entries) > 2:
        entries[-1], entries[-2] = entries[-2], entries[-1]
    really_add(self, entries)

ManifestStream.add = add
read_worker.main()
"""


# And another: the index has another size for one file, or another time, name or type.
LYING_READER = """
import msgspec
from transporter.jobs import read_worker
from transporter.workloads.fsi_builder import FsiBuilder

really_add = FsiBuilder.add

def add(self, entries):
    lie = lambda e: msgspec.structs.replace(e, {change})
    return really_add(self, [lie(e) if e.path.endswith(b"file-3") else e for e in entries])

FsiBuilder.add = add
read_worker.main()
"""


@pytest.mark.parametrize(
    ("job", "change"), [("docs", "mtime_ns=7"), ("none", "size=7"), ("none", "path=e.path + b'x'")]
)
async def test_an_index_that_lists_something_else_does_not_verify(world, monkeypatch, tmp_path, job, change):
    (tmp_path / "lying_reader.py").write_text(LYING_READER.replace("{change}", change))
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        patched.setattr("transporter.jobs.reading.MODULE", "lying_reader")
        done = await world.source.backup(job)
    with pytest.raises(DamagedData, match=f"index of restore point {done.point[:8]} does not fit its manifest"):
        await world.source.verify(job)
    (found,) = world.source.seen(DamageFound)
    assert found.where == "file-system index" and "something else" in found.what
    # What it says of the manifest holds: the point is whole.
    assert contents(await world.source.restore(job)) == contents(world.source.tree)


@pytest.mark.parametrize("job", ["docs", "none"])
async def test_a_manifest_that_no_restore_takes_does_not_verify(world, monkeypatch, tmp_path, job):
    (tmp_path / "faulty_reader.py").write_text(FAULTY_READER)
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        patched.setattr("transporter.jobs.reading.MODULE", "faulty_reader")
        await world.source.backup(job)
    with pytest.raises(DamagedData, match="out of order"):
        await world.source.restore(job)
    with pytest.raises(DamagedData, match="out of order"):
        await world.source.verify(job)
