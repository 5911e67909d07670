"""A keyset as a file: what `keyset export` prints and `keyset import` reads.

One JSON object: ``transporter_keyset`` (1), ``name``, ``created_ns``, ``public`` (base64 of the SubjectPublicKeyInfo),
``signing`` (base64 of the Ed25519 key),
``private`` (null, or ``salt``, ``memory_kib``, ``iterations``, ``lanes``, ``sealed``: the half under its pass phrase;
with ``kms`` and ``kms_wrapped`` under a key that this service wrapped, and then salt and price say nothing),
``checksum`` (BLAKE3, hex, of the object without it, as compact JSON with sorted keys): a file that was cut or altered
on its way is told apart from one of another pass phrase.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Final, Literal

import msgspec
from blake3 import blake3
from msgspec import Meta

from transporter.errors import DamagedData, UnsupportedFormat
from transporter.keys.derive import same
from transporter.keys.keyset import PublicKeyset, SealedPrivate
from transporter.keys.password import KdfParameters
from transporter.keys.slot import MAX_WRAPPED_BY_KMS

MAX_FILE: Final = 64 << 10
"""Bytes: one of a keyset has some 5 KiB."""


class _Private(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    salt: Annotated[bytes, Meta(min_length=16, max_length=16)]
    memory_kib: int
    iterations: int
    lanes: int
    sealed: Annotated[bytes, Meta(max_length=8192)]
    kms: Annotated[str, Meta(max_length=64)] = ""
    kms_wrapped: Annotated[bytes, Meta(max_length=MAX_WRAPPED_BY_KMS)] = b""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    transporter_keyset: Literal[1]
    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
    created_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    public: Annotated[bytes, Meta(max_length=1024)]
    signing: Annotated[bytes, Meta(min_length=32, max_length=32)]
    private: _Private | None
    checksum: str


def encode_keyset(public: PublicKeyset, private: SealedPrivate | None) -> str:
    """Return the file."""
    half = None
    if private is not None:
        price = private.parameters
        half = {
            "salt": _base64(private.salt),
            "memory_kib": price.memory_kib,
            "iterations": price.iterations,
            "lanes": price.lanes,
            "sealed": _base64(private.cryptogram),
        }
        if private.kms:
            half |= {"kms": private.kms, "kms_wrapped": _base64(private.kms_wrapped)}
    content: dict[str, Any] = {
        "transporter_keyset": 1,
        "name": public.name,
        "created_ns": public.created_ns,
        "public": _base64(public.spki),
        "signing": _base64(public.signing),
        "private": half,
    }
    return json.dumps(content | {"checksum": _checksum(content)}, indent=1) + "\n"


def decode_keyset(data: bytes) -> tuple[PublicKeyset, SealedPrivate | None]:
    """Read a file. Raises DamagedData, and UnsupportedFormat for one of a newer version."""
    try:
        content = json.loads(data) if len(data) <= MAX_FILE else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or "transporter_keyset" not in content:
        raise _damaged("this is no keyset, or only a part of one")
    if content["transporter_keyset"] != 1:
        raise UnsupportedFormat("the keyset is of a newer version", "use the version of the program that exported it")
    try:
        parsed = msgspec.convert(content, _File)
    except msgspec.ValidationError:
        raise _damaged("the keyset is not as it was exported") from None
    if not parsed.name.isprintable():
        raise _damaged("the keyset is not as it was exported")
    rest = {name: value for name, value in content.items() if name != "checksum"}
    if not same(_checksum(rest).encode(), parsed.checksum.encode()):
        raise _damaged("the keyset was altered or cut on its way")
    public = PublicKeyset.from_keys(parsed.public, parsed.signing, parsed.name, parsed.created_ns)
    half = parsed.private
    if half is None:
        return public, None
    price = KdfParameters(half.memory_kib, half.iterations, half.lanes)
    return public, SealedPrivate(half.salt, price, half.sealed, half.kms, half.kms_wrapped)


def _checksum(content: dict[str, Any]) -> str:
    return blake3(json.dumps(content, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _damaged(what: str) -> DamagedData:
    return DamagedData(what, "export it again, and copy the whole file")
