"""Two real connections over a fake wire. Everything is deterministic: keys and salts are fixed bytes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from protocol.data import HEADROOM, DataChannel, parse_preface
from protocol.errors import RemoteProtocolError
from protocol.limits import REKEY
from protocol.messages import Chunk

KEY_A, KEY_B, BINDING, SESSION = b"\xa0" * 32, b"\xb0" * 32, b"\xbb" * 32, b"\x5e" * 16
SALT, ANSWER_SALT = b"\x01" * 24, b"\x02" * 24


@dataclass
class Pair:
    """An initiator, an acceptor, and everything that was said before."""

    initiator: DataChannel
    acceptor: DataChannel
    preface: bytes = b""
    answer: bytes = b""
    log: list = field(default_factory=list)


def pair(channel=1, *, key=KEY_B, session=SESSION, binding=BINDING, salt=SALT, rekey=REKEY, ready=True):
    """Return two connected channels; channel 0 goes through Key A and Key B."""
    initiator = DataChannel.initiate(
        channel, session, KEY_A if channel == 0 else key, binding, salt, rekey=rekey
    )  # fmt: skip
    preface = initiator.data_to_send()
    acceptor = DataChannel.accept(
        parse_preface(preface), KEY_A if channel == 0 else key, binding, salt=ANSWER_SALT, rekey=rekey
    )
    answer = acceptor.data_to_send()
    made = Pair(initiator, acceptor, preface, answer)
    if ready:
        assert initiator.receive_data(answer) == []
        if channel == 0:
            (offered,) = acceptor.receive_data(initiator.switch_to_key_b(key))
            initiator.receive_data(acceptor.switch_to_key_b(offered.message.key))
    return made


def chunk(number=0, size=5, flags=0):
    return Chunk(id=bytes([number % 256]) * 32, codec=1, plain_length=size * 2, flags=flags), bytes(
        [number % 256]
    ) * size


def seal(channel, header, stored):
    return bytes(channel.seal_chunk(header, bytearray(HEADROOM) + stored))


def drain(channel, data):
    """Feed ``data`` and then the end; return the events before the error, and the error (None: a clean end)."""
    events = []
    try:
        for at in range(len(data)):
            events += channel.receive_data(data[at : at + 1])
        channel.eof()
    except RemoteProtocolError as error:
        return events, error
    return events, None


@pytest.fixture(scope="session")
def wire():
    return SimpleNamespace(
        pair=pair, chunk=chunk, seal=seal, drain=drain, KEY_A=KEY_A, KEY_B=KEY_B, BINDING=BINDING, SESSION=SESSION,
        SALT=SALT, ANSWER_SALT=ANSWER_SALT,
    )  # fmt: skip


def load(path):
    """Import a script that is no part of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def script():
    root = Path(__file__).parents[2]
    return lambda name: load(root / name)
