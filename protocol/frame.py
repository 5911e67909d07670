"""Frames: ``u32 length | u8 kind | u16 header length | msgpack header | payload``. Integers are big-endian.

`encode` and `decode` turn messages into bodies and back; a body is clear here, sealing is `data.py`'s.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final

from protocol import codec, limits
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.fields import FieldTable, table_of
from protocol.messages import CONTROL_MESSAGES, DATA_MESSAGES, Message

Buffer = bytes | bytearray | memoryview

LENGTH: Final = struct.Struct(">I")
_BODY: Final = struct.Struct(">BH")
_EMPTY: Final = memoryview(b"")


def _tables(kinds: Iterable[type[Message]]) -> dict[int, tuple[type[Message], FieldTable]]:
    tables: dict[int, tuple[type[Message], FieldTable]] = {}
    for message in kinds:
        if message.KIND in tables:
            raise TypeError(f"{message.__name__}: kind {message.KIND} is taken")
        tables[message.KIND] = (message, table_of(message, message.IN_PAYLOAD))
    return tables


_CONTROL: Final = _tables(CONTROL_MESSAGES)
_DATA: Final = _tables(DATA_MESSAGES)
_BY_TYPE: Final = {message: table for message, table in (_CONTROL | _DATA).values()}


def encode(message: Message, payload: Buffer = b"") -> tuple[bytes, Buffer]:
    """Return the front of a body (kind, header length, header) and its payload.

    Raises LocalProtocolError when a field or the payload is out of bounds.
    """
    table = _BY_TYPE.get(type(message))
    if table is None:
        raise LocalProtocolError(f"{type(message).__name__} is not a message")
    values: dict[str, Any] = {}
    for name, check in table.header:
        value = getattr(message, name)
        if (wrong := check(value)) is not None:
            raise LocalProtocolError(f"{type(message).__name__}.{name} {wrong}")
        values[name] = value
    if table.in_payload is not None:
        if len(payload):
            raise LocalProtocolError(f"{type(message).__name__} makes its payload itself")
        name, check = table.in_payload
        payload = getattr(message, name)
        if (wrong := check(payload)) is not None:
            raise LocalProtocolError(f"{type(message).__name__}.{name} {wrong}")
    if len(payload) > message.PAYLOAD:
        raise LocalProtocolError(
            f"{type(message).__name__}: a payload of {len(payload)} bytes, {message.PAYLOAD} are allowed"
        )
    header = codec.pack(values)
    if len(header) > limits.MAX_HEADER:
        raise LocalProtocolError(f"{type(message).__name__}: the header is too long")
    return _BODY.pack(message.KIND, len(header)) + header, payload


def decode_control(body: memoryview) -> tuple[Message, memoryview]:
    """Return the message in a body from a control connection, and its payload. Raises RemoteProtocolError."""
    return _decode(body, _CONTROL)


def decode_data(body: memoryview) -> tuple[Message, memoryview]:
    """Return the message in an opened body of a data channel, and its payload. Raises RemoteProtocolError."""
    return _decode(body, _DATA)


def _decode(body: memoryview, tables: dict[int, tuple[type[Message], FieldTable]]) -> tuple[Message, memoryview]:
    if len(body) < limits.BODY_PREFIX:
        raise RemoteProtocolError("a frame is too short for its header")
    kind, header_length = _BODY.unpack_from(body)
    start = limits.BODY_PREFIX + header_length
    if start > len(body):
        raise RemoteProtocolError("a header is longer than its frame")
    known = tables.get(kind)
    if known is None:
        raise RemoteProtocolError(f"a message of unknown kind {kind}")
    payload = body[start:]
    return decode(known[0], known[1], bytes(body[limits.BODY_PREFIX : start]), payload)


def decode(message: type[Message], table: FieldTable, header: bytes, payload: memoryview) -> tuple[Message, memoryview]:
    """Build a message from its header and payload. Fields it does not know are skipped. Raises RemoteProtocolError."""
    name = message.__name__
    if len(payload) > message.PAYLOAD:
        raise RemoteProtocolError(f"{name}: a payload of {len(payload)} bytes, {message.PAYLOAD} are allowed")
    sent = codec.unpack(header)
    if type(sent) is not dict:
        raise RemoteProtocolError(f"{name}: the header is not a map")
    values: dict[str, Any] = {}
    for field, check in table.header:
        if field in sent:
            value = sent[field]
            if (wrong := check(value)) is not None:
                raise RemoteProtocolError(f"{name}.{field} {wrong}")
            values[field] = value
        elif field in table.required:
            raise RemoteProtocolError(f"{name}.{field} is missing")
    if table.in_payload is not None:
        field, check = table.in_payload
        value = bytes(payload)
        if (wrong := check(value)) is not None:
            raise RemoteProtocolError(f"{name}.{field} {wrong}")
        values[field] = value
        payload = _EMPTY
    return message(**values), payload
