"""Telling a peer why it gets no further."""

from __future__ import annotations

import trio

from protocol.errors import ProtocolError
from protocol.messages import Refused
from transporter.errors import TransporterError
from transporter.link.broken import LinkBroken
from transporter.link.control_link import ControlLink

TELLING_SECONDS = 2.0


async def refuse(link: ControlLink, error: TransporterError) -> None:
    """Tell the peer, once for each error; a peer that does not listen is not waited for."""
    if link.told is error:
        return
    link.told = error
    with trio.move_on_after(TELLING_SECONDS) as scope:
        scope.shield = True
        try:
            await link.send(Refused(code=error.code, what=error.what[:1000], remedy=error.remedy[:1000]))
        except (LinkBroken, TransporterError, ProtocolError):
            # Gone, or it broke the protocol: then nothing more can be said, and what went wrong is for the log.
            return
