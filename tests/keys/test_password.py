from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter.errors import JobFailed, UsageError
from transporter.keys.password import (
    DEFAULT_PARAMETERS,
    MAX_PASSWORD_LENGTH,
    KdfParameters,
    hash_password,
    read_password_file,
    strip_newline,
)

SALT = bytes(range(16))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"secret", b"secret"),
        (b"secret\n", b"secret"),
        (b"secret\r\n", b"secret"),
        (b"secret\n\n", b"secret\n"),
        (b"secret\r\n\r\n", b"secret\r\n"),
        (b"secret\r", b"secret\r"),
        (b"secret\n\r", b"secret\n\r"),
        (b" secret \n", b" secret "),
        (b"two\nlines\n", b"two\nlines"),
        (b"\xff\x00\xfe\n", b"\xff\x00\xfe"),
        (b"x" * MAX_PASSWORD_LENGTH + b"\r\n", b"x" * MAX_PASSWORD_LENGTH),
    ],
)
def test_password_file_loses_exactly_one_newline(tmp_path, content, expected):
    path = tmp_path / "password"
    path.write_bytes(content)
    assert read_password_file(path) == expected


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"x" * (MAX_PASSWORD_LENGTH + 1), b"x" * 1_000_000])
def test_password_file_empty_or_absurd_is_refused(tmp_path, content):
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        read_password_file(path)


def test_password_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_password_file(tmp_path / "missing")
    with pytest.raises(UsageError, match="cannot be read"):
        read_password_file(tmp_path)


def test_password_comes_whole_through_a_pipe_in_pieces():
    reading, writing = os.pipe()
    asked = threading.Event()

    def write():
        os.write(writing, b"sec")
        asked.wait(5)
        os.write(writing, b"ret\r")
        os.write(writing, b"\n")
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    asked.set()
    try:
        assert read_password_file(Path(f"/dev/fd/{reading}")) == b"secret"
    finally:
        thread.join()
        os.close(reading)


@given(st.binary())
def test_strip_newline_takes_at_most_one(content):
    stripped = strip_newline(content)
    assert content in (stripped, stripped + b"\n", stripped + b"\r\n")
    if not content.endswith(b"\n"):
        assert stripped == content


@settings(max_examples=30, deadline=None)
@given(
    st.binary(min_size=1, max_size=64),
    st.binary(min_size=16, max_size=16),
    st.integers(8, 64),
    st.integers(1, 3),
)
def test_another_library_agrees(password, salt, memory_kib, iterations):
    found = hash_password(password, salt, KdfParameters(memory_kib, iterations, 1))
    other = Argon2id(salt=salt, length=32, iterations=iterations, lanes=1, memory_cost=memory_kib)
    assert found.raw == other.derive(password)


def test_default_is_the_second_option_of_rfc_9106():
    assert (DEFAULT_PARAMETERS.memory_kib, DEFAULT_PARAMETERS.iterations, DEFAULT_PARAMETERS.lanes) == (65536, 3, 4)


def test_each_input_makes_another_hash(cheap):
    base = hash_password(b"a", SALT, cheap)
    others = [
        hash_password(b"b", SALT, cheap),
        hash_password(b"a", SALT[::-1], cheap),
        hash_password(b"a", SALT, KdfParameters(16, 1, 1)),
        hash_password(b"a", SALT, KdfParameters(8, 2, 1)),
        hash_password(b"a", SALT, KdfParameters(16, 1, 2)),
    ]
    keys = {each.raw for each in (base, *others)} | {each.kek for each in (base, *others)}
    keys |= {each.verifier for each in (base, *others)}
    assert len(keys) == 18
    assert base.verifies(base.verifier)
    assert not any(base.verifies(each.verifier) for each in others)


def test_no_memory_is_an_error_that_says_so(monkeypatch, cheap):
    def refuse(**_):
        raise MemoryError

    monkeypatch.setattr("argon2.low_level.hash_secret_raw", refuse)
    with pytest.raises(JobFailed, match="memory") as caught:
        hash_password(b"hunter2-the-password", SALT, cheap)
    assert caught.value.__cause__ is None and "hunter2" not in str(caught.value)
