"""Frames between a daemon and its worker processes."""

from __future__ import annotations

import errno
import socket
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter import errors
from transporter.jobs.worker_process import failure_to_error
from transporter.workloads.worker import Channel, failure
from transporter.workloads.worker_channel import Failed, FrameSplitter, encode_frame
from transporter.workloads.write_messages import Finish, Open, Order, Publish, Skip, Wish


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(0, 2000), max_size=12))
def test_any_split_gives_the_same_frames(bodies, cuts):
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    splitter = FrameSplitter()
    found = []
    for start, end in pairwise(places):
        found += splitter.feed(stream[start:end])
    assert found == bodies


def test_orders_arrive_as_they_were_sent_until_the_other_end_closes():
    ours, theirs = socket.socketpair()
    orders = [Open(b"/out", "p", [b"r"], Wish(include=["*.c"]), bytes(32)), Skip(3, "lost"), Finish(), Publish()]
    with ours:
        for order in orders:
            ours.sendall(encode_frame(order))
    with theirs:
        channel = Channel(theirs, msgspec.msgpack.Decoder(Order))
        assert list(channel.receive()) == orders
        channel.send(Failed("job-failed", "nobody hears it"))


@pytest.mark.parametrize("kind", [kind for kind in errors.all_errors() if kind.__module__ == errors.__name__])
def test_an_error_crosses_as_itself(kind):
    crossed = failure_to_error(failure(kind("what", "remedy")))
    assert type(crossed) is kind
    assert (crossed.what, crossed.remedy) == ("what", "remedy")


def test_what_the_system_says_crosses_with_its_number():
    crossed = failure_to_error(failure(OSError(errno.ENOSPC, "no room")))
    assert isinstance(crossed, OSError)
    assert (crossed.errno, crossed.strerror) == (errno.ENOSPC, "no room")


def test_a_bug_is_told_by_its_type_alone_and_traced_in_the_log(capsys):
    try:
        raise KeyError("a secret")
    except KeyError as error:
        crossed = failure_to_error(failure(error))
    assert type(crossed) is errors.TransporterError
    assert "KeyError" in crossed.what
    assert "secret" not in str(crossed)
    assert "Traceback" in capsys.readouterr().err
