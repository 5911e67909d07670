"""Make the frozen vectors of the protocol. Run by hand, once for each new kind of case; never by the tests.

    python tests/vectors/protocol/make.py DIRECTORY

A case that is already there is never made again: it is what the wire looked like when it was frozen, and later code
must still take it (a message that got a field since then gets a further case). Each case carries the class of its
outcome: "ok", or the name of the error (and the check).
"""

from __future__ import annotations

import dataclasses
import json
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from protocol.channel_keys import answer_salt, binding, derive, key_b_proof
from protocol.data import HEADROOM, DataChannel, parse_preface
from protocol.frame import encode
from protocol.keeping_messages import (
    Chain,
    GetChain,
    PinPoint,
    PointPinned,
    PointsRemoved,
    PointUndeleted,
    RemovePoints,
    UndeletePoint,
)
from protocol.limits import RekeyLimits
from protocol.messages import (
    Chunk,
    Commit,
    CommitCopy,
    CommitPlain,
    Committed,
    CopiedTo,
    CopyHead,
    CopyTo,
    Digests,
    FetchForms,
    Fin,
    Flush,
    Flushed,
    Forms,
    Get,
    GetCopy,
    GetDigests,
    GetForms,
    GetLost,
    GetNeeds,
    GetPoint,
    GetSlots,
    Have,
    HaveReply,
    Hello,
    Incoming,
    KeyB,
    KeyBProof,
    Limit,
    ListPoints,
    Lost,
    Mandate,
    Mandated,
    Message,
    Missing,
    Needs,
    NeedsPart,
    Pair,
    Paired,
    Park,
    Parked,
    Piece,
    Ping,
    PointHead,
    Points,
    Pong,
    Progress,
    PutSlot,
    PutSlots,
    Reach,
    Ready,
    Refused,
    Rekey,
    Slots,
    SlotsPut,
    SlotStored,
    Start,
    Started,
    StatusReply,
    StatusRequest,
    Stop,
    Stopped,
    Stored,
    Tickets,
)
from protocol.transform_messages import FoldPoint, PointFolded

KEY_A, KEY_B = bytes(range(32)), bytes(range(32, 64))
SESSION, SALT, ANSWER = bytes(range(64, 80)), bytes(range(80, 104)), bytes(range(104, 128))
ID1, ID2, POINT = b"\x11" * 32, b"\x22" * 32, b"\x33" * 16
BINDING = binding(b"\x01" * 32, b"\x02" * 32, b"\x03" * 32)
TINY = {"frames": 3, "sealed_bytes": 1 << 30}


