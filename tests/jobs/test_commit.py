"""The end of a backup: what is said before the commit is made anew for each attempt, and never all at once."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace

import pytest

from protocol.messages import CommitPlain
from transporter.clock import SystemClock
from transporter.jobs import commit as commit_module
from transporter.jobs.commit import Commit, commit_point
from transporter.jobs.needs import PART, Needs
from transporter.jobs.parent import Parent

PARTS = 5


class BreakingLink:
    """Tries twice, as after a break in the midst of the first attempt; notes what is made before it is sent."""

    def __init__(self, needs):
        self.needs = needs
        self.attempts = []

    async def tell(self, messages, ask, payload, reply):
        assert isinstance(ask, CommitPlain) and payload
        for most in (PARTS // 2, PARTS):
            sent = []
            self.needs.made = 0
            for message, _ in messages():
                sent.append(message.ids)
                assert self.needs.made == len(sent), "one message at a time"
                if len(sent) == most:
                    break
            self.attempts.append(b"".join(sent))
        return reply(point=bytes(16), hash=bytes(32))


class CountedNeeds(Needs):
    made = 0

    def parts(self):
        for part in super().parts():
            self.made += 1
            yield part


@pytest.fixture
def remembered(monkeypatch):
    made = []
    monkeypatch.setattr(commit_module, "_remember", lambda *what: made.append(what[-1]))
    monkeypatch.setattr(commit_module, "note_committing", lambda *_: None)
    return made


async def test_the_list_of_needed_chunks_is_never_whole_in_memory_and_whole_on_the_wire(tmp_path, remembered):
    with closing(CountedNeeds(tmp_path)) as needs:
        ids = [number.to_bytes(32, "big") for number in range(PARTS * PART // 32)]
        for each in ids:
            needs.add(each)
        job = SimpleNamespace(encrypt="none", workload="tree", to="offsite/main")
        context = SimpleNamespace(clock=SystemClock())
        kept = []

        async def keep_manifest():
            assert remembered == [], "first the manifest, then what names it"
            kept.append(True)

        reading = SimpleNamespace(
            manifest_chunks=[], fsi_chunks=[], bytes_total=1, files=1, keep_manifest=keep_manifest
        )
        link = BreakingLink(needs)
        parent = Parent()
        commit = Commit(context, "docs", job, b"r" * 16, "full", None, parent, None)
        await commit_point(commit, link, reading, needs, 0)
    whole = b"".join(ids)
    assert link.attempts == [whole[: PARTS // 2 * PART], whole]
    assert kept == [True]
    assert remembered == [bytes(32)]
