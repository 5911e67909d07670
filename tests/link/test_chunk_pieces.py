"""How large the pieces are that a session cuts: what a connection carries in a moment, and never more than allowed."""

from __future__ import annotations

from itertools import count

import pytest
import trio
import trio.testing

from protocol.limits import MAX_CHUNK_PAYLOAD, MAX_PIECE, MAX_PLAIN_LENGTH, PIECE
from protocol.messages import Chunk
from protocol.pieces import BACKUP_AT_MOST, RECOVERY_AT_MOST
from transporter.jobs.fetch import MANIFEST_AHEAD_BYTES, MANIFEST_CHUNK, ChunkFetcher
from transporter.link.chunk_pieces import HOLD_SECONDS, PieceQueue
from transporter.link.outbox import UNACKNOWLEDGED_BYTES

HEADER = Chunk(id=bytes(32), codec=1, plain_length=1)
STORED = bytes(1 << 20)
# What a stored chunk may have beside its plain bytes.
SEALING = MAX_CHUNK_PAYLOAD - MAX_PLAIN_LENGTH


async def _lengths(rate, channels, seconds=2.0):
    """Take pieces at ``rate`` bytes a second in all; return their lengths."""

    async def next_chunk():
        return HEADER, STORED

    queue = PieceQueue(next_chunk, lambda: channels)
    lengths = []
    while trio.current_time() < seconds:
        _piece, data = await queue.next()
        lengths.append(len(data))
        await trio.sleep(len(data) / rate)
    return lengths


@pytest.mark.parametrize(
    ("rate", "channels", "steps"),
    [(12.5e6, 16, 1), (12.5e6, 32, 1), (125e6, 8, 4), (125e6, 1, 4), (2.5 * PIECE / HOLD_SECONDS * 8, 8, 2)],
)
async def test_pieces_grow_with_what_a_connection_carries(rate, channels, steps, autojump_clock):
    lengths = await _lengths(rate, channels)
    assert lengths[0] == PIECE, "nothing is known at the beginning"
    assert lengths[-20] == steps * PIECE
    assert max(lengths) <= MAX_PIECE


async def test_pieces_shrink_when_the_line_becomes_slow(autojump_clock):
    async def next_chunk():
        return HEADER, STORED

    queue = PieceQueue(next_chunk, lambda: 2)
    for rate, last in ((125e6, MAX_PIECE), (1e5, PIECE)):
        for _ in range(200):
            _piece, data = await queue.next()
            await trio.sleep(len(data) / rate)
        assert len(data) == last


# --- the bounds of both sides ------------------------------------------------------------------------------------


def test_what_a_backup_has_under_way_may_be_begun_at_once():
    """All that is not acknowledged may lie in pieces at the target, and the chunk that was put last beside it."""
    assert UNACKNOWLEDGED_BYTES + MAX_CHUNK_PAYLOAD <= BACKUP_AT_MOST


async def test_what_a_recovery_asks_for_ahead_may_be_begun_at_once(nursery):
    """It takes chunks for ordinary ones, and all of them may be of the longest kind: disk images, for instance."""
    asked = []

    class Link:
        async def ask_for(self, chunk_id):
            asked.append(chunk_id)

    async def want(fetcher, name):
        for number in count():
            await fetcher.want(name + number.to_bytes(31, "big"))

    content = ChunkFetcher(None, None)
    metadata = ChunkFetcher(None, None, MANIFEST_CHUNK, MANIFEST_AHEAD_BYTES, kept=0)
    for name, fetcher in ((b"c", content), (b"m", metadata)):
        fetcher.link = Link()
        nursery.start_soon(want, fetcher, name)
    await trio.testing.wait_all_tasks_blocked()
    longest = {b"c": MAX_CHUNK_PAYLOAD, b"m": MANIFEST_CHUNK + SEALING}
    held = sum(longest[chunk_id[:1]] for chunk_id in asked)
    assert len(asked) > MANIFEST_AHEAD_BYTES // MANIFEST_CHUNK, "both ask"
    assert held <= RECOVERY_AT_MOST
    # Not much more than that is needed: it is what a hostile target can have held here.
    assert held > RECOVERY_AT_MOST / 2
    nursery.cancel_scope.cancel()
