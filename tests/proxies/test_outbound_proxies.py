"""Every job works through real SOCKS5 and HTTP CONNECT proxies."""

from __future__ import annotations

import base64

import pytest
import trio
import trio.testing
from kept_port import kept_port
from programs import danted, microsocks, tinyproxy
from world import contents

from transporter.errors import CannotConnect
from transporter.link.address import Address, parse_address
from transporter.link.outbound import open_tcp
from transporter.link.pairing import invite, join
from transporter.outbound_proxy import parse_proxy

SECRET = "pa55 of@the:proxy"
WRITTEN = "pa55%20of%40the%3Aproxy"


async def round_trip(world):
    await world.source.backup()
    assert contents(await world.source.restore()) == contents(world.source.tree)


@pytest.mark.parametrize("data", ["direct", "websocket"])
@pytest.mark.parametrize("kind", ["tinyproxy", "danted"])
async def test_backup_and_restore(world, in_thread, tmp_path, kind, data):
    start = {"tinyproxy": tinyproxy, "danted": danted}[kind]
    async with in_thread(start(tmp_path)) as port:
        scheme = "http" if kind == "tinyproxy" else "socks5"
        # A name that the proxy resolves; "localhost" is one that every proxy knows.
        world.source.dials(Address("localhost", world.address.port))
        world.source.links(outbound_proxy=f"{scheme}://127.0.0.1:{port}", data=data)
        await round_trip(world)
    with pytest.raises(CannotConnect, match="through the proxy"):
        await world.source.backup()


@pytest.mark.parametrize("kind", ["tinyproxy", "microsocks"])
async def test_a_user_and_a_password(world, in_thread, tmp_path, kind):
    # What a configuration file of this proxy can hold.
    secret, written = ("pa55word", "pa55word") if kind == "tinyproxy" else (SECRET, WRITTEN)
    start = {"tinyproxy": tinyproxy, "microsocks": microsocks}[kind](tmp_path, "ann", secret)
    scheme = "http" if kind == "tinyproxy" else "socks5"
    async with in_thread(start) as port:
        world.source.links(outbound_proxy=f"{scheme}://ann:{written}@127.0.0.1:{port}")
        await round_trip(world)
        file = tmp_path / "proxy-password"
        file.write_text(secret + "\n")
        world.source.links(outbound_proxy=f"{scheme}://ann@127.0.0.1:{port}", outbound_proxy_password_file=str(file))
        await world.source.verify()
        for wrong in (f"{scheme}://ann:wr0ng-one@127.0.0.1:{port}", f"{scheme}://127.0.0.1:{port}"):
            world.source.links(outbound_proxy=wrong, outbound_proxy_password_file="")
            with pytest.raises(CannotConnect) as caught:
                await world.source.backup()
            text = str(caught.value)
            assert f"127.0.0.1:{port}" in text
            assert "user and password" in text
            assert "wr0ng-one" not in text
            assert base64.b64encode(b"ann:wr0ng-one").decode() not in text


async def test_a_proxy_that_refuses_the_port(world, in_thread, tmp_path):
    async with in_thread(tinyproxy(tmp_path, more="ConnectPort 443")) as port:
        world.source.links(outbound_proxy=f"http://127.0.0.1:{port}")
        with pytest.raises(CannotConnect, match=f"through the proxy http://127.0.0.1:{port}.*403"):
            await world.source.backup()


async def test_a_socks_proxy_that_refuses_the_port(world, in_thread, tmp_path):
    async with in_thread(danted(tmp_path, blocked=world.address.port)) as port:
        world.source.links(outbound_proxy=f"socks5://127.0.0.1:{port}")
        with pytest.raises(CannotConnect, match=f"through the proxy socks5://127.0.0.1:{port}.*not allowed"):
            await world.source.backup()


@pytest.mark.parametrize("kind", ["tinyproxy", "danted"])
async def test_a_target_that_is_not_there_is_not_the_proxys_fault(world, in_thread, tmp_path, kind):
    start = {"tinyproxy": tinyproxy, "danted": danted}[kind]
    async with in_thread(start(tmp_path)) as port:
        proxy = parse_proxy(f"{'http' if kind == 'tinyproxy' else 'socks5'}://127.0.0.1:{port}", "the test")
        with kept_port() as silent:
            for address in (Address("127.0.0.1", silent), Address("no-such-host.invalid", 1)):
                with pytest.raises(CannotConnect, match=f"cannot connect to {address} through the proxy {proxy}"):
                    await open_tcp(address, 30, proxy)


