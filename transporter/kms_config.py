"""The sections ``[keys]`` and ``[kms.NAME]`` of a configuration: how the key database is locked, and by which services.

Never a secret: a token lies in a file of its own, credentials of AWS come by the SDK's own chain.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

KmsKind = Literal["aws", "transit"]
MASTER_KINDS = ("file", "credential", "keyring", "passphrase", "kms")
MASTER_REMEDY = 'write "file", "credential", "keyring", "passphrase" or "kms:NAME"'
CREDENTIAL = "credential:"
"""How `token_file` begins where it names a credential of systemd instead of a file."""
MAX_KMS = 8
"""Services of one home: a point that does not say which one made its slot costs a question to each."""


class KeysConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``master``: what locks the key database when it is made; `keys master-key set` moves it, and changes this."""

    master: str = "file"


class KmsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key management service.

    ``key``: for ``aws`` an id, ARN or alias; for ``transit`` the key's name. ``account``: AWS, 12 digits; where given,
    the key must be of it. ``endpoint``: a URL; empty for AWS: the region's own. ``mount``: where the transit engine is.
    ``token_file``: transit; a path, or ``credential:NAME``. ``ca_file``: whom to trust beside the system's authorities.
    """

    kind: KmsKind
    key: str
    region: str = ""
    account: str = ""
    endpoint: str = ""
    mount: str = "transit"
    token_file: str = ""
    ca_file: str = ""


def master_problem(master: str, services: dict[str, KmsConfig]) -> tuple[str, str] | None:
    """Return (what is wrong, what to do) with a value of ``master``, or None."""
    kind, colon, name = master.partition(":")
    if kind not in MASTER_KINDS or (kind in {"file", "keyring", "passphrase"} and colon) or (colon and not name):
        return f"{master!r} is no place for the master key", MASTER_REMEDY
    if kind == "kms" and name not in services:
        return f"there is no service [kms.{name}]" if name else "kms names no service", MASTER_REMEDY
    if kind == "credential" and colon and not re.fullmatch(r"[\w.-]{1,255}", name):
        return f"{name!r} is no name of a credential", 'write "credential" or "credential:NAME"'
    return None


def kms_problem(service: KmsConfig) -> tuple[str, str, str] | None:
    """Return (key, what is wrong, what to do) of the first thing in a service that cannot work, or None."""
    if not (1 <= len(service.key) <= 512 and service.key.isascii() and service.key.isprintable()):
        return "key", "the key's name is empty, too long or no plain text", "write it as the service shows it"
    if service.ca_file and not service.ca_file.startswith("/"):
        return "ca_file", "the path is not absolute", "start it with /"
    problem = _endpoint_problem(service.endpoint)
    if problem:
        return "endpoint", *problem
    return _aws_problem(service) if service.kind == "aws" else _transit_problem(service)


def _endpoint_problem(endpoint: str) -> tuple[str, str] | None:
    if not endpoint:
        return None
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        return "the endpoint is no URL", "write https://HOST:PORT"
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or parts.query or parts.fragment:
        return "the endpoint is no URL of a service", "write https://HOST:PORT"
    if parts.username is not None or parts.password is not None:
        return "the endpoint has a user or a password in it", "secrets do not stand in this file"
    if parts.scheme == "http" and not _loopback(parts.hostname):
        # Credentials and unwrapped keys would cross the network in clear.
        return "plain http is for this machine alone", "write https://HOST:PORT"
    return None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _aws_problem(service: KmsConfig) -> tuple[str, str, str] | None:
    if service.token_file or service.mount != "transit":
        return "kind", "token_file and mount belong to a transit engine", "leave them out for aws"
    if service.account and not re.fullmatch(r"\d{12}", service.account):
        return "account", f"{service.account!r} is no AWS account", "write its 12 digits"
    if service.region and not re.fullmatch(r"[a-z0-9-]{1,32}", service.region):
        return "region", f"{service.region!r} is no AWS region", 'write for example "eu-central-1"'
    if not re.fullmatch(r"[\w:/.@+-]+", service.key):
        return "key", "this is neither id nor ARN nor alias of a key", "write the key's ARN"
    return None


def _transit_problem(service: KmsConfig) -> tuple[str, str, str] | None:
    if service.region or service.account:
        return "kind", "region and account belong to AWS", "leave them out for transit"
    if not service.endpoint:
        return "endpoint", "the address of the server is missing", 'write endpoint = "https://HOST:8200"'
    if not re.fullmatch(r"[\w.-]+", service.key) or set(service.key) == {"."}:
        return "key", f"{service.key!r} is no name of a transit key", "write its name alone"
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", service.mount):
        return "mount", f"{service.mount!r} is no path of an engine", 'leave it out: "transit"'
    if not service.token_file:
        return "token_file", "the token's file is missing", 'write token_file = "/etc/transporter/kms-token"'
    if not service.token_file.startswith(("/", CREDENTIAL)):
        return "token_file", "the path is not absolute", 'start it with /, or write "credential:NAME"'
    return None
