"""Throw fuzzed bytes at the protocol: nothing but documented errors may come out, and memory stays flat.

    python tests/fuzz/fuzz_protocol.py --count 1000000 --seed 1
    python tests/fuzz/fuzz_protocol.py --seed 1 --only 4711       one case again

A case is a control message, a data channel's stream or a preface: a valid one that was mutated, one of valid shape with
fuzzed contents (what a peer that holds the keys can send), or random bytes. Exit status 1 if anything else came out.
"""

from __future__ import annotations

import argparse
import random
import resource
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from protocol import codec, limits, states
from protocol.control import ControlConnection
from protocol.data import HEADROOM, DataChannel, parse_preface
from protocol.errors import RemoteProtocolError
from protocol.fields import Between, Flag, ListOf, OneOf, Sized, Text
from protocol.frame import _BY_TYPE, encode
from protocol.limits import RekeyLimits
from protocol.messages import CONTROL_MESSAGES, DATA_MESSAGES, Chunk, Commit, Message

KEY, BINDING, SESSION, SALT = b"k" * 32, b"b" * 32, b"s" * 16, b"n" * 24
SMALL_EPOCHS = RekeyLimits(frames=4, sealed_bytes=4096)
# Peaks come early (one frame of 4 MiB, one list of rows); what grows after a tenth of the cases is a leak.
GROWTH_ALLOWED_KIB = 16 * 1024


OTHER = {states.INITIATOR: states.PROVIDER, states.PROVIDER: states.INITIATOR}
ANYWHERE = [(state, sender) for state in states.CONTROL if state != states.CONTROL_CLOSED for sender in OTHER]
# Where each message may be sent, and by whom.
PLACES = {name: list(ANYWHERE) for name in states.HEARTBEAT} | {
    kind.__name__: [
        (state, sender)
        for state, row in states.CONTROL.items()
        for sender, event in row
        if event.split()[0] == kind.__name__
    ]
    for kind in CONTROL_MESSAGES
    if kind.__name__ not in states.HEARTBEAT
}


