"""An invitation: one line that holds all a node needs to pair. Whoever reads it before it is used can use it.

transporter1:BASE64URL(JSON of name, address, pin, secret, repository, expires, kind, via, via_name)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Literal

import msgspec

from transporter.config import NAME
from transporter.errors import IdentityRefused, UsageError

PREFIX = "transporter1:"
SECRET_LENGTH = 32
PIN_LENGTH = 32
# Long enough to carry it over by hand, short enough that a forgotten one in a mailbox is worth nothing.
DEFAULT_LIFETIME_SECONDS = 24 * 3600
_MAX_TEXT = 4096
_PROOF_LABEL = b"transporter/v1 pair\0"
_SECRET_LABEL = b"transporter/v1 invitation\0"


class InvitationText(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in an invitation. ``pin``, ``secret``: 32 bytes; ``expires_ns``: by the inviting node's clock.

    ``repository``: what it opens; empty in one that asks for a repository of the joining node (see ``kind``).
    ``via``: the pin of the proxy host through which the inviting node is reached, ``via_name`` what it is called there.
    """

    name: str
    address: str
    pin: bytes
    secret: bytes
    repository: str
    expires_ns: int
    kind: Literal["repository", "proxy", "source"] = "repository"
    via: bytes = b""
    via_name: str = ""

    def __repr__(self) -> str:
        return f"InvitationText(name={self.name!r}, address={self.address!r}, repository={self.repository!r})"


def encode_invitation(invitation: InvitationText) -> str:
    """Return the line."""
    return PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(invitation)).decode().rstrip("=")


def decode_invitation(text: str) -> InvitationText:
    """Parse the line. Raises UsageError when it is not one (the line itself is never repeated: it is a secret)."""
    text = text.strip()
    remedy = "copy the whole line that `transporter invite` printed"
    if not text.startswith(PREFIX) or len(text) > _MAX_TEXT:
        raise UsageError("this is not an invitation", remedy)
    body = text.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        invitation = msgspec.json.decode(raw, type=InvitationText)
    except (binascii.Error, msgspec.DecodeError, ValueError):
        raise UsageError("this invitation is incomplete or altered", remedy) from None
    lengths_fit = len(invitation.pin) == PIN_LENGTH and len(invitation.via) in (0, PIN_LENGTH)
    if not lengths_fit or len(invitation.secret) != SECRET_LENGTH:
        raise UsageError("this invitation is incomplete or altered", remedy)
    # Whoever made it chose its words: they are shown, the node is called by its name from now on, and that becomes part
    # of labels in which "/" separates.
    shown = (invitation.address, invitation.repository, invitation.via_name)
    if not NAME.match(invitation.name) or not all(text.isprintable() for text in shown):
        raise UsageError("this invitation names no node that could be paired", "ask for another one")
    return invitation


def check_not_expired(invitation: InvitationText, now_ns: int) -> None:
    """Raise IdentityRefused when the invitation is over by this node's clock."""
    if now_ns >= invitation.expires_ns:
        raise IdentityRefused(
            "this invitation has expired", "ask for a new one: `transporter invite` at the other node"
        )


def secret_hash(secret: bytes) -> bytes:
    """Return what the inviting node keeps of the secret (32 bytes)."""
    return hashlib.sha256(_SECRET_LABEL + secret).digest()


def proof_of(kept: bytes, exporter: bytes, joining_pin: bytes) -> bytes:
    """Prove knowledge of the secret for this one TLS connection: HMAC-SHA256 under ``secret_hash(secret)``.

    Bound to the connection and to the joining node's key, so that it cannot be relayed.
    """
    return hmac.digest(kept, _PROOF_LABEL + exporter + joining_pin, "sha256")
