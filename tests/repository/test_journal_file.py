from __future__ import annotations

import errno
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter.repository import files
from transporter.repository.journal_file import BLOCK, CAPACITY, EAGER, JournalFile

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3 * BLOCK)),
        st.tuples(st.just("append"), st.integers(CAPACITY // 2, CAPACITY - BLOCK)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, 1 << 30)),
    ),
    max_size=25,
)


@given(steps)
@settings(max_examples=30, deadline=None)
def test_what_was_appended_is_in_the_file_and_can_be_read_at_any_time(tmp_path_factory, script):
    path = tmp_path_factory.mktemp("j") / "file"
    file = JournalFile(path)
    expected = bytearray()
    for number, (what, value) in enumerate(script):
        if what == "append":
            part = bytes([number + 1]) * value
            file.append(part[:7], part[7:])
            expected += part
        elif what == "flush":
            file.flush()
            assert path.read_bytes()[: len(expected)] == expected
            assert not path.read_bytes()[len(expected) :].strip(b"\0")
        elif expected:
            offset = value % len(expected)
            piece = expected[offset : offset + 5000]
            assert file.read(offset, len(piece)) == piece
        assert file.length == len(expected)
    file.flush()
    file.end()
    assert path.read_bytes() == expected
    file.close()


@pytest.mark.parametrize("refused_at", ["open", "write"])
def test_a_file_system_without_direct_writes_is_written_all_the_same(tmp_path, monkeypatch, refused_at):
    real_open, real_pwrite = os.open, os.pwrite
    refusals: list[str] = []

    def open_(path, flags, *rest, **how):
        fd = real_open(path, flags, *rest, **how)
        if refused_at == "open" and flags & os.O_DIRECT:
            os.close(fd)
            refusals.append("open")
            raise OSError(errno.EINVAL, "no O_DIRECT")
        return fd

    def pwrite(fd, data, offset):
        if refused_at == "write" and not refusals:
            refusals.append("write")
            raise OSError(errno.EINVAL, "not aligned enough")
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "pwrite", pwrite)
    file = JournalFile(tmp_path / "file")
    file.append(b"x" * 10_000)
    file.flush()
    file.end()
    file.close()
    assert (tmp_path / "file").read_bytes() == b"x" * 10_000
    assert refusals == [refused_at]


def test_a_write_that_fails_loses_nothing(tmp_path, monkeypatch):
    file = JournalFile(tmp_path / "file")
    file.append(b"a" * 10_000)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_at", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            file.flush()
        with pytest.raises(OSError, match="full"):
            file.append(b"b" * (CAPACITY - 5000))
        with pytest.raises(OSError, match="full"):
            file.append(b"b" * EAGER)
        assert file.length == 10_000
        file.append(b"c" * 100)
    file.flush()
    file.end()
    file.close()
    assert (tmp_path / "file").read_bytes() == b"a" * 10_000 + b"c" * 100


def test_threads_flush_and_read_while_one_appends(tmp_path):
    file = JournalFile(tmp_path / "file")
    done = threading.Event()
    wrong: list[bytes] = []
    pieces: list[tuple[int, bytes]] = []

    def look() -> None:
        while not done.is_set():
            for offset, piece in pieces[-3:]:
                if file.read(offset, len(piece)) != piece:
                    wrong.append(piece[:1])

    threads = [threading.Thread(target=look), threading.Thread(target=lambda: [file.flush() for _ in range(300)])]
    for thread in threads:
        thread.start()
    for number in range(300):
        piece = bytes([number % 255 + 1]) * (1000 + number * 37)
        offset = file.length
        file.append(piece)
        pieces.append((offset, piece))
    done.set()
    for thread in threads:
        thread.join()
    file.flush()
    file.end()
    file.close()
    assert not wrong
    assert (tmp_path / "file").read_bytes() == b"".join(piece for _, piece in pieces)
