"""A real nginx or HAProxy before the target: as TCP, and as HTTP that passes WebSockets on. TLS ends only at us."""

from __future__ import annotations

import pytest
from programs import haproxy, nginx
from world import contents

from transporter.errors import CannotConnect, IdentityRefused
from transporter.link.address import Address, parse_address
from transporter.link.pairing import invite, join

FRONT_ENDS = {"nginx": nginx, "haproxy": haproxy}
# nginx has a place of its own for it; HAProxy passes every path on.
PATHS = {"nginx": "/backup", "haproxy": ""}


async def round_trip(world, output="out"):
    await world.source.backup()
    assert contents(await world.source.restore(output=output)) == contents(world.source.tree)
    await world.source.verify()


@pytest.mark.parametrize("data", ["direct", "websocket"])
@pytest.mark.parametrize("name", FRONT_ENDS)
async def test_a_front_end_in_tcp_mode(world, in_thread, tmp_path, name, data):
    async with in_thread(FRONT_ENDS[name](tmp_path, "tcp", world.address.port)) as port:
        world.source.dials(Address("127.0.0.1", port))
        world.source.links(data=data)
        await round_trip(world)


@pytest.mark.parametrize("data", ["direct", "websocket"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("name", FRONT_ENDS)
async def test_a_front_end_in_http_mode(world, in_thread, tmp_path, monkeypatch, authority, name, scheme, data):
    root, leaf = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    front_end = FRONT_ENDS[name](tmp_path, "http", world.address.port, leaf if scheme == "wss" else None)
    async with in_thread(front_end) as port:
        world.source.dials(parse_address(f"{scheme}://localhost:{port}{PATHS[name]}"))
        world.source.links(data=data)
        await round_trip(world)
        pin = world.source.offsite.pin
        world.source.catalog.remove_peer("offsite")
        text = invite(world.target.home, "main", address=f"{scheme}://localhost:{port}{PATHS[name]}")
        assert await join(world.source.home, text) == "offsite"
        assert world.source.offsite.pin == pin
        await round_trip(world, "again")


@pytest.mark.parametrize("name", FRONT_ENDS)
async def test_a_front_end_whose_certificate_nobody_vouches_for(world, in_thread, tmp_path, authority, name):
    async with in_thread(FRONT_ENDS[name](tmp_path, "http", world.address.port, authority[1])) as port:
        world.source.dials(parse_address(f"wss://localhost:{port}{PATHS[name]}"))
        with pytest.raises(CannotConnect, match=r"front end's TLS failed.*certificate"):
            await world.source.backup()


async def test_a_front_end_with_a_certificate_of_another_name(world, in_thread, tmp_path, authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    async with in_thread(haproxy(tmp_path, "http", world.address.port, authority[1])) as port:
        world.source.dials(parse_address(f"wss://127.0.0.2:{port}"))
        with pytest.raises(CannotConnect):
            await world.source.backup()


@pytest.mark.parametrize("name", FRONT_ENDS)
async def test_a_front_end_without_a_target_behind_it(world, in_thread, tmp_path, name):
    async with in_thread(FRONT_ENDS[name](tmp_path, "http", 1)) as port:
        world.source.dials(parse_address(f"ws://localhost:{port}{PATHS[name]}"))
        with pytest.raises(CannotConnect, match=r"HTTP status 50[23]"):
            await world.source.backup()


async def test_nobody_behind_the_front_end_but_the_pinned_node(world, in_thread, tmp_path, authority, monkeypatch):
    """The front end's own certificate, sound as it is, makes no peer of what stands behind it."""
    from dataclasses import replace

    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    async with in_thread(haproxy(tmp_path, "http", world.address.port, authority[1])) as port:
        world.source.dials(parse_address(f"wss://localhost:{port}"))
        known = world.source.catalog.peer("offsite")
        world.source.catalog.remove_peer("offsite")
        world.source.catalog.put_peer(replace(known, pin=b"x" * 32))
        with pytest.raises(IdentityRefused, match="not the one that was pinned"):
            await world.source.backup()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_through_a_proxy_to_a_front_end(world, in_thread, tmp_path, authority, monkeypatch, scheme):
    from programs import tinyproxy

    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    leaf = authority[1] if scheme == "wss" else None
    async with (
        in_thread(haproxy(tmp_path, "http", world.address.port, leaf)) as port,
        in_thread(tinyproxy(tmp_path)) as proxy,
    ):
        world.source.dials(parse_address(f"{scheme}://localhost:{port}"))
        world.source.links(outbound_proxy=f"http://127.0.0.1:{proxy}")
        await round_trip(world)
