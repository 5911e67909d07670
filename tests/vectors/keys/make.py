"""Writes the frozen vectors of the key formats, version 1, from the byte tables of docs/security.md.

Independent on purpose: it imports nothing of the transporter, and takes HKDF from `hmac`, Argon2id from another library
than the transporter does. So a vector says what the format IS, not what the code happens to do. A test compares the
files beside it with what this writes; a file changes only together with a new format version.

    python tests/vectors/keys/make.py          writes *.json beside itself
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

Case = dict[str, Any]
PREFIX = b"transporter-pair v1 "
SALT = bytes(range(16))
WRAP_SALT = bytes(range(100, 132))
KEK = hashlib.sha256(b"vector kek").digest()
OTHER_KEK = hashlib.sha256(b"vector other kek").digest()
SECRET = hashlib.sha256(b"vector secret").digest()
OTHER_SECRET = hashlib.sha256(b"vector other secret").digest()
CHUNK_ID = hashlib.sha256(b"vector chunk id").digest()


def hkdf(secret: bytes, info: bytes, length: int = 32, salt: bytes = bytes(32)) -> bytes:
    extracted = hmac.digest(salt, secret, "sha256")
    block, out = b"", b""
    while len(out) < length:
        block = hmac.digest(extracted, block + info + bytes((len(out) // 32 + 1,)), "sha256")
        out += block
    return out[:length]


def bind(*parts: bytes) -> bytes:
    return len(parts).to_bytes(4, "big") + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def flip(data: bytes, index: int, mask: int = 1) -> bytes:
    changed = bytearray(data)
    changed[index] ^= mask
    return bytes(changed)


def wrap_body(kek: bytes, key: bytes, context: bytes, salt: bytes = WRAP_SALT) -> bytes:
    both = hkdf(kek, PREFIX + b"wrap", 64, salt)
    sealed = AESGCM(both[:32]).encrypt(bytes(12), key, bind(PREFIX + b"wrap", b"\x01", context))
    return b"\x01" + salt + both[32:] + sealed


def with_checksum(body: bytes) -> bytes:
    return body + blake3(body).digest(16)


def wrap(kek: bytes, key: bytes, context: bytes, salt: bytes = WRAP_SALT) -> bytes:
    return with_checksum(wrap_body(kek, key, context, salt))


def argon(password: bytes, salt: bytes, memory_kib: int, iterations: int, lanes: int) -> bytes:
    return Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory_kib).derive(password)


def kdf_cases() -> list[Case]:
    def case(name: str, expect: str, password: bytes, salt: bytes, *price: int) -> Case:
        row = {"name": name, "expect": expect, "password": password.hex(), "salt": salt.hex(), "price": list(price)}
        if expect == "ok":
            raw = argon(password, salt, *price)
            row |= {"raw": raw.hex(), "kek": hkdf(raw, PREFIX + b"password kek").hex()}
            row |= {"verifier": hkdf(raw, PREFIX + b"password verifier").hex()}
        return row

    return [
        case("smallest price", "ok", b"correct horse", SALT, 8, 1, 1),
        case("several lanes", "ok", b"correct horse", SALT, 64, 2, 4),
        case("RFC 9106 second option", "ok", b"correct horse", SALT, 65536, 3, 4),
        case("not UTF-8", "ok", b"\xff\x00\xfe", SALT, 8, 1, 1),
        case("a newline is part of it", "ok", b"correct horse\n", SALT, 8, 1, 1),
        case("composed", "ok", "é".encode(), SALT, 8, 1, 1),
        case("decomposed is another", "ok", b"e\xcc\x81", SALT, 8, 1, 1),
        case("empty", "UsageError", b"", SALT, 8, 1, 1),
        case("too long", "UsageError", b"a" * 4097, SALT, 8, 1, 1),
        case("salt of 15", "DamagedData", b"x", SALT[:15], 8, 1, 1),
        case("salt of 17", "DamagedData", b"x", SALT + b"x", 8, 1, 1),
        case("memory over 1 GiB", "DamagedData", b"x", SALT, 1024 * 1024 + 1, 1, 1),
        case("memory of 4 TiB", "DamagedData", b"x", SALT, 2**32 - 1, 1, 1),
        case("memory under 8 per lane", "DamagedData", b"x", SALT, 31, 1, 4),
        case("no iteration", "DamagedData", b"x", SALT, 8, 0, 1),
        case("17 iterations", "DamagedData", b"x", SALT, 8, 17, 1),
        case("no lane", "DamagedData", b"x", SALT, 8, 1, 0),
        case("17 lanes", "DamagedData", b"x", SALT, 1024, 1, 17),
    ]


def wrap_cases() -> list[Case]:
    place = bind(b"slot", b"tenant", b"r" * 16, b"p" * 16)
    good = wrap(KEK, SECRET, place)

    def case(name: str, expect: str, cryptogram: bytes, kek: bytes = KEK, context: bytes = place) -> Case:
        return {
            "name": name,
            "expect": expect,
            "kek": kek.hex(),
            "context": context.hex(),
            "cryptogram": cryptogram.hex(),
            "key": SECRET.hex(),
        }

    forged = with_checksum(wrap_body(KEK, SECRET, place)[:33] + bytes(32) + good[65:-16])
    return [
        case("good", "ok", good),
        case("another key", "WrongKey", good, OTHER_KEK),
        case("another context", "DamagedData", good, KEK, bind(b"slot", b"tenant", b"r" * 16, b"q" * 16)),
        case("parts of the context shifted", "DamagedData", good, KEK, bind(b"slot", b"tenantr", b"r" * 15, b"p" * 16)),
        case("checksum altered", "DamagedData", flip(good, -1)),
        case("salt altered", "DamagedData", flip(good, 1)),
        case("commitment altered", "DamagedData", flip(good, 33)),
        case("ciphertext altered", "DamagedData", flip(good, 65)),
        case("ciphertext altered, checksum made anew", "DamagedData", with_checksum(flip(good[:-16], 65))),
        case("tag altered, checksum made anew", "DamagedData", with_checksum(flip(good[:-16], -1))),
        case("commitment forged, checksum made anew", "WrongKey", forged),
        case("version 2", "DamagedData", with_checksum(b"\x02" + good[1:-16])),
        case("cut short", "DamagedData", good[:-1]),
        case("one byte more", "DamagedData", good + b"\0"),
        case("a key of 31 bytes", "DamagedData", wrap(KEK, SECRET[:31], place)),
        case("empty", "DamagedData", b""),
    ]


def seal(kind: str, counter: int, codec: int, plain_length: int, data: bytes, chunk_id: bytes = CHUNK_ID) -> bytes:
    secret, id_label = SECRET, kind.encode() + b" id"
    if kind == "file-system index":  # its key is derived from the metakey of the run
        secret, id_label = hkdf(SECRET, PREFIX + b"metakey file-system index"), b"file-system index key id"
    key_id = hkdf(secret, PREFIX + id_label)
    chunk_key = hkdf(secret, PREFIX + kind.encode() + b" chunks")
    header = b"\x01" + key_id + counter.to_bytes(8, "big")
    aad = header + chunk_id + bytes((codec,)) + plain_length.to_bytes(4, "big")
    return header + AESGCM(chunk_key).encrypt(bytes(4) + counter.to_bytes(8, "big"), data, aad)


def seal_cases() -> list[Case]:
    data = bytes(range(256)) * 3

    def case(name: str, expect: str, stored: bytes, **other: Any) -> Case:
        row = {"name": name, "expect": expect, "key": "session key", "allow_plain": False, "chunk_id": CHUNK_ID.hex()}
        row |= {"secret": SECRET.hex(), "codec": 1, "plain_length": 4096, "stored": stored.hex(), "data": data.hex()}
        return row | other

    good = seal("session key", 0, 1, 4096, data)
    return [
        case("first chunk of a session key", "ok", good, counter=0),
        case("counter 2^32 - 1", "ok", seal("session key", 2**32 - 1, 1, 4096, data)),
        case("metakey", "ok", seal("metakey", 0, 1, 4096, data), key="metakey", counter=0),
        case(
            "block of a file-system index",
            "ok",
            seal("file-system index", 0, 1, 4096, data),
            key="file-system index",
            counter=0,
        ),
        case("index key that did not come from this metakey", "NoKey", good, key="file-system index"),
        case("empty data", "ok", seal("session key", 0, 0, 0, b""), codec=0, plain_length=0, data="", counter=0),
        case("plain where it may be", "ok", b"\0" + data, allow_plain=True),
        case("plain where none may be", "DamagedData", b"\0" + data),
        case("another key", "NoKey", good, secret=OTHER_SECRET.hex()),
        case("sealed under the metakey of the same secret", "NoKey", seal("metakey", 0, 1, 4096, data)),
        case("another chunk id", "DamagedData", good, chunk_id=bytes(32).hex()),
        case("another codec", "DamagedData", good, codec=0),
        case("another plain length", "DamagedData", good, plain_length=4097),
        case("codec out of range", "DamagedData", good, codec=256),
        case("length out of range", "DamagedData", good, plain_length=2**32),
        case("counter altered", "DamagedData", flip(good, 40)),
        case("key id altered", "NoKey", flip(good, 1)),
        case("data altered", "DamagedData", flip(good, 41)),
        case("tag altered", "DamagedData", flip(good, -1)),
        case("cut short", "DamagedData", good[:-1]),
        case("cut within the tag", "DamagedData", good[:56]),
        case("header only", "DamagedData", good[:41]),
        case("one byte more", "DamagedData", good + b"\0"),
        case("form 2", "DamagedData", b"\x02" + good[1:]),
        case("empty", "DamagedData", b"", allow_plain=True),
    ]


def slot(password: bytes, context: bytes, *, salt: bytes = SALT, price: tuple[int, int, int] = (8, 1, 1)) -> bytes:
    raw = argon(password, SALT, 8, 1, 1)
    name = b"office"
    header = price[0].to_bytes(4, "big") + bytes((*price[1:], len(salt))) + salt
    header += hkdf(raw, PREFIX + b"password verifier") + bytes((len(name),)) + name
    bound = b"TSLT\x01\x01" + len(header).to_bytes(2, "big") + header
    cryptogram = wrap(hkdf(raw, PREFIX + b"password kek"), SECRET, bind(context, bound))
    return slot_sum(bound + len(cryptogram).to_bytes(2, "big") + cryptogram)


def slot_sum(body: bytes) -> bytes:
    return body + blake3(body).digest()


def slot_cases() -> list[Case]:
    here = bind(b"slot", b"tenant", b"r" * 16, b"p" * 16)
    good = slot(b"secret", here)

    def case(name: str, expect: str, stored: bytes, password: bytes = b"secret", context: bytes = here) -> Case:
        row = {"name": name, "expect": expect, "slot": stored.hex(), "password": password.hex()}
        return row | {"context": context.hex(), "storage_key": SECRET.hex()}

    body = good[:-32]
    return [
        case("good", "ok", good),
        case("wrong password", "WrongPassword", good, b"Secret"),
        case("newline taken for a part of the password", "WrongPassword", good, b"secret\n"),
        case("of another point", "DamagedData", good, b"secret", bind(b"slot", b"tenant", b"r" * 16, b"q" * 16)),
        case("of another tenant", "DamagedData", good, b"secret", bind(b"slot", b"other", b"r" * 16, b"p" * 16)),
        case("salt missing", "CorruptedPoint", slot(b"secret", here, salt=b"")),
        case("salt of 15", "DamagedData", slot(b"secret", here, salt=SALT[:15])),
        case("salt exchanged, checksum made anew", "WrongPassword", slot(b"secret", here, salt=bytes(16))),
        case("price 4 TiB", "DamagedData", slot(b"secret", here, price=(2**32 - 1, 1, 1))),
        case("price 255 passes", "DamagedData", slot(b"secret", here, price=(8, 255, 1))),
        case("price 255 lanes", "DamagedData", slot(b"secret", here, price=(2048, 1, 255))),
        case("name altered, checksum made anew", "DamagedData", slot_sum(body.replace(b"office", b"offixe"))),
        case("salt altered", "DamagedData", flip(good, 15)),
        case("version 2", "UnsupportedFormat", slot_sum(body[:4] + b"\x02" + body[5:])),
        case("kind keyset", "UnsupportedFormat", slot_sum(body[:5] + b"\x02" + body[6:])),
        case("kind 0", "UnsupportedFormat", slot_sum(body[:5] + b"\x00" + body[6:])),
        case("another magic", "DamagedData", slot_sum(b"XXXX" + body[4:])),
        case("header length past the end", "DamagedData", slot_sum(body[:6] + b"\xff\xff" + body[8:])),
        case("cut short", "DamagedData", good[:-1]),
        case("too long", "DamagedData", good + bytes(9000)),
        case("empty", "DamagedData", b""),
    ]


def ring_cases() -> list[Case]:
    here = bind(b"ring", b"tenant", b"r" * 16, b"p" * 16)
    kek = hkdf(SECRET, PREFIX + b"storage key ring")
    keys = [(2, b"m" * 32), (1, b"s" * 32), (1, b"o" * 32), (3, b"c" * 32)]

    def sealed(which: list[tuple[int, bytes]]) -> list[bytes]:
        total = len(which).to_bytes(4, "big")
        return [
            wrap(kek, bytes((role,)) + key, bind(b"key ring", here, index.to_bytes(4, "big"), total))
            for index, (role, key) in enumerate(which)
        ]

    def case(name: str, expect: str, cryptograms: list[bytes], storage_key: bytes = SECRET, at: bytes = here) -> Case:
        row = {"name": name, "expect": expect, "storage_key": storage_key.hex(), "context": at.hex()}
        row |= {"cryptograms": [each.hex() for each in cryptograms], "meta_keys": [(b"m" * 32).hex()]}
        return row | {"session_keys": [(b"s" * 32).hex(), (b"o" * 32).hex()], "chunk_id_key": (b"c" * 32).hex()}

    good = sealed(keys)
    return [
        case("good", "ok", good),
        case("another storage key", "WrongKey", good, OTHER_SECRET),
        case("another point", "DamagedData", good, SECRET, bind(b"ring", b"tenant", b"r" * 16, b"q" * 16)),
        case("last dropped", "DamagedData", good[:-1]),
        case("first dropped", "DamagedData", good[1:]),
        case("one twice", "DamagedData", [*good, good[-1]]),
        case("two exchanged", "DamagedData", [good[0], good[2], good[1], good[3]]),
        case("none", "DamagedData", []),
        case("two chunk-id keys", "DamagedData", sealed([*keys, (3, b"d" * 32)])),
        case("unknown role", "DamagedData", sealed([*keys, (9, b"d" * 32)])),
        case("one damaged", "DamagedData", [good[0], flip(good[1], 70), *good[2:]]),
    ]


def build() -> dict[str, list[Case]]:
    """Return file name → cases."""
    return {
        "kdf.json": kdf_cases(),
        "wrap.json": wrap_cases(),
        "seal.json": seal_cases(),
        "slot.json": slot_cases(),
        "ring.json": ring_cases(),
    }


if __name__ == "__main__":
    for name, cases in build().items():
        Path(__file__).with_name(name).write_text(json.dumps(cases, indent=1) + "\n")
