"""A send that is cancelled half-way: the peer hears of a cut line, never of tampering."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from transporter.clock import SystemClock
from transporter.link.identity import Identity, create_identity
from transporter.link.tls import TlsStream


class HalfSender(trio.abc.Stream):
    """Passes everything on until told to stop in the middle of a send."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner
        self.half = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.half:
            await self.inner.send_all(data)
            return
        await self.inner.send_all(bytes(data)[: len(data) // 2])
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


def identity(folder, name: str) -> Identity:
    folder.mkdir()
    return create_identity(folder, name, SystemClock())


async def test_nothing_follows_half_a_record(tmp_path) -> None:
    left, right = trio.testing.memory_stream_pair()
    carrier = HalfSender(left)
    client = TlsStream(carrier, identity(tmp_path / "a", "a"), server=False, accept_pin=lambda _pin: True)
    server = TlsStream(right, identity(tmp_path / "b", "b"), server=True, accept_pin=lambda _pin: True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    async with trio.open_nursery() as nursery:
        carrier.half = True
        nursery.start_soon(client.send_all, b"x" * 5000)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    carrier.half = False
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"more")
    await client.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    assert server.refusal is None
    await server.aclose()
