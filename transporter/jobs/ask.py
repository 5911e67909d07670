"""One question and its answer on a control connection outside any session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import trio

from protocol.errors import ProtocolError
from protocol.keeping_messages import Chain, GetChain
from protocol.messages import Message, Refused
from transporter.errors import CannotConnect, RefusedByPeer
from transporter.jobs.chain import Ask
from transporter.jobs.context import JobContext
from transporter.link.broken import LinkBroken
from transporter.link.control_link import ControlLink, refusal_to_error
from transporter.link.dial import dial_control

# A target that removes hundreds of points flushes its disk several times before it answers.
ANSWER_SECONDS = 120.0
M = TypeVar("M", bound=Message)


@asynccontextmanager
async def asking(context: JobContext, peer: str) -> AsyncIterator[ControlLink]:
    """Dial a peer for questions. What breaks becomes CannotConnect, an answer that is none RefusedByPeer."""
    try:
        async with dial_control(context.peer(peer), context.identity) as link:
            yield link
    except (LinkBroken, trio.TooSlowError) as error:
        reason = "it is silent" if isinstance(error, trio.TooSlowError) else str(error)
        raise CannotConnect(f"the peer did not answer: {reason}", "check the line and try again") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ProtocolError) as error:
        raise RefusedByPeer("the peer's answer is not valid", "update the transporter there") from error


async def ask(link: ControlLink, message: Message, payload: bytes, reply: type[M]) -> tuple[M, memoryview]:
    """Send a question; return its answer of type ``reply``.

    Raises what the peer refuses with, RefusedByPeer for another answer, LinkBroken, trio.TooSlowError.
    """
    with trio.fail_after(ANSWER_SECONDS):
        await link.send(message, payload)
        received = await link.receive()
    if isinstance(received.message, Refused):
        raise refusal_to_error(received.message.code, received.message.what, received.message.remedy)
    if not isinstance(received.message, reply):
        raise RefusedByPeer("the peer answered something else", "update the transporter there")
    return received.message, received.payload


def ask_on(link: ControlLink) -> Ask:
    """Return what asks for a page of a chain on ``link``."""

    async def question(message: GetChain) -> tuple[Chain, memoryview]:
        return await ask(link, message, b"", Chain)

    return question
