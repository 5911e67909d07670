"""What can go wrong on the wire, and whose fault it is.

    ProtocolError                 never raised itself
    ├── LocalProtocolError        we used the protocol wrongly: a bug on this side
    └── RemoteProtocolError       the peer, or whatever stands in the line, is wrong
        ├── VersionMismatch       no version of the protocol that both sides speak
        ├── TruncatedError        the bytes ended before the end was said
        └── TamperingError        bytes are not the ones that the peer sent: a security event, never retried

No text of an error holds a key, a payload or a byte of either.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Base of the tree. Never raised itself: an error always says whose fault it is."""

    def __init__(self, what: str) -> None:
        if type(self) is ProtocolError:
            raise TypeError("raise LocalProtocolError or RemoteProtocolError")
        super().__init__(what)


class LocalProtocolError(ProtocolError):
    """This side asked for something that the protocol does not allow now; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol; the connection is of no further use."""


class VersionMismatch(RemoteProtocolError):
    """The ranges of versions in the two Hellos do not overlap."""


class TruncatedError(RemoteProtocolError):
    """The connection ended without a FIN, or within a frame. A cut line looks just like this."""


class TamperingError(RemoteProtocolError):
    """Bytes of a data channel are not those that the holder of its key sent.

    ``failed`` names the check: ``"commitment"``, ``"length"``, ``"tag"``, ``"proof"`` or ``"trailing"``.
    ``channel`` is the channel's number.
    """

    def __init__(self, what: str, *, failed: str, channel: int) -> None:
        super().__init__(f"channel {channel}: {what}")
        self.failed = failed
        self.channel = channel
