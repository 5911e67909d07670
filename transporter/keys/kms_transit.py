"""The transit engine of OpenBao and Vault, over their HTTP API (v1): encrypt, decrypt, and reading a key's state.

The context travels as associated data of the engine's AES-256-GCM, so that it is authenticated and shows in its audit
log only as a hash. Encrypting under a name that does not exist would *make* a key of that name: so a key is looked up
before it is used first. A token needs ``update`` on ``MOUNT/encrypt/KEY`` and ``MOUNT/decrypt/KEY``, and ``read`` on
``MOUNT/keys/KEY``.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any, Final

from transporter.errors import ConfigError, KmsBadAnswer, KmsKeyDisabled, KmsRefused, KmsUnreachable, KmsWrongKey
from transporter.keys.credential import read_credential
from transporter.keys.kms import MAX_WRAPPED_BY_KMS, Context, KmsKey, Provider, associated, checked_plain, other_key
from transporter.keys.kms_http import Answer, call
from transporter.keys.private_file import check_private
from transporter.kms_config import CREDENTIAL, KmsConfig

_AEAD: Final = frozenset({"aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"})
_MAX_TOKEN: Final = 4096
_GONE: Final = ("not found", "no handler for route", "key does not exist")
_OFF: Final = ("soft-deleted", "soft deleted", "disallowed by policy")


class TransitKms:
    """See the head of the file. The token is read anew for each call: whoever renews it replaces the file."""

    provider = Provider.TRANSIT

    def __init__(self, name: str, config: KmsConfig) -> None:
        self._name = name
        self._config = config
        self._known: KmsKey | None = None

    @property
    def _reference(self) -> str:
        return f"{self._config.mount}/{self._config.key}"

    def may_be(self, reference: str) -> bool:
        """See `Kms`."""
        return reference == self._reference

    def key(self) -> KmsKey:
        """See `Kms`."""
        data = self._ask("GET", "keys")
        if data.get("soft_deleted") is True:
            raise self._disabled()
        if data.get("type") not in _AEAD or data.get("derived") is True:
            raise KmsWrongKey(
                f"the key of [kms.{self._name}] is of a type that binds nothing to what it wraps",
                "make one of type aes256-gcm96, not derived",
            )
        self._known = KmsKey(self.provider, self._reference)
        return self._known

    def wrap(self, key: bytes, context: Context) -> bytes:
        """See `Kms`."""
        if self._known is None:
            self.key()
        data = self._ask("POST", "encrypt", {"plaintext": _text(key), "associated_data": _text(associated(context))})
        wrapped = data.get("ciphertext")
        if not isinstance(wrapped, str) or not wrapped.isascii() or not 1 <= len(wrapped) <= MAX_WRAPPED_BY_KMS:
            raise self._bad()
        return wrapped.encode()

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        """See `Kms`."""
        if not 1 <= len(wrapped) <= MAX_WRAPPED_BY_KMS or not wrapped.isascii():
            raise other_key(self._name)
        body = {"ciphertext": wrapped.decode(), "associated_data": _text(associated(context))}
        plain = self._ask("POST", "decrypt", body).get("plaintext")
        try:
            return checked_plain(self._name, base64.b64decode(plain, validate=True))  # type: ignore[arg-type]
        except (binascii.Error, TypeError, ValueError):
            raise self._bad() from None

    def _ask(self, method: str, what: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        config = self._config
        url = f"{config.endpoint.rstrip('/')}/v1/{config.mount}/{what}/{config.key}"
        headers = {"X-Vault-Token": self._token(), "X-Vault-Request": "true", "Content-Type": "application/json"}
        content = json.dumps(body).encode() if body is not None else b""
        answer = call(self._name, method, url, headers, content, ca_file=config.ca_file)
        if answer.status != 200:
            raise self._told(answer)
        data = _object(answer.body).get("data")
        if not isinstance(data, dict):
            raise self._bad()
        return data

    def _told(self, answer: Answer) -> Exception:
        errors = _object(answer.body).get("errors")
        why = " ".join(each for each in errors if isinstance(each, str)).lower() if isinstance(errors, list) else ""
        if answer.status in {401, 403}:
            return KmsRefused(
                f"[kms.{self._name}] refuses the token, or the token may not use the key {self._config.key!r}",
                "renew the token in token_file, and look at its policy",
            )
        if any(sign in why for sign in _OFF):
            return self._disabled()
        if answer.status == 404 or any(sign in why for sign in _GONE):
            return KmsWrongKey(
                f"[kms.{self._name}] has no key {self._config.key!r} in its engine {self._config.mount!r}",
                "correct key or mount in config.toml, or make the key there",
            )
        if answer.status == 400:
            return other_key(self._name)
        if answer.status == 503:
            return KmsUnreachable(
                f"[kms.{self._name}] is sealed or not ready", "unseal it; nothing was changed, try again"
            )
        if answer.status == 429 or answer.status >= 500:
            return KmsUnreachable(
                f"[kms.{self._name}] answers that it cannot work (HTTP {answer.status})",
                "look at the service; nothing was changed, try again",
            )
        return self._bad()

    def _token(self) -> str:
        named = self._config.token_file
        content = read_credential(named.removeprefix(CREDENTIAL)) if named.startswith(CREDENTIAL) else self._from_file()
        token = content.strip()
        if not 1 <= len(token) <= _MAX_TOKEN or not token.isascii() or not token.decode().isprintable():
            raise ConfigError(f"{named} holds no token", "write the token alone, on one line")
        return token.decode()

    def _from_file(self) -> bytes:
        path = Path(self._config.token_file)
        if not check_private(path):
            raise ConfigError(f"the token of [kms.{self._name}] is missing: {path}", "write it there, mode 0600")
        try:
            with path.open("rb") as file:
                return file.read(_MAX_TOKEN + 2)
        except OSError as error:
            raise ConfigError(
                f"the token of [kms.{self._name}] cannot be read: {path}: {error.strerror}", "check its rights"
            ) from None

    def _disabled(self) -> KmsKeyDisabled:
        return KmsKeyDisabled(
            f"the key {self._config.key!r} of [kms.{self._name}] is switched off, or too new for what it wrapped",
            "switch it on again there (restore it, or lower min_decryption_version)",
        )

    def _bad(self) -> KmsBadAnswer:
        return KmsBadAnswer(
            f"what answers at the address of [kms.{self._name}] does not answer as a transit engine does",
            "is this the address of the service? nothing was changed",
        )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
