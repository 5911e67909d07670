"""How large the pieces are that a session cuts: what a connection carries in a moment, and never more than allowed."""

from __future__ import annotations

import pytest
import trio

from protocol.limits import MAX_PIECE, PIECE
from protocol.messages import Chunk
from transporter.link.chunk_pieces import HOLD_SECONDS, PieceQueue

HEADER = Chunk(id=bytes(32), codec=1, plain_length=1)
STORED = bytes(1 << 20)


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
