from __future__ import annotations

import datetime
import ipaddress
import sys
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# Helpers beside this file, and the whole pair in one process beside the tests of the service.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from world import open_world


@pytest.fixture
async def world():
    async with open_world() as made:
        yield made


@pytest.fixture
def in_thread():
    """``async with in_thread(program)``: start and stop a program without holding up the event loop."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def run(manager):
        port = await trio.to_thread.run_sync(manager.__enter__)
        try:
            yield port
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(manager.__exit__, None, None, None)

    return run


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(subject, issuer, key, signer, *, ca, names=()):
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if ca:
        # From Python 3.13 on an authority is asked whether it may sign certificates.
        usage = dict.fromkeys(
            (
                *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                *("crl_sign", "encipher_only", "decipher_only"),
            ),
            False,
        )
        made = made.add_extension(x509.KeyUsage(key_cert_sign=True, **usage), critical=True)
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return made.sign(signer, hashes.SHA256())


@pytest.fixture
def authority(tmp_path):
    """An authority that signed a front end's certificate: (its certificate's file, the front end's with its key)."""
    own, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    root = tmp_path / "authority.pem"
    root.write_bytes(_certificate("tests", "tests", own, own, ca=True).public_bytes(pem))
    names = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    leaf = tmp_path / "front-end.pem"
    leaf.write_bytes(
        _certificate("front end", "tests", key, own, ca=False, names=names).public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return root, leaf
