"""Verify: what passes can be restored."""

from __future__ import annotations

import pytest

from transporter.errors import DamagedData
from transporter.jobs.manifest_stream import ManifestStream


@pytest.mark.parametrize("job", ["docs", "none"])
async def test_a_manifest_that_no_restore_takes_does_not_verify(world, monkeypatch, job):
    really_add = ManifestStream.add

    def add(self, entries):
        """A fault of the scanner: two neighbours change places."""
        entries = list(entries)
        if len(entries) > 2:
            entries[-1], entries[-2] = entries[-2], entries[-1]
        really_add(self, entries)

    with monkeypatch.context() as patched:
        patched.setattr(ManifestStream, "add", add)
        await world.source.backup(job)
    with pytest.raises(DamagedData, match="out of order"):
        await world.source.restore(job)
    with pytest.raises(DamagedData, match="out of order"):
        await world.source.verify(job)
