from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.ticket import TICKET_LENGTH, TICKET_MAGIC, encode_ticket, parse_ticket
from transporter.link import tickets as module
from transporter.link.tickets import TicketOffice


async def take(_stream):
    raise AssertionError("nobody comes")


async def test_a_ticket_is_good_once():
    office = TicketOffice()
    ticket = office.issue(take)
    assert office.find(bytes(32)) is None
    assert office.find(ticket) is take
    assert office.find(ticket) is None


async def test_a_ticket_grows_old(autojump_clock):
    office = TicketOffice()
    old = office.issue(take)
    autojump_clock.jump(limits.TICKET_SECONDS)
    assert office.find(old) is None


async def test_a_ticket_can_be_withdrawn():
    office = TicketOffice()
    ticket = office.issue(take)
    office.withdraw(ticket)
    office.withdraw(ticket)
    assert office.find(ticket) is None


async def test_old_tickets_make_room(autojump_clock, monkeypatch):
    monkeypatch.setattr(module, "TICKETS_AT_MOST", 3)
    office = TicketOffice()
    issued = [office.issue(take) for _ in range(3)]
    assert office.full
    autojump_clock.jump(limits.TICKET_SECONDS + 1)
    assert not office.full
    assert [office.find(ticket) for ticket in issued] == [None] * 3


def test_a_ticket_survives_the_line():
    ticket = bytes(range(32))
    data = encode_ticket(ticket)
    assert len(data) == TICKET_LENGTH
    assert parse_ticket(data) == ticket
    assert all(parse_ticket(data[:end]) is None for end in range(TICKET_LENGTH))
    assert parse_ticket(data + b"more") == ticket


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_ticket_has_one_length(length):
    with pytest.raises(LocalProtocolError):
        encode_ticket(bytes(length))


def test_another_version_is_refused():
    with pytest.raises(RemoteProtocolError, match="version 2"):
        parse_ticket(TICKET_MAGIC + b"\x02")


@given(st.binary(max_size=64))
def test_any_bytes_are_a_ticket_or_refused(data):
    try:
        ticket = parse_ticket(data)
    except RemoteProtocolError:
        assert not encode_ticket(bytes(32)).startswith(data[: len(TICKET_MAGIC) + 1])
    else:
        assert ticket is None or encode_ticket(ticket) == data[:TICKET_LENGTH]
