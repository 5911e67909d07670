"""The list of needed chunks: complete, in order, short where that is cheap, and never held in memory as a whole."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from pathlib import Path
from unittest import mock

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from transporter.jobs import needs as module
from transporter.jobs.needs import ID_LENGTH, PART, Needs

RECENT = 3


def chunk_id(number):
    return number.to_bytes(ID_LENGTH, "big")


def split(data):
    return [data[at : at + ID_LENGTH] for at in range(0, len(data), ID_LENGTH)]


@given(st.lists(st.integers(0, 6).map(chunk_id), max_size=40))
def test_whatever_is_added_every_chunk_is_named_in_order_and_what_was_named_lately_only_once(ids):
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(module, "RECENT", RECENT),
        closing(Needs(Path(folder))) as needs,
    ):
        for each in ids:
            needs.add(each)
        named = split(b"".join(needs.parts()))
        assert needs.count == len(named)
        assert needs.digest() == blake3(b"".join(named)).digest()
    assert list(dict.fromkeys(named)) == list(dict.fromkeys(ids))
    for at in range(len(named)):
        assert named[at] not in named[max(at - RECENT, 0) : at]


def test_the_list_comes_in_parts_as_often_as_it_is_asked_for(tmp_path):
    with closing(Needs(tmp_path)) as needs:
        ids = [chunk_id(number) for number in range(2 * PART // ID_LENGTH + 5)]
        for each in ids:
            needs.add(each)
        given_up = needs.parts()
        next(given_up)  # as by an attempt to commit whose link was lost
        for _ in range(2):
            parts = list(needs.parts())
            assert [len(part) for part in parts] == [PART, PART, 5 * ID_LENGTH]
            assert b"".join(parts) == b"".join(ids)


def test_what_is_remembered_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RECENT", RECENT)
    with closing(Needs(tmp_path)) as needs:
        for number in range(100):
            needs.add(chunk_id(number))
        assert len(needs._recent) == RECENT


def test_what_another_process_wrote_to_the_file_is_the_list(tmp_path):
    with closing(Needs(tmp_path)) as ours:
        theirs = Needs.in_file(os.dup(ours.descriptor))
        for number in range(4):
            theirs.add(chunk_id(number))
        theirs.flush()
        ours.filled(theirs.count, theirs.digest())
        theirs.close()
        assert b"".join(ours.parts()) == b"".join(map(chunk_id, range(4)))
        assert (ours.count, ours.digest()) == (4, blake3(b"".join(map(chunk_id, range(4)))).digest())


def test_the_list_has_no_name_that_a_crash_could_leave(tmp_path):
    needs = Needs(tmp_path)
    needs.add(chunk_id(1))
    assert list(tmp_path.iterdir()) == []
    needs.close()