def shown(value: Any) -> Any:
    """Return a value as JSON has it: bytes become {"hex": …}."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"hex": bytes(value).hex()}
    return [shown(item) for item in value] if isinstance(value, list) else value


def fields(message: Message) -> dict[str, Any]:
    """Return a message as JSON."""
    values = {field.name: shown(getattr(message, field.name)) for field in dataclasses.fields(message)}  # type: ignore[arg-type]
    return {"message": type(message).__name__, "fields": values}


def derivations() -> list[dict[str, Any]]:
    """Return the key schedule."""
    cases: list[dict[str, Any]] = []
    for name, key, direction, channel, epoch, session, salt in (
        ("channel 0 under Key A", KEY_A, b"\0", 0, 0, SESSION, SALT),
        ("channel 0 under Key B", KEY_B, b"\0", 0, 0, SESSION, SALT),
        ("the acceptor's direction", KEY_B, b"\1", 0, 0, SESSION, answer_salt(SALT, ANSWER)),
        ("another channel", KEY_B, b"\0", 31, 0, SESSION, SALT),
        ("another epoch", KEY_B, b"\0", 0, 1, SESSION, SALT),
        ("the last epoch", KEY_B, b"\0", 0, 0xFFFFFFFF, SESSION, SALT),
        ("zeros", bytes(32), b"\0", 0, 0, bytes(16), bytes(24)),
    ):
        made = derive(key, direction, channel, epoch, session, salt, BINDING)
        cases.append(
            {
                "name": name,
                "outcome": "ok",
                "input_key": key.hex(),
                "direction": direction.hex(),
                "channel": channel,
                "epoch": epoch,
                "session": session.hex(),
                "salt": salt.hex(),
                "binding": BINDING.hex(),
                "key": made.key.hex(),
                "base_nonce": made.base_nonce.hex(),
                "commitment": made.commitment.hex(),
            }
        )
    return cases


def helpers() -> list[dict[str, Any]]:
    """Return the small derivations beside it."""
    names = ["01" * 32, "02" * 32, "03" * 32]
    salts, proof = [SALT.hex(), ANSWER.hex()], [KEY_B.hex(), SESSION.hex(), BINDING.hex()]
    return [
        {"name": "binding", "outcome": "ok", "function": "binding", "inputs": names, "output": BINDING.hex()},
        {
            "name": "binding, an identity too short",
            "outcome": "LocalProtocolError",
            "function": "binding",
            "inputs": [names[0][2:], *names[1:]],
        },
        {
            "name": "answer_salt",
            "outcome": "ok",
            "function": "answer_salt",
            "inputs": salts,
            "output": answer_salt(SALT, ANSWER).hex(),
        },
        {
            "name": "key_b_proof",
            "outcome": "ok",
            "function": "key_b_proof",
            "inputs": proof,
            "output": key_b_proof(KEY_B, SESSION, BINDING).hex(),
        },
    ]


MESSAGES: list[tuple[Message, bytes]] = [
    (Hello(1, 1, "source", "transporter/1"), b""),
    (Hello(0, 65535, "Zürich", ""), b""),
    (Pair(ID1, "node"), b""),
    (Paired("target", ["main", "cold"], "tenant"), b""),
    (Ping(0), b""),
    (Ping((1 << 63) - 1), b""),
    (Pong(7), b""),
    (Start("backup", "job", "main", "source", "", b"", POINT, "tree"), b""),
    (Start("recovery", "job", "main", "none", point=POINT), b""),
    (Start("backup", "j", "r", "target", "pw"), b""),
    (Start("backup", "job", "main", "none", resume=POINT, acceleration=True), b""),
    (Started(SESSION, KEY_A, b"\x44" * 16), b""),
    (Started(SESSION, KEY_A, b"\x44" * 16, ID2, POINT, 1 << 40, POINT, "tenant", ID1, True), b""),
    (Ready(), b""),
    (Have(1, b""), b""),
    (Have(4294967295, ID1 + ID2), b""),
    (HaveReply(1, b"\0\1", [ID1]), b""),
    (Stored(ID1 + ID2), b""),
    (Get(3, ID1), b""),
    (Get(3, ID1, ID2 + ID1), b""),
    (Missing(ID1, "damaged"), b""),
    (Flush(), b""),
    (Flushed(), b""),
    (Needs(ID2 + ID1), b""),
    (PutSlot(POINT, b"\x55" * 16), b"slot"),
    (SlotStored(b"\x55" * 16), b""),
    (Commit(POINT), b"head"),
    (CommitPlain(POINT), b"head"),
    (Committed(POINT, ID1), b""),
    (ListPoints("main", ""), b""),
    (Points(True), b"\x90"),
    (Points(False), b"\x90"),
    (GetPoint("main", "job", POINT), b""),
    (PointHead(POINT, [b"slot one", b"two"]), b"head"),
    (Stop("done"), b""),
    (Stopped(1, 2, 3, 4), b""),
    (Refused("quota-exceeded", "no room is left", "ask for more"), b""),
    (StatusRequest(), b""),
    (StatusReply(), b"\x80"),
    (Progress("writing", 5, 10), b""),
    (Pair(ID1, "node", True, "office.example.org:6180", ID2, "main"), b""),
    (Park(POINT), b""),
    (Parked(), b""),
    (Reach(ID1, 32), b""),
    (Tickets(ID1 + ID2), b""),
    (Incoming(ID1, ID2), b""),
    (GetSlots("main", "docs", ID1), b""),
    (Slots(ID1[:16], "office-1a2b"), b"\x90"),
    (PutSlots("main", "docs"), b"\x90"),
    (SlotsPut(1_700_000_000_000_000_000), b""),
    (Limit(0), b""),
    (Limit(2_500_000), b""),
    (KeyB(KEY_B), b""),
    (KeyBProof(ID1), b""),
    (Chunk(ID1, 1, 1 << 20), b"stored"),
    (Chunk(ID2, 0, 0, 1), b""),
    (Rekey(1, ID2), b""),
    (Fin(12, 3456), b""),
    (Piece(ID1, 2, 1 << 20, 100_000, 1), b"stored"),
    (Start("backup", "job", "main", "source", resume=POINT, pieces=True, head=True), b""),
    (Started(SESSION, KEY_A, b"\x44" * 16, parent=POINT, slots=[b"slot"]), b"head"),
    (Start("copy-in", "docs", "main", "source", resume=POINT, name=b"\x66" * 16), b""),
    (Start("copy-seal", "docs", "main", "target", "vault", resume=POINT, name=b"\x66" * 16), b""),
    (Start("copy-out", "", "main", "source"), b""),
    (Missing(ID1, "damaged", ID2), b""),
    (GetCopy("docs", POINT), b""),
    (CopyHead(POINT, b"\x66" * 16, "office-1a2b", 1 << 60, ID1, 3, b"\x55" * 16, [b"slot"]), b"head"),
    (GetNeeds(4096), b""),
    (NeedsPart(ID1 + ID2), b""),
    (GetForms(ID1 + ID2), b""),
    (Forms(), b"\0\1" + ID1),
    (GetDigests(b"\x44" * 16, ID1 + ID2), b""),
    (Digests(ID1), b""),
    (FetchForms(ID1 + ID2), b""),
    (CommitCopy(POINT, b"\x66" * 16, "office-1a2b", 1 << 60, ID1, True), b"head"),
    (Mandate(), b"mandate"),
    (Mandated(), b""),
    (CopyTo("main", "docs", ID1), b"mandate"),
    (CopiedTo(1, 20, 10, 1 << 20, 1 << 19, 600_000), b""),
    (CopyTo("main", "docs", ID1, 1_000_000), b"mandate"),
    (Started(SESSION, KEY_A, b"\x44" * 16, parent=POINT, chain=ID1, slots=[b"slot"]), b"head"),
    (GetChain("main", "docs", 16_384), b""),
    (Chain(3, 1 << 60, 604_800, True), b"\x90"),
    (RemovePoints("main", "docs", POINT + SESSION, True), b""),
    (PointsRemoved(), b"\x90"),
    (PinPoint("main", "docs", POINT, "before the migration"), b""),
    (PinPoint("main", "docs", POINT, "before the migration", True, "office-1a2b", 1 << 60), b""),
    (PointPinned(True), b""),
    (UndeletePoint("main", "docs", POINT), b""),
    (PointUndeleted(), b""),
    (FoldPoint("main", "docs", POINT, SESSION, "vault", [b"slot"]), b"head"),
    (PointFolded(ID1), b""),
    (GetLost(), b""),
    (Lost(ID1 + ID2 + b"\x01" + bytes(28)), b""),
]


def bodies() -> list[dict[str, Any]]:
    """Return the bodies of frames: one of each message, and malformed ones."""
    cases: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    for message, payload in MESSAGES:
        front, rest = encode(message, payload)
        seen[type(message).__name__] += 1
        cases.append(
            {
                "name": f"{type(message).__name__} {seen[type(message).__name__]}",
                "canonical": True,
                "outcome": "ok",
                "body": (front + bytes(rest)).hex(),
                **fields(message),
                "payload": payload.hex(),
            }
        )
    ping = b"\x81\xa5token\x07"
    for name, kind, header, payload in (
        ("unknown fields are skipped", 4, b"\x82\xa5token\x07\xa5later\x91\xc4\x01x", b""),
        ("fields in another order, integers in long form", 5, b"\x81\xa5token\xcf" + struct.pack(">Q", 7), b""),
    ):
        message = Ping(7) if kind == 4 else Pong(7)
        cases.append(
            {"name": name, "outcome": "ok", "body": body(kind, header, payload).hex(), **fields(message), "payload": ""}
        )
    for name, data in (
        ("empty", b""),
        ("no header length", b"\x04\x00"),
        ("header longer than the frame", b"\x04\x00\x09" + ping),
        ("no header", b"\x04\x00\x00"),
        ("kind 0", body(0, ping)),
        ("kind 255", body(255, ping)),
        ("a payload where none belongs", body(4, ping, b"x")),
        ("a header that is no map", body(4, b"\x91\x07")),
        ("something after the header's end", body(4, ping + b"\xc0")),
        ("a field is missing", body(4, b"\x80")),
        ("a field twice", body(4, b"\x82\xa5token\x07\xa5token\x07")),
        ("a boolean for a number", body(4, b"\x81\xa5token\xc3")),
        ("a float for a number", body(4, b"\x81\xa5token\xcb" + struct.pack(">d", 7))),
        ("a negative number", body(4, b"\x81\xa5token\xff")),
        ("a number of 64 bits", body(4, b"\x81\xa5token\xcf" + b"\xff" * 8)),
        ("a string for binary", body(22, b"\x81\xa4slot\xb0" + b"x" * 16)),
        ("a binary too short", body(22, b"\x81\xa4slot\xc4\x0f" + b"x" * 15)),
        ("a key that is binary", body(4, b"\x81\xc4\x05token\x07")),
        ("an extension", body(4, b"\x82\xa5token\x07\xa1x\xd4\x01\x00")),
        ("a timestamp", body(4, b"\x82\xa5token\x07\xa1x\xd6\xff" + bytes(4))),
        ("not UTF-8", body(4, b"\x82\xa5token\x07\xa1x\xa1\xff")),
        ("too deep", body(4, b"\x82\xa5token\x07\xa1x" + b"\x91" * 4 + b"\xc0")),
        ("a bomb", body(4, b"\x91" * 2000)),
        ("4 GiB announced", body(4, b"\x81\xa5token\xc6\xff\xff\xff\xff")),
        (
            "a zone that is none",
            body(10, encode(Start("backup", "j", "r", "none"))[0][3:].replace(b"\xa4none", b"\xa4gone")),
        ),
        ("a terminal escape in a name", body(1, encode(Hello(1, 1, "abcd", ""))[0][3:].replace(b"abcd", b"\x1b[2J"))),
        ("31 bytes of ids", body(20, b"\x80", bytes(31))),
    ):
        cases.append({"name": name, "outcome": "RemoteProtocolError", "body": data.hex()})
    return cases


def body(kind: int, header: bytes, payload: bytes = b"") -> bytes:
    """Return a body made by hand."""
    return struct.pack(">BH", kind, len(header)) + header + payload


class Recorded:
    """A channel whose both directions were recorded."""

    def __init__(self, number: int, rekey: dict[str, int] | None = None) -> None:
        self.rekey = rekey
        self.number = number
        limits = {"rekey": RekeyLimits(**rekey)} if rekey else {}
        key = KEY_A if number == 0 else KEY_B
        self.initiator = DataChannel.initiate(number, SESSION, key, BINDING, SALT, **limits)
        self.preface = self.initiator.data_to_send()
        preface = parse_preface(self.preface)
        assert preface is not None
        self.acceptor = DataChannel.accept(preface, key, BINDING, salt=ANSWER, **limits)
        self.to_acceptor: list[bytes] = []
        self.to_initiator = [self.acceptor.data_to_send()]
        if number == 0:
            self.to_acceptor.append(self.initiator.switch_to_key_b(KEY_B))
            self.acceptor.receive_data(self.to_acceptor[0])
            self.to_initiator.append(self.acceptor.switch_to_key_b(KEY_B))
            self.initiator.receive_data(b"".join(self.to_initiator))
        for n in range(3):
            memory = bytearray(HEADROOM) + bytes([n]) * (n * 7)
            self.to_acceptor.append(bytes(self.initiator.seal_chunk(Chunk(ID1, n, n * 9, n % 2), memory)))
            self.to_initiator.append(self.acceptor.seal(Chunk(ID2, 1, n), bytes([n]) * n))
        self.to_acceptor.append(self.initiator.finish())
        self.to_initiator.append(self.acceptor.finish())

    def case(self, name: str, outcome: str, role: str, stream: bytes, events: int) -> dict[str, Any]:
        """Return a case: what ``role`` receives, what comes of it, and how many events come out before that."""
        return {
            "name": f"{name}, to the {role}",
            "outcome": outcome,
            "role": role,
            "channel": self.number,
            "input_key": (KEY_A if self.number == 0 else KEY_B).hex(),
            "key_b": KEY_B.hex(),
            "session": SESSION.hex(),
            "binding": BINDING.hex(),
            "salt": SALT.hex(),
            "acceptor_salt": ANSWER.hex(),
            "rekey": self.rekey,
            "preface": self.preface.hex(),
            "stream": stream.hex(),
            "events": events,
        }


def flip(data: bytes, at: int) -> bytes:
    """Return ``data`` with one bit flipped."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def channels() -> list[dict[str, Any]]:
    """Return whole directions of data channels: honest ones and attacked ones."""
    cases: list[dict[str, Any]] = []
    for number, rekey in ((0, None), (1, None), (31, None), (0, TINY), (1, TINY)):
        made, first = Recorded(number, rekey), int(number == 0)
        name = f"channel {number}" + (", epochs of 3 frames" if rekey else "")
        cases.append(made.case(name, "ok", "acceptor", b"".join(made.to_acceptor), first + 4))
        cases.append(made.case(name, "ok", "initiator", b"".join(made.to_initiator), first + 4))
    one, zero = Recorded(1), Recorded(0)
    out, back = one.to_acceptor, one.to_initiator
    whole = b"".join(out)
    attacks = [
        ("no FIN", "TruncatedError", b"".join(out[:-1]), 3),
        ("a frame cut short", "TruncatedError", whole[:-1], 3),
        ("nothing at all", "TruncatedError", b"", 0),
        ("first frames swapped", "TamperingError tag", out[1] + out[0], 0),
        ("a frame twice", "TamperingError tag", out[0] + out[0], 1),
        ("a frame left out", "TamperingError tag", out[0] + out[2], 1),
        ("a bit of a body", "TamperingError tag", flip(whole, 10), 0),
        ("a bit of a tag", "TamperingError tag", flip(out[0], len(out[0]) - 1), 0),
        ("a bit of a length", "TamperingError tag", flip(whole, 3), 0),
        ("a length too long", "TamperingError length", b"\x7f" + whole[1:], 0),
        ("a length of 0", "TamperingError length", bytes(4), 0),
        ("bytes after FIN", "TamperingError trailing", whole + b"\0", 4),
        ("a frame of channel 0", "TamperingError tag", zero.to_acceptor[1], 0),
        ("its own frames", "TamperingError tag", back[1], 0),
    ]
    cases += [one.case(name, outcome, "acceptor", stream, events) for name, outcome, stream, events in attacks]
    cases += [
        one.case("a bit of the answer's salt", "TamperingError commitment", "initiator", flip(back[0], 0), 0),
        one.case("a bit of the answer's commitment", "TamperingError commitment", "initiator", flip(back[0], 55), 0),
        one.case("the preface instead of an answer", "TamperingError commitment", "initiator", one.preface, 0),
        zero.case("Key B with a wrong bit", "TamperingError tag", "acceptor", flip(zero.to_acceptor[0], 30), 0),
    ]
    sealer = Recorded(1)
    for name, outcome, bodies_sealed, events in (
        ("FIN with wrong totals", "RemoteProtocolError", [encode(Fin(1, 0))[0]], 0),
        ("Key B on channel 1", "RemoteProtocolError", [encode(KeyB(KEY_B))[0]], 0),
        ("a control message", "RemoteProtocolError", [encode(Ping(1))[0]], 0),
        ("Rekey with a strange commitment", "TamperingError commitment", [encode(Rekey(1, ID1))[0]], 0),
        ("Rekey to a later epoch", "RemoteProtocolError", [encode(Rekey(2, ID1))[0]], 0),
    ):
        fresh = DataChannel.initiate(1, SESSION, KEY_B, BINDING, SALT)
        stream = b"".join(fresh._send.seal(each) for each in bodies_sealed)
        cases.append(sealer.case(name, outcome, "acceptor", stream, events))
    return cases


