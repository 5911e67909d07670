"""RSA keys of the length of keysets, made once in a run and lent to all its processes."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from transporter.keys.keyset import BITS


@contextmanager
def lent_keys(folder: Path) -> Iterator[None]:
    """Have RSA keys of the length of keysets taken from ``folder``, in turn; what is not there is made.

    Those are not proved to be prime whenever they are read, either: that takes nearly half a second.
    """
    made, really_make, really_load = 0, rsa.generate_private_key, serialization.load_der_private_key

    def lend(exponent: int, bits: int) -> rsa.RSAPrivateKey:
        nonlocal made
        if bits != BITS:
            return really_make(exponent, bits)
        made += 1
        path = folder / f"rsa-{made}.der"
        with open(folder / f"rsa-{made}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                path.write_bytes(_encoded(really_make(exponent, bits)))
        key = really_load(path.read_bytes(), None, unsafe_skip_rsa_key_validation=True)
        assert isinstance(key, rsa.RSAPrivateKey)
        return key

    def load(data: bytes, password: bytes | None = None, **how: Any) -> Any:
        if any(path.read_bytes() == data for path in folder.glob("rsa-*.der")):
            how["unsafe_skip_rsa_key_validation"] = True
        return really_load(data, password, **how)

    rsa.generate_private_key, serialization.load_der_private_key = lend, load
    try:
        yield
    finally:
        rsa.generate_private_key, serialization.load_der_private_key = really_make, really_load


def _encoded(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
