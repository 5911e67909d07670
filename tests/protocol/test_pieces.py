"""Chunks in pieces: any order over any channels gives the chunk; anything else is the peer's fault, and bounded."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.messages import Chunk
from protocol.pieces import Assembler, Cutter

ID = bytes(range(32))
MOST = 48 << 20
HEADER = Chunk(id=ID, codec=1, plain_length=1 << 20, flags=1)


def cut(size, header=HEADER, steps=lambda: 1):
    stored = random.Random(size).randbytes(size)
    cutter, parts = Cutter(header, stored), []
    while not cutter.empty:
        parts.append(cutter.cut(steps()))
    return stored, parts


SIZES = [0, 1, *(limits.PIECE * n + more for n in (1, 5, 9) for more in (-1, 0, 1))]


@given(st.sampled_from(SIZES), st.randoms())
def test_pieces_of_any_length_in_any_order_give_the_chunk(size, order):
    stored, parts = cut(size, steps=lambda: order.randint(1, limits.MAX_PIECE // limits.PIECE))
    assert all(len(payload) <= limits.MAX_PIECE for _piece, payload in parts)
    order.shuffle(parts)
    assembler = Assembler(MOST)
    whole = [assembler.add(*part) for part in parts]
    assert whole[:-1] == [None] * (len(parts) - 1)
    header, data = whole[-1]
    assert (header, bytes(data)) == (HEADER, stored)
    assert assembler._held == 0


def test_pieces_of_several_chunks_may_mix():
    assembler = Assembler(MOST)
    chunks = {bytes([n]) * 32: cut(200_000 + n, dataclasses.replace(HEADER, id=bytes([n]) * 32)) for n in range(4)}
    mixed = [part for _stored, parts in chunks.values() for part in parts]
    random.Random(1).shuffle(mixed)
    came = [whole for part in mixed if (whole := assembler.add(*part)) is not None]
    assert {header.id: bytes(data) for header, data in came} == {name: stored for name, (stored, _) in chunks.items()}


def test_a_piece_that_comes_twice_is_refused():
    _, parts = cut(200_000)
    assembler = Assembler(MOST)
    assembler.add(*parts[0])
    with pytest.raises(RemoteProtocolError, match="twice"):
        assembler.add(*parts[0])


@pytest.mark.parametrize("first", [0, 1])
def test_pieces_that_overlap_are_refused(first):
    stored, _ = cut(500_000)
    assembler, cutter = Assembler(MOST), Cutter(HEADER, stored)
    pieces = [cutter.cut(2), Cutter(HEADER, stored).cut(4)]
    assembler.add(*pieces[first])
    with pytest.raises(RemoteProtocolError, match="twice"):
        assembler.add(*pieces[1 - first])


@pytest.mark.parametrize("change", [{"length": 199_999}, {"codec": 0}, {"plain_length": 5}, {"flags": 0}])
def test_pieces_that_do_not_belong_together_are_refused(change):
    _, parts = cut(200_000)
    assembler = Assembler(MOST)
    assembler.add(*parts[0])
    piece, payload = parts[1]
    with pytest.raises(RemoteProtocolError, match="belong together"):
        assembler.add(dataclasses.replace(piece, **change), payload)


@pytest.mark.parametrize(
    ("index", "length"),
    [(4, 10), (0, 10), (0, 0), (3, limits.PIECE), (1, limits.PIECE - 1), (1, 3 * limits.PIECE), (0, limits.PIECE + 1)],
)
def test_a_piece_of_a_wrong_place_or_length_is_refused(index, length):
    _, parts = cut(200_000)
    piece, _ = parts[0]
    with pytest.raises(RemoteProtocolError, match="wrong length or place"):
        Assembler(MOST).add(dataclasses.replace(piece, index=index), memoryview(bytes(length)))


def test_a_chunk_longer_than_any_is_refused_before_memory_is_taken():
    _, parts = cut(10)
    piece = dataclasses.replace(parts[0][0], length=limits.MAX_CHUNK_PAYLOAD + 1)
    with pytest.raises(RemoteProtocolError, match="bytes in pieces"):
        Assembler(MOST).add(piece, memoryview(bytes(10)))


def test_chunks_that_are_begun_and_not_finished_are_bounded():
    assembler = Assembler(MOST)
    _, parts = cut(4 << 20)
    piece, payload = parts[0]
    with pytest.raises(RemoteProtocolError, match="not finished"):
        for number in range(100):
            assembler.add(dataclasses.replace(piece, id=number.to_bytes(32, "big")), payload)
    assert assembler._held <= MOST