def value_for(rng: random.Random, rule: Any) -> Any:
    """Return a valid value of a field."""
    if isinstance(rule, Between):
        return rng.choice((rule.low, rule.high, rng.randint(rule.low, rule.high)))
    if isinstance(rule, Sized):
        if rule.empty and rng.random() < 0.3:
            return b""
        steps = rng.randint(-(-rule.low // rule.step), min(rule.high, rule.low + 8 * rule.step) // rule.step)
        return rng.randbytes(steps * rule.step)
    if isinstance(rule, Text):
        return "".join(rng.choice("abc é/日") for _ in range(rng.randint(0, min(20, rule.high // 3))))
    if isinstance(rule, OneOf):
        return rng.choice(sorted(rule.words))
    if isinstance(rule, Flag):
        return rng.random() < 0.5
    assert isinstance(rule, ListOf)
    return [value_for(rng, rule.item) for _ in range(rng.randint(0, min(3, rule.high)))]


def message_for(rng: random.Random, kind: type[Message]) -> tuple[Message, bytes]:
    """Return a valid message of ``kind`` and a valid payload."""
    table = _BY_TYPE[kind]
    fields = table.header + ((table.in_payload,) if table.in_payload else ())
    values = {name: value_for(rng, check.__self__) for name, check in fields}  # type: ignore[attr-defined]
    payload = b"" if table.in_payload or not kind.PAYLOAD else rng.randbytes(rng.choice((0, 1, 50, 500)))
    return kind(**values), payload


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Return any msgpack value, of any wrong type."""
    pick = rng.randrange(11 if depth < 4 else 8)
    if pick < 8:
        return (
            None, True, rng.getrandbits(rng.randrange(1, 64)), -rng.getrandbits(31), 1.5,
            rng.randbytes(rng.choice((0, 16, 32, 33))), "\x1b[2J", "x" * rng.choice((1, 64, 201, 3000)),
        )[pick]  # fmt: skip
    if pick == 8:
        return [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    if pick == 9:
        return {rng.choice(("id", "batch", "é")): junk(rng, depth + 1)}
    return [[]] * rng.choice((0, 20, 300))


def fuzzed_header(rng: random.Random, header: bytes) -> bytes:
    """Return a header with one thing wrong, or maybe nothing."""
    pick = rng.randrange(7)
    if pick <= 2:
        fields = codec.unpack(header)
        names = [*fields, "unknown"]
        for _ in range(rng.randint(1, 2)):
            fields[rng.choice(names)] = junk(rng)
        if rng.random() < 0.3:
            fields.pop(rng.choice(names), None)
        return codec.pack(fields)
    if pick == 3:
        return mutated(rng, header)
    if pick == 4:
        return codec.pack(junk(rng))
    if pick == 5:
        bomb = rng.choice(
            (b"\x91", b"\x81\xa1a", b"\xdd\x00\x00\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc9", b"\xc6\x7f")
        )
        return bomb * rng.choice((1, 5, 600, 12000))
    # A key twice.
    count = header[0] & 0x0F if header and header[0] & 0xF0 == 0x80 else 0
    return bytes([0x80 | min(count + 2, 15)]) + header[1:] + codec.pack("id") + b"\x01" + codec.pack("id") + b"\x02"


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return ``data`` with bits flipped, bytes cut out, doubled, added or replaced."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(out) + 1)
        pick = rng.randrange(6)
        if pick <= 1 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif pick == 2:
            del out[at:]
        elif pick == 3:
            del out[at : at + rng.randrange(1, 8)]
        elif pick == 4:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif at < len(out):
            out[at : at + 4] = struct.pack(">I", rng.choice((0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, len(out))))
    return bytes(out)


def fuzzed_body(rng: random.Random, like: type[Message]) -> bytes:
    """Return a frame's body: valid framing, fuzzed contents."""
    message, payload = message_for(rng, like)
    front = encode(message, payload)[0]
    rest = bytes(encode(message, payload)[1])
    if rng.random() < 0.2:
        return front + rest
    header = fuzzed_header(rng, front[3:])[: limits.MAX_HEADER]
    kind = message.KIND if rng.random() < 0.9 else rng.randrange(256)
    length = len(header) if rng.random() < 0.95 else rng.randrange(0x10000)
    return struct.pack(">BH", kind, length) + header + rest


def expect_message(message: Message, payload: memoryview) -> None:
    """What was accepted must be something that we could have sent."""
    encode(message, b"" if _BY_TYPE[type(message)].in_payload else payload)


def control_case(rng: random.Random) -> str:
    """One WebSocket message, in any state, as either side."""
    like = rng.choice(CONTROL_MESSAGES)
    state, sender = rng.choice(PLACES[like.__name__] if rng.random() < 0.8 else ANYWHERE)
    connection = ControlConnection(OTHER[sender])
    connection.state = state
    if rng.random() < 0.8:
        connection._open = {
            (side, reply): 1 for side in (states.INITIATOR, states.PROVIDER) for reply in states.ANSWERS
        }
    pick = rng.random()
    if pick < 0.1:
        data = rng.randbytes(rng.randrange(60))
    else:
        body = fuzzed_body(rng, like)
        data = struct.pack(">I", len(body)) + body
        if pick < 0.4:
            data = mutated(rng, data)
    if rng.random() < 0.0005:
        data += bytes(limits.MAX_CONTROL_MESSAGE)
    try:
        received = connection.receive_data(data)
    except RemoteProtocolError as error:
        assert connection.state == states.CONTROL_CLOSED
        return type(error).__name__
    for each in received:
        expect_message(each.message, each.payload)
    return "accepted"


def data_case(rng: random.Random) -> str:
    """A data channel's stream: frames that a holder of the keys sealed over fuzzed bodies, then perhaps mutated."""
    number = rng.choice((0, 1))
    one = DataChannel.initiate(number, SESSION, KEY, BINDING, SALT, rekey=SMALL_EPOCHS)
    two = DataChannel.accept(parse_preface(one.data_to_send()), KEY, BINDING, salt=SALT, rekey=SMALL_EPOCHS)  # type: ignore[arg-type]
    answer = two.data_to_send()
    if rng.random() < 0.5:
        sender, receiver, stream = one._send, two, b""
    else:
        sender, receiver, stream = two._send, one, answer
    if number == 0 and rng.random() < 0.7:
        # Beyond the handshake: as if Key B had been agreed on, without its cost.
        receiver._state = dict.fromkeys(receiver._state, "OPEN")
    for _ in range(rng.randrange(1, 5)):
        pick = rng.random()
        if pick < 0.1:
            body = rng.randbytes(rng.randrange(40))
        elif pick < 0.5:
            front, rest = encode(*message_for(rng, Chunk))
            body = front + bytes(rest)
        else:
            body = fuzzed_body(rng, rng.choice(DATA_MESSAGES))
        stream += sender.seal(body)
    pick = rng.random()
    if pick < 0.4:
        stream = mutated(rng, stream)
    elif pick < 0.45:
        stream += rng.randbytes(rng.randrange(1, 30))
    try:
        for event in feed(rng, receiver, stream):
            expect_message(event.message, event.payload)
        receiver.eof()
    except RemoteProtocolError as error:
        assert receiver.dead
        return type(error).__name__ + (f" ({error.failed})" if hasattr(error, "failed") else "")
    return "accepted"


def feed(rng: random.Random, receiver: DataChannel, stream: bytes) -> list[Any]:
    """Hand over ``stream`` in pieces."""
    cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.randrange(4)))
    events = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += receiver.receive_data(stream[start:end])
    return events


PREFACE = DataChannel.initiate(3, SESSION, KEY, BINDING, SALT).data_to_send()


def preface_case(rng: random.Random) -> str:
    """A preface, and the channel that it would open."""
    data = rng.randbytes(rng.randrange(100)) if rng.random() < 0.1 else mutated(rng, PREFACE)
    try:
        preface = parse_preface(data)
        if preface is None:
            return "incomplete"
        DataChannel.accept(preface, KEY, BINDING, salt=SALT)
    except RemoteProtocolError as error:
        return type(error).__name__
    return "accepted"


CASES: tuple[tuple[str, Callable[[random.Random], str]], ...] = (
    ("control", control_case), ("data", data_case), ("control", control_case), ("data", data_case),
    ("preface", preface_case),
)  # fmt: skip


def run_case(seed: int, index: int, rng: random.Random) -> str:
    """Run one case; return where it went and what came out. Raises whatever is not documented."""
    rng.seed(seed << 40 | index)
    name, case = CASES[index % len(CASES)]
    return f"{name}: {case(rng)}"


def largest_message() -> None:
    """Take the largest messages once, so that the peak of a small campaign is not a matter of luck."""
    connection = ControlConnection.provider()
    connection.state = "BACKUP"
    front, _ = encode(Commit(point=bytes(16)))
    body = front + bytes(limits.MAX_HEAD)
    connection.receive_data(struct.pack(">I", len(body)) + body)
    one = DataChannel.initiate(1, SESSION, KEY, BINDING, SALT)
    two = DataChannel.accept(parse_preface(one.data_to_send()), KEY, BINDING)  # type: ignore[arg-type]
    header = Chunk(id=bytes(32), codec=0, plain_length=0)
    two.receive_data(one.seal_chunk(header, bytearray(HEADROOM + limits.MAX_CHUNK_PAYLOAD)))


def peak_kib() -> int:
    """Return the peak of this process's resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def campaign(count: int, seed: int, only: int | None = None) -> int:
    """Run ``count`` cases, print a summary, return the exit status."""
    rng = random.Random()
    outcomes: Counter[str] = Counter()
    failures = 0
    early = 0
    began = time.monotonic()
    largest_message()
    for index in range(count) if only is None else [only]:
        if index == count // 10:
            early = peak_kib()
        try:
            outcomes[run_case(seed, index, rng)] += 1
        except Exception:
            failures += 1
            outcomes["UNDOCUMENTED"] += 1
            if failures <= 5:
                print(f"--- case {index} of seed {seed} ---", file=sys.stderr)
                traceback.print_exc()
    seconds = time.monotonic() - began
    late = peak_kib()
    for outcome, times in sorted(outcomes.items()):
        print(f"{times:>10}  {outcome}")
    total = sum(outcomes.values())
    print(f"{total} cases in {seconds:.1f} s, seed {seed}, {failures} undocumented outcomes")
    grown = late - early if only is None else 0
    print(f"peak memory after a tenth of them {early // 1024} MiB, at the end {late // 1024} MiB")
    if grown > GROWTH_ALLOWED_KIB:
        print(f"memory grew by {grown // 1024} MiB")
    return 1 if failures or grown > GROWTH_ALLOWED_KIB else 0


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Fuzz the protocol.")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int)
    arguments = parser.parse_args()
    return campaign(arguments.count, arguments.seed, arguments.only)


if __name__ == "__main__":
    sys.exit(main())
