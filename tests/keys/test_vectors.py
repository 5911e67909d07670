"""The frozen vectors: what the formats are, and the class of outcome for everything that is not them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transporter import errors
from transporter.clock import ManualClock
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.key_ring import open_ring
from transporter.keys.password import KdfParameters, hash_password
from transporter.keys.session_key import ChunkOpener, ChunkSealer, MetaKey, SessionKey
from transporter.keys.storage_key import StorageKey, make_password_slot, open_slot_with_password
from transporter.keys.wrap import WrongKey, unwrap, wrap

VECTORS = Path(__file__).parents[1] / "vectors" / "keys"
KEY_CLASSES = {"session key": SessionKey, "metakey": MetaKey}


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


def test_frozen_files_are_what_the_byte_tables_say(vector_maker):
    built = vector_maker.build()
    assert set(built) == {path.name for path in VECTORS.glob("*.json")}
    for name, cases in built.items():
        assert json.loads((VECTORS / name).read_text()) == json.loads(json.dumps(cases)), name


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
    key_class = KEY_CLASSES[seal_case["key"]]
    secret, chunk_id = bytes.fromhex(seal_case["secret"]), bytes.fromhex(seal_case["chunk_id"])
    stored, header = bytes.fromhex(seal_case["stored"]), (seal_case["codec"], seal_case["plain_length"])
    opener = ChunkOpener([key_class.from_secret(secret)], allow_plain=seal_case["allow_plain"])
    found = outcome(seal_case, lambda: opener.open(chunk_id, *header, stored))
    if found is None:
        return
    assert found.hex() == seal_case["data"]
    if "counter" in seal_case:
        sealer = ChunkSealer(key_class.generate(FixedClock(secret)))
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