def prefaces() -> list[dict[str, Any]]:
    """Return prefaces, good and bad."""
    good = Recorded(3).preface
    cases: list[dict[str, Any]] = [
        {"name": "whole", "outcome": "ok", "data": good.hex(), "channel": 3, "session": SESSION.hex()},
        {"name": "more follows", "outcome": "ok", "data": (good + b"x").hex(), "channel": 3, "session": SESSION.hex()},
    ]
    cases += [
        {"name": f"the first {size} bytes", "outcome": "incomplete", "data": good[:size].hex()}
        for size in (0, 1, 8, 9, 11, 82)
    ]
    cases += [
        {"name": name, "outcome": "RemoteProtocolError", "data": data.hex()}
        for name, data in (
            ("TLS", b"\x16\x03\x01\x02\x00"),
            ("HTTP", b"GET / HTTP/1.1\r\n"),
            ("wrong magic", flip(good, 7)),
            ("version 2", good[:8] + b"\2" + good[9:]),
            ("version 0", good[:8] + b"\0"),
            ("channel 32", good[:10] + b"\x20" + good[11:]),
        )
    ]
    cases += [
        {"name": name, "outcome": "TamperingError commitment", "data": flip(good, at).hex()}
        for name, at in (("channel", 10), ("session", 11), ("salt", 27), ("commitment", 51), ("last bit", 82))
    ]
    return cases


def main(directory: Path) -> None:
    """Append the cases whose names are new; those that are there stay as they are."""
    for name, cases in (
        ("derive", derivations()),
        ("helpers", helpers()),
        ("bodies", bodies()),
        ("channels", channels()),
        ("prefaces", prefaces()),
    ):
        path = directory / f"{name}.json"
        frozen = json.loads(path.read_text()) if path.exists() else []
        names = {case["name"] for case in frozen}
        frozen += [case for case in cases if case["name"] not in names]
        if len({case["name"] for case in frozen}) != len(frozen):
            raise SystemExit(f"{path.name}: a name occurs twice")
        path.write_text(json.dumps(frozen, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
