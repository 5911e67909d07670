"""Verify: what passes can be restored."""

from __future__ import annotations

import pytest

from transporter.errors import DamagedData

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