async def test_pairing_goes_through_the_proxy_too(world, in_thread, tmp_path):
    async with in_thread(tinyproxy(tmp_path)) as port:
        config = world.neighbour.home.config_path
        config.write_text(config.read_text() + f'[link]\noutbound_proxy = "http://127.0.0.1:{port}"\n')
        text = invite(world.target.home, "main", address=str(world.address))
        assert await join(world.neighbour.home, text) == "offsite"
        assert "CONNECT" in (tmp_path / "tinyproxy.log").read_text().upper()
    with pytest.raises(CannotConnect, match="through the proxy"):
        await join(world.neighbour.home, invite(world.target.home, "main", address=str(world.address)))


# --- without a real proxy -------------------------------------------------------------------------------------


class Proxy:
    """An HTTP proxy of this test: it says what it likes, or leads to ``target`` whatever is asked for."""

    def __init__(self, answer, target=None):
        self.answer, self.target, self.asked = answer, target, []
        self.pieces = 1_000_000

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self.take, listeners)

    async def take(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            head += await client.receive_some(4096)
        self.asked.append(head.decode())
        if self.answer is None:
            await trio.sleep_forever()
        for at in range(0, len(self.answer), self.pieces):
            await client.send_all(self.answer[at : at + self.pieces])
            await trio.testing.wait_all_tasks_blocked(0.001)
        if self.target is None:
            return
        async with (
            await trio.open_tcp_stream(self.target.host, self.target.port) as server,
            trio.open_nursery() as ways,
        ):
            for source, sink in ((client, server), (server, client)):
                ways.start_soon(self.pump, source, sink, ways.cancel_scope)

    async def pump(self, source, sink, scope):
        try:
            async for data in source:
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@pytest.fixture
async def proxy(nursery):
    async def start(answer=b"HTTP/1.1 200 OK\r\n\r\n", target=None):
        made = Proxy(answer, target)
        await nursery.start(made.run)
        return made

    return start


async def test_a_proxy_of_the_environment_gets_the_name_and_this_node_does_not_look_it_up(world, proxy, monkeypatch):
    between = await proxy(target=world.address)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{between.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    world.source.dials(parse_address("offsite.invalid:6180"))
    await round_trip(world)
    assert {line.split("\r\n")[0] for line in between.asked} == {"CONNECT offsite.invalid:6180 HTTP/1.1"}
    assert len(between.asked) > 2, "control connections and data channels"
    monkeypatch.setenv("no_proxy", "offsite.invalid")
    with pytest.raises(CannotConnect) as caught:
        await world.source.backup()
    assert "proxy" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"\x00\xff\xfe\r\n\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1\r\n\r\n"),
        *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 407 \x1b[31mPay up " + b"x" * 5000 + b"\r\n\r\n"),
        *(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nHello", b"a" * 100_000),
    ],
)
async def test_whatever_a_proxy_says_is_one_of_our_errors(proxy, answer):
    between = await proxy(answer)
    with pytest.raises(CannotConnect) as caught:
        await open_tcp(Address("offsite.invalid", 1), 5, parse_proxy(f"http://ann:s3cr3t@127.0.0.1:{between.port}"))
    text = str(caught.value)
    assert "s3cr3t" not in text
    assert text.isprintable()
    assert len(text) < 700


async def test_an_answer_may_come_in_pieces(world, proxy):
    between = await proxy(b"HTTP/1.1 200 OK\r\nVia: a\r\nVia: b\r\n\r\n", world.address)
    between.pieces = 7
    world.source.links(outbound_proxy=f"http://127.0.0.1:{between.port}")
    await world.source.backup()


async def test_a_silent_proxy_does_not_hold_up_anybody(proxy, autojump_clock):
    between = await proxy(None)
    with pytest.raises(CannotConnect, match="within 7 s it does not answer"):
        await open_tcp(Address("offsite.invalid", 1), 7, parse_proxy(f"http://127.0.0.1:{between.port}"))


async def test_a_dial_can_be_cancelled(proxy):
    between = await proxy(None)
    with trio.move_on_after(0.1) as scope:
        await open_tcp(Address("offsite.invalid", 1), 60, parse_proxy(f"http://127.0.0.1:{between.port}"))
    assert scope.cancelled_caught
