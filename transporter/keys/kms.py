"""Key management services: what they all do for us, and how one is reached.

A service holds a key that never leaves it, and wraps 32-byte keys of ours with it. Nothing longer is given to it, and
nothing but such a key is taken from it: what it returns opens a cryptogram of ours (wrap.py) that commits to its key,
so a service that answers with other bytes is found out.

`Kms` is the interface; kms_aws.py and kms_transit.py are the two that there are. All calls block: callers use threads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from transporter.errors import KmsWrongKey
from transporter.keys.derive import KEY_LENGTH
from transporter.keys.slot import MAX_REFERENCE, MAX_WRAPPED_BY_KMS
from transporter.kms_config import KmsConfig

__all__ = [
    "MAX_REFERENCE",
    "MAX_WRAPPED_BY_KMS",
    "Context",
    "Kms",
    "KmsKey",
    "Provider",
    "associated",
    "checked_plain",
    "open_kms",
    "other_key",
]

Context = dict[str, str]
"""What a wrapped key is bound to; the service records it, and refuses to open it with another. Never a secret."""


class Provider(IntEnum):
    """Kinds of services, as slots name them. Numbers are never reused."""

    AWS = 1
    TRANSIT = 2


@dataclass(frozen=True, slots=True)
class KmsKey:
    """The key behind a service. ``reference``: its full name, for AWS the ARN, for transit ``mount/name``."""

    provider: Provider
    reference: str


class Kms(Protocol):
    """One service with one key. Every call raises one of ``errors.KMS_ERRORS``, and has a deadline of its own."""

    @property
    def provider(self) -> Provider:
        """What kind of service it is."""

    def may_be(self, reference: str) -> bool:
        """Tell whether its key may be the one of that full name, by what is configured; nobody is asked."""

    def key(self) -> KmsKey:
        """Prove that the account and the key are those that were configured and can be used; asks the service once."""

    def wrap(self, key: bytes, context: Context) -> bytes:
        """Return ``key`` (32 bytes) wrapped, at most `MAX_WRAPPED_BY_KMS` bytes."""

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        """Return the 32 bytes that `wrap` was given with the same context."""


def open_kms(name: str, config: KmsConfig) -> Kms:
    """Return the service that ``[kms.name]`` describes; nobody is asked yet.

    Raises ConfigError where what it needs is not installed.
    """
    if config.kind == "aws":
        from transporter.keys.kms_aws import AwsKms

        return AwsKms(name, config)
    from transporter.keys.kms_transit import TransitKms

    return TransitKms(name, config)


def associated(context: Context) -> bytes:
    """Return a context as bytes, the same for the same context (for services that take bytes)."""
    return json.dumps(context, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def checked_plain(name: str, plain: bytes) -> bytes:
    """Return what a service unwrapped. Raises KmsWrongKey for anything that is no key of ours."""
    if len(plain) != KEY_LENGTH:
        raise other_key(name)
    return plain


def other_key(name: str) -> KmsWrongKey:
    """Return the error about a service that does not open what should be its own."""
    return KmsWrongKey(
        f"the key of [kms.{name}] does not open this: it was wrapped by another key, or for another place",
        "name the service and the key that wrapped it in config.toml",
    )
