"""Writes the frozen vectors of slots of kind 2 (keyset) and 3 (service), from the byte tables of docs/security.md.

Independent on purpose, as ../keys/make.py, whose helpers it uses: it imports nothing of the transporter. RSA-OAEP (RFC
8017 section 7.1) and ECDSA over P-256 are written out here, with a seed and a nonce that are no random numbers, so that
the files can be made again byte for byte. Nothing here is a key of anything else.

    python tests/vectors/slots/make.py          writes *.json beside itself
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_spec = importlib.util.spec_from_file_location("key_vectors", Path(__file__).parents[1] / "keys" / "make.py")
assert _spec is not None and _spec.loader is not None
keys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(keys)
bind, flip, hkdf, slot_sum, wrap = keys.bind, keys.flip, keys.hkdf, keys.slot_sum, keys.wrap
PREFIX, SECRET = keys.PREFIX, keys.SECRET

Case = dict[str, Any]
TENANT, REPOSITORY, POINT = "tenant/ä", b"r" * 16, b"p" * 16
HERE = bind(b"restore point", TENANT.encode(), REPOSITORY, POINT)
ELSEWHERE = bind(b"restore point", TENANT.encode(), REPOSITORY, b"q" * 16)
NAME = "2026 ä"

PRIME_1 = int(
    "e2d3842a9fa8779f7f1c012f0b187537d6148fee0a965ac8b412763083090ad68c9ddc10ed78878265f5bda59f34f2b8a3b6"
    "0fd89b5f2924a5022c3ae973818fbaa79d7a0cd13217e5d5130ba4736be6a3696757160a8ace05fe8762230b191ba38882dd"
    "07bc113e71ca6c6d21942e12e99a8de4970d7541310c297b39c15010ff6bf6d62a5ee97d4f418f03da636c1edb3ce219d50f"
    "7660b286a412ec35139a2130a45b0a22491d5cc75bcd972a2a01bbbb6d3c6459e49bea51711a0d0a17f146ea0530a04d5aec"
    "8858351a5201523e7c166ba551dc27e11e420bd89bff32cc7b0cbfb913adc58bd1ba108965d763770f23a4dcc39faff13c81"
    "d22882351fdb",
    16,
)
PRIME_2 = int(
    "ea6c5234ab68d7421052ef3f75594ac5445c3b7f7360af2b18bf6579aca4193bea95fdf647d4d6d6c1c933393a4aae4de3f5"
    "908ae3bb1758f9575a1de12e37f32c9a8c8b0c05c3a7d34d251e570b9c33642a72c0c8449de52f7bf4c28d4a9a44caa66e1d"
    "7bb43b7289e6b3d0b5afbcefddf8c4f781890023a72bd0d9781e31cfa7e03c3d8286430e6b9d604fd0210ad0e786030009ab"
    "e869fedeca738928deea29af3a003cfa9051c9f446557be63173b6a79b33e1789224f4753b5754fbdfb2e30a541ef8284d04"
    "431ebaad10fa96bf6d4523816b4b3c1ec8bc4b118f64b839acba33a6b37337c73699d62fd97cb6f704f6587d91522dd1e12d"
    "d1e7b3caa141",
    16,
)
MODULUS, EXPONENT = PRIME_1 * PRIME_2, 65537

# -- P-256 (SEC 2 section 2.4.2) ---------------------------------------------------------------------------------------

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
Place = tuple[int, int] | None


def add(a: Place, b: Place) -> Place:
    if a is None or b is None:
        return a or b
    if a[0] == b[0]:
        if (a[1] + b[1]) % P == 0:
            return None
        slope = 3 * (a[0] * a[0] - 1) * pow(2 * a[1], -1, P)  # the curve's a is -3
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def times(count: int, point: Place) -> Place:
    total: Place = None
    while count:
        if count & 1:
            total = add(total, point)
        point, count = add(point, point), count >> 1
    return total


def number(text: bytes, below: int) -> int:
    return int.from_bytes(hashlib.sha512(text).digest(), "big") % (below - 1) + 1


def public(private: int) -> bytes:
    point = times(private, G)
    assert point is not None
    return bytes((2 + point[1] % 2,)) + point[0].to_bytes(32, "big")


def ecdsa(private: int, message: bytes) -> bytes:
    """FIPS 186-5 section 6.4.1; the nonce is made of the message."""
    nonce = number(b"vector nonce" + message, N)
    point = times(nonce, G)
    assert point is not None
    r = point[0] % N
    s = pow(nonce, -1, N) * (int.from_bytes(hashlib.sha256(message).digest(), "big") + r * private) % N
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


NODE, OTHER_NODE = number(b"vector node", N), number(b"vector other node", N)

# -- keysets -----------------------------------------------------------------------------------------------------------


def mgf(seed: bytes, length: int) -> bytes:
    blocks = [hashlib.sha256(seed + count.to_bytes(4, "big")).digest() for count in range(-(-length // 32))]
    return b"".join(blocks)[:length]


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(left ^ right for left, right in zip(a, b, strict=True))


def oaep(message: bytes, label: bytes) -> bytes:
    size = 512
    seed = hashlib.sha256(b"vector seed").digest()
    padding = bytes(size - len(message) - 2 * 32 - 2)
    block = hashlib.sha256(label).digest() + padding + b"\x01" + message
    masked = xor(block, mgf(seed, len(block)))
    encoded = b"\0" + xor(seed, mgf(masked, 32)) + masked
    return pow(int.from_bytes(encoded, "big"), EXPONENT, MODULUS).to_bytes(size, "big")


SPKI = (
    rsa.RSAPublicNumbers(EXPONENT, MODULUS).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)
_primes = [prime.to_bytes(512, "big") for prime in sorted((PRIME_1, PRIME_2))]
_signing = hkdf(blake3(bind(PREFIX + b"keyset signature", *_primes)).digest(), PREFIX + b"keyset signature")
SIGNING = Ed25519PrivateKey.from_private_bytes(_signing).public_key().public_bytes_raw()
ID = blake3(bind(PREFIX + b"keyset id", SPKI, SIGNING)).digest(16)


def keyset_slot(
    *,
    identity: bytes = ID,
    maker: bytes | None = None,
    name: bytes = NAME.encode(),
    secret: bytes = SECRET,
    at: bytes = HERE,
    by: int = NODE,
    label: bytes = PREFIX + b"keyset storage key",
    purpose: bytes = PREFIX + b"keyset slot",
) -> bytes:
    header = identity + (public(NODE) if maker is None else maker) + bytes((len(name),)) + name
    bound = b"TSLT\x01\x02" + len(header).to_bytes(2, "big") + header
    wrapped = oaep(secret, bind(label, at, bound))
    sealed = wrapped + ecdsa(by, bind(purpose, at, bound, wrapped))
    return slot_sum(bound + len(sealed).to_bytes(2, "big") + sealed)


def keyset_cases() -> list[Case]:
    good = keyset_slot()
    body = good[:-32]

    def case(name: str, expect: str, stored: bytes, context: bytes = HERE) -> Case:
        row = {"name": name, "expect": expect, "slot": stored.hex(), "context": context.hex()}
        row |= {"primes": [f"{PRIME_1:x}", f"{PRIME_2:x}"], "spki": SPKI.hex(), "signing": SIGNING.hex()}
        row |= {"keyset_id": ID.hex(), "node": public(NODE).hex(), "keyset_name": NAME, "storage_key": SECRET.hex()}
        return row

    return [
        case("good", "ok", good),
        case("without a name", "ok", keyset_slot(name=b"")),
        case("of another point", "DamagedData", good, ELSEWHERE),
        case("of another keyset", "NoKey", keyset_slot(identity=bytes(16))),
        case("of a password", "NoKey", keys.slot(b"secret", HERE)),
        case("signed by another node than it names", "DamagedData", keyset_slot(by=OTHER_NODE)),
        case("of a node that is no key", "DamagedData", keyset_slot(maker=b"\x05" + bytes(32))),
        case("wrapped under another label", "DamagedData", keyset_slot(label=PREFIX + b"keyset slot")),
        case("signed for another purpose", "DamagedData", keyset_slot(purpose=PREFIX + b"keyset drill")),
        case("a key of 31 bytes", "DamagedData", keyset_slot(secret=SECRET[:31])),
        case("name altered, checksum made anew", "DamagedData", slot_sum(body.replace(b"2026", b"2027"))),
        case("wrapped altered, checksum made anew", "DamagedData", slot_sum(flip(body, -65))),
        case("signature altered, checksum made anew", "DamagedData", slot_sum(flip(body, -1))),
        case("altered", "DamagedData", flip(good, 10)),
        case("a name that plays with a terminal", "DamagedData", keyset_slot(name=b"\x1b[2J")),
        case("a name that is no text", "DamagedData", keyset_slot(name=b"\xff")),
        case("version 2", "UnsupportedFormat", slot_sum(body[:4] + b"\x02" + body[5:])),
        case("cut short", "DamagedData", good[:-1]),
        case("empty", "DamagedData", b""),
    ]


# -- services ----------------------------------------------------------------------------------------------------------

ARN = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-4000-8000-000000000000"
KEK = keys.KEK
WRAPPED = b"what the service made of the key"
CONTEXT = {
    "transporter-purpose": "restore point",
    "transporter-tenant": TENANT,
    "transporter-point": POINT.hex(),
}


def kms_slot(
    *,
    provider: int = 1,
    reference: bytes = ARN.encode(),
    name: bytes = b"main",
    wrapped: bytes = WRAPPED,
    kek: bytes = KEK,
    at: bytes = HERE,
) -> bytes:
    header = bytes((provider,)) + len(reference).to_bytes(2, "big") + reference + bytes((len(name),)) + name
    header += len(wrapped).to_bytes(2, "big") + wrapped
    bound = b"TSLT\x01\x03" + len(header).to_bytes(2, "big") + header
    cryptogram = wrap(kek, SECRET, bind(at, bound))
    return slot_sum(bound + len(cryptogram).to_bytes(2, "big") + cryptogram)


def kms_cases() -> list[Case]:
    good = kms_slot()
    body = good[:-32]
    as_bytes = json.dumps(CONTEXT, sort_keys=True, separators=(",", ":")).encode()

    def case(name: str, expect: str, stored: bytes, at: bytes = HERE, **other: Any) -> Case:
        row = {"name": name, "expect": expect, "slot": stored.hex(), "context": at.hex(), "tenant": TENANT}
        row |= {"point": POINT.hex(), "service_context": CONTEXT, "associated": as_bytes.hex(), "provider": 1}
        row |= {"reference": ARN, "wrapped": WRAPPED.hex(), "kek": KEK.hex(), "storage_key": SECRET.hex()}
        return row | other

    transit = {"provider": 2, "reference": "transit/backup"}
    return [
        case("good", "ok", good),
        case("transit", "ok", kms_slot(provider=2, reference=b"transit/backup"), **transit),
        case("of another point", "DamagedData", good, ELSEWHERE),
        case("under another key than the service gives", "DamagedData", kms_slot(kek=keys.OTHER_KEK)),
        case("of another key", "KmsWrongKey", kms_slot(reference=ARN.replace("key/0", "key/1").encode())),
        case("of a kind of service that there is not", "KmsWrongKey", kms_slot(provider=9)),
        case("name altered, checksum made anew", "DamagedData", slot_sum(body.replace(b"main", b"mein"))),
        case("altered", "DamagedData", flip(good, 10)),
        case("a reference of nothing", "DamagedData", kms_slot(reference=b"")),
        case("a reference of 513", "DamagedData", kms_slot(reference=b"a" * 513)),
        case("a reference that is no ASCII", "DamagedData", kms_slot(reference="ä".encode())),
        case("a wrapped key of nothing", "DamagedData", kms_slot(wrapped=b"")),
        case("a wrapped key of 1,025", "DamagedData", kms_slot(wrapped=b"w" * 1025)),
        case("a name that plays with a terminal", "DamagedData", kms_slot(name=b"\x1b[2J")),
        case("length of the reference past the end", "DamagedData", slot_sum(body[:9] + b"\xff\xff" + body[11:])),
        case("version 2", "UnsupportedFormat", slot_sum(body[:4] + b"\x02" + body[5:])),
        case("cut short", "DamagedData", good[:-1]),
    ]


def build() -> dict[str, list[Case]]:
    """Return file name → cases."""
    return {"keyset.json": keyset_cases(), "kms.json": kms_cases()}


if __name__ == "__main__":
    for name, cases in build().items():
        Path(__file__).with_name(name).write_text(json.dumps(cases, indent=1) + "\n")
