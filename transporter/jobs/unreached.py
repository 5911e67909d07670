"""Peers that a command could not reach: none is waited for again for the sake of another of its repositories."""

from __future__ import annotations

from transporter.errors import CannotConnect


class Unreached:
    """Peers by their names, each with why the last attempt to reach it failed.

    What counts is that no connection came about, or no handshake. A refusal, or a link that broke later, may be about
    one repository alone.
    """

    def __init__(self) -> None:
        self._why: dict[str, CannotConnect] = {}

    def check(self, peer: str) -> None:
        """Raise for a peer what it could not be reached for, if that was so."""
        error = self._why.get(peer)
        if error is not None:
            raise type(error)(error.what, error.remedy)

    def dialled(self, peer: str, error: CannotConnect | None) -> None:
        """Note that a peer was dialled, and the error; None: it was reached."""
        if error is None:
            self._why.pop(peer, None)
        else:
            self._why[peer] = error
