"""What a session does about limits: it tells the peer how fast it may send here, and its connections keep the pace."""

from __future__ import annotations

import trio

from protocol.errors import LocalProtocolError
from protocol.messages import Limit
from transporter.link.control_link import ControlLink
from transporter.throttle.limits import Flow


async def keep_pace(flow: Flow, link: ControlLink) -> None:
    """For as long as a session lasts: pace its control connection, and ask the peer for what may come here."""
    with flow.in_session(), link.paced(flow):
        told = 0
        while True:
            changed = flow.changed
            if flow.asking != told:
                told = flow.asking
                try:
                    await link.send(Limit(bytes_per_second=told))
                except LocalProtocolError:
                    # The session has ended, or is about to: there is nothing left to ask for.
                    await trio.sleep_forever()
            else:
                await changed.wait()
