"""The frozen vectors: what the formats are, and the class of outcome for everything that is not them."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from transporter import errors
from transporter.clock import ManualClock
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.key_ring import open_ring
from transporter.keys.keyset import PrivateKeyset, PublicKeyset
from transporter.keys.kms import KmsKey, associated
from transporter.keys.kms_slot import PreparedKmsSlot, kms_point_context, open_kms_slot
from transporter.keys.node_key import NodeKey
from transporter.keys.password import KdfParameters, hash_password
from transporter.keys.session_key import ChunkOpener, ChunkSealer, MetaKey, SessionKey
from transporter.keys.slot import read_keyset_slot, read_kms_slot
from transporter.keys.storage_key import StorageKey, make_password_slot, open_slot_with_password
from transporter.keys.wrap import WrongKey, point_context, unwrap, wrap

KEY_OF = {
    "session key": (SessionKey, lambda key: key),
    "metakey": (MetaKey, lambda key: key),
    "file-system index": (MetaKey, lambda key: key.fsi),
}


class FixedClock(ManualClock):
    """Draws the given bytes, whatever is asked for."""

    def __init__(self, drawn: bytes) -> None:
        super().__init__()
        self.drawn = drawn

    def random_bytes(self, count: int) -> bytes:
        assert count == len(self.drawn)
        return self.drawn


def outcome(case, act):
    """Run ``act``; check that it ends as the case says, with that very class; return its result if it ends well."""
    if case["expect"] == "ok":
        return act()
    expected = WrongKey if case["expect"] == "WrongKey" else getattr(errors, case["expect"])
    with pytest.raises(expected) as caught:
        act()
    assert type(caught.value) is expected
    assert caught.value.what and caught.value.remedy
    return None


def unhex(case):
    return {key: value if key in ("name", "expect") else bytes.fromhex(value) for key, value in case.items()}


def test_frozen_files_are_what_the_byte_tables_say(vector_folder, vector_maker):
    built = vector_maker.build()
    assert set(built) == {path.name for path in vector_folder.glob("*.json")}
    for name, cases in built.items():
        assert json.loads((vector_folder / name).read_text()) == json.loads(json.dumps(cases)), name


def test_kdf(kdf_case):
    password, salt = bytes.fromhex(kdf_case["password"]), bytes.fromhex(kdf_case["salt"])
    found = outcome(kdf_case, lambda: hash_password(password, salt, KdfParameters(*kdf_case["price"])))
    if found is not None:
        assert found.raw.hex() == kdf_case["raw"]
        assert found.kek.hex() == kdf_case["kek"]
        assert found.verifier.hex() == kdf_case["verifier"]


def test_wrap(wrap_case):
    case = unhex(wrap_case)
    found = outcome(case, lambda: unwrap(case["kek"], case["cryptogram"], case["context"]))
    if found is not None:
        assert found == case["key"]
        again = wrap(case["kek"], found, case["context"], clock=FixedClock(case["cryptogram"][1:33]))
        assert again == case["cryptogram"]


def test_seal(seal_case):
    key_class, part = KEY_OF[seal_case["key"]]
    secret, chunk_id = bytes.fromhex(seal_case["secret"]), bytes.fromhex(seal_case["chunk_id"])
    stored, header = bytes.fromhex(seal_case["stored"]), (seal_case["codec"], seal_case["plain_length"])
    opener = ChunkOpener([part(key_class.from_secret(secret))], allow_plain=seal_case["allow_plain"])
    found = outcome(seal_case, lambda: opener.open(chunk_id, *header, stored))
    if found is None:
        return
    assert found.hex() == seal_case["data"]
    if "counter" in seal_case:
        sealer = ChunkSealer(part(key_class.generate(FixedClock(secret))))
        assert sealer.seal(chunk_id, *header, bytes(found)) == stored


def test_slot(slot_case):
    case = unhex(slot_case)
    found = outcome(case, lambda: open_slot_with_password(case["slot"], case["password"], case["context"]))
    if found is not None:
        storage_key, key = found
        assert storage_key == StorageKey(case["storage_key"])
        cryptogram = case["slot"][-32 - 129 : -32]  # 129 = 1 + 32 + 32 + 32 + 16 + 16
        wrap_salt = cryptogram[1:33]
        made = make_password_slot(
            storage_key, key, key.salt, key.parameters, case["context"], hint_name="office", clock=FixedClock(wrap_salt)
        )
        assert made == case["slot"]


def test_ring(ring_case):
    cryptograms = [bytes.fromhex(each) for each in ring_case["cryptograms"]]
    context = bytes.fromhex(ring_case["context"])
    storage_key = StorageKey(bytes.fromhex(ring_case["storage_key"]))
    ring = outcome(ring_case, lambda: open_ring(storage_key, cryptograms, context))
    if ring is not None:
        assert [key.secret.hex() for key in ring.session_keys] == ring_case["session_keys"]
        assert [key.secret.hex() for key in ring.meta_keys] == ring_case["meta_keys"]
        assert ring.chunk_id_key == ChunkIdKey(bytes.fromhex(ring_case["chunk_id_key"]))


def private_keyset(case):
    """Return the keyset of the vectors, out of its primes."""
    p, q = (int(prime, 16) for prime in case["primes"])
    d = rsa.rsa_recover_private_exponent(65537, p, q)
    public = rsa.RSAPublicNumbers(65537, p * q)
    crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    key = rsa.RSAPrivateNumbers(p, q, d, *crt, public).private_key(unsafe_skip_rsa_key_validation=True)
    spki, signing = bytes.fromhex(case["spki"]), bytes.fromhex(case["signing"])
    return PrivateKeyset(PublicKeyset.from_keys(spki, signing, case["keyset_name"], 1), key)


def test_keyset(keyset_case):
    slot, context = bytes.fromhex(keyset_case["slot"]), bytes.fromhex(keyset_case["context"])
    private = private_keyset(keyset_case)
    assert private.public.id.hex() == keyset_case["keyset_id"]
    found = outcome(keyset_case, lambda: private.open_slot(slot, context))
    if found is None:
        return
    assert found == StorageKey(bytes.fromhex(keyset_case["storage_key"]))
    parts = read_keyset_slot(slot)
    assert parts.maker.hex() == keyset_case["node"] and parts.name in (keyset_case["keyset_name"], "")
    assert private.public.signed(b"message", private.sign(b"message"))
    # What is wrapped and signed is drawn anew each time; that this opens proves the one, the frozen one the other.
    node = NodeKey(ec.generate_private_key(ec.SECP256R1()))
    public = PublicKeyset.from_keys(private.public.spki, private.public.signing, parts.name, 1)
    made = public.make_slot(found, context, node)
    assert made[: len(parts.bound)] == parts.bound.replace(parts.maker, node.public) and len(made) == len(slot)
    assert private.open_slot(made, context) == found


class FrozenService:
    """The service of the vectors, as `open_kms_slot` sees the services of a home; it binds a key to its context."""

    def __init__(self, case) -> None:
        self.case, self.provider = case, case["provider"]

    def names(self):
        return ["main"]

    def service(self, _name):
        return self

    def may_be(self, _reference):
        return True

    def key(self, _name):
        return KmsKey(self.provider, self.case["reference"])

    def unwrap(self, _name, wrapped, context):
        assert wrapped.hex() == self.case["wrapped"] and context == self.case["service_context"]
        return bytes.fromhex(self.case["kek"])

    def forget(self, *_place):
        pass


def test_kms(kms_case):
    case, slot = kms_case, bytes.fromhex(kms_case["slot"])
    context, point = bytes.fromhex(case["context"]), bytes.fromhex(case["point"])

    def opened():
        return open_kms_slot(FrozenService(case), read_kms_slot(slot), case["tenant"], point, context)

    found = outcome(case, opened)
    if found is None:
        return
    assert found == StorageKey(bytes.fromhex(case["storage_key"]))
    assert context == point_context(case["tenant"], b"r" * 16, point)
    assert kms_point_context(case["tenant"], point) == case["service_context"]
    assert associated(case["service_context"]).hex() == case["associated"]
    key, salt = KmsKey(case["provider"], case["reference"]), read_kms_slot(slot).cryptogram[1:33]
    prepared = PreparedKmsSlot("main", key, bytes.fromhex(case["wrapped"]), bytes.fromhex(case["kek"]))
    assert prepared.make_slot(found, context, FixedClock(salt)) == slot
