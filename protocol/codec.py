"""msgpack, strict and bounded. The only module that imports it.

What a peer sends is walked through first (`check`), byte by byte and without building anything: depth, lengths, the
number of items in all, no extension types, nothing after the end. Only then is it built. Duplicate keys are refused,
because two readers of one map must not see two values. Keys are strings.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.limits import HEADER_BOUNDS, Bounds

# Shared: packing runs no Python code, so that one call ends before another begins.
_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


def pack(value: object) -> bytes:
    """Return ``value`` as msgpack. Raises LocalProtocolError for what msgpack cannot hold."""
    try:
        packed: bytes = _packer.pack(value)
    except (TypeError, ValueError, OverflowError) as error:
        _packer.reset()
        raise LocalProtocolError(f"cannot be packed: {type(error).__name__}") from None
    return packed


def unpack(data: bytes, bounds: Bounds = HEADER_BOUNDS) -> Any:  # noqa: ANN401 - whatever the peer sent
    """Return the one value in ``data``. Raises RemoteProtocolError unless it is exactly one, within ``bounds``."""
    check(data, bounds)
    try:
        return msgpack.unpackb(
            data, raw=False, use_list=True, strict_map_key=True, object_pairs_hook=_unique,
            max_str_len=bounds.string, max_bin_len=bounds.binary, max_array_len=bounds.array, max_map_len=bounds.map,
            max_ext_len=0,
        )  # fmt: skip
    except RemoteProtocolError:
        raise
    except (ValueError, msgpack.UnpackException) as error:
        # Texts of these errors may quote the data.
        raise RemoteProtocolError(f"malformed msgpack: {type(error).__name__}") from None


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        raise RemoteProtocolError("malformed msgpack: a key occurs twice")
    for key in built:
        if type(key) is not str:
            raise RemoteProtocolError("malformed msgpack: a key is not a string")
    return built


# What the first byte of a value says: (class, fixed length or size of the length word).
_SCALAR: Final = 0  # n more bytes follow
_STRING: Final = 1  # a length word of n bytes, then as many bytes
_BINARY: Final = 2
_ARRAY: Final = 3  # a count word of n bytes
_MAP: Final = 4
_SHORT_STRING: Final = 5  # n bytes
_SHORT_ARRAY: Final = 6  # n items
_SHORT_MAP: Final = 7  # n pairs
_REFUSED: Final = 8


def _first_bytes() -> tuple[tuple[int, int], ...]:
    table = [(_SCALAR, 0)] * 256
    for n in range(16):
        table[0x80 + n] = (_SHORT_MAP, n)
        table[0x90 + n] = (_SHORT_ARRAY, n)
    for n in range(32):
        table[0xA0 + n] = (_SHORT_STRING, n)
    table[0xC1] = (_REFUSED, 0)
    for code in (0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8):
        table[code] = (_REFUSED, 1)
    for n, (string, binary) in enumerate(((0xD9, 0xC4), (0xDA, 0xC5), (0xDB, 0xC6))):
        table[string] = (_STRING, 1 << n)
        table[binary] = (_BINARY, 1 << n)
    for n, (array, mapping) in enumerate(((0xDC, 0xDE), (0xDD, 0xDF))):
        table[array] = (_ARRAY, 2 << n)
        table[mapping] = (_MAP, 2 << n)
    table[0xCA], table[0xCB] = (_SCALAR, 4), (_SCALAR, 8)
    for n in range(4):
        table[0xCC + n] = table[0xD0 + n] = (_SCALAR, 1 << n)
    return tuple(table)


_FIRST: Final = _first_bytes()
_FIXED: Final = frozenset({_SCALAR, _SHORT_STRING})
_NESTING: Final = frozenset({_ARRAY, _MAP, _SHORT_ARRAY, _SHORT_MAP})


def check(data: bytes, bounds: Bounds) -> None:
    """Walk through one msgpack value without building it. Raises RemoteProtocolError. Time: linear in its items."""
    size = len(data)
    if size > bounds.total:
        raise RemoteProtocolError(f"malformed msgpack: {size} bytes, {bounds.total} are allowed")
    at = items = 0
    left = 1
    above: list[int] = []
    while True:
        while not left:
            if not above:
                if at != size:
                    raise RemoteProtocolError("malformed msgpack: something follows the end")
                return
            left = above.pop()
        left -= 1
        items += 1
        if items > bounds.items:
            raise RemoteProtocolError(f"malformed msgpack: more than {bounds.items} items")
        if at >= size:
            raise RemoteProtocolError("malformed msgpack: it ends early")
        kind, n = _FIRST[data[at]]
        at += 1
        if kind in _FIXED:
            at += n
            inner = 0
        elif kind == _SHORT_ARRAY:
            inner = n
        elif kind == _SHORT_MAP:
            inner = 2 * n
        elif kind == _REFUSED:
            raise RemoteProtocolError("malformed msgpack: an extension or a reserved type")
        else:
            # A word cut short gives a smaller number; the end of the data is checked either way.
            word = int.from_bytes(data[at : at + n], "big")
            at += n
            inner = _counted(kind, word, bounds)
            if kind <= _BINARY:
                at += word
        if at > size:
            raise RemoteProtocolError("malformed msgpack: it ends early")
        if kind in _NESTING:
            above.append(left)
            if len(above) > bounds.depth:
                raise RemoteProtocolError(f"malformed msgpack: deeper than {bounds.depth}")
            left = inner


def _counted(kind: int, count: int, bounds: Bounds) -> int:
    """Check a length word against its bound; return how many items follow inside."""
    if kind == _STRING:
        name, most, inner = "a string", bounds.string, 0
    elif kind == _BINARY:
        name, most, inner = "a binary", bounds.binary, 0
    elif kind == _ARRAY:
        name, most, inner = "an array", bounds.array, count
    else:
        name, most, inner = "a map", bounds.map, 2 * count
    if count > most:
        raise RemoteProtocolError(f"malformed msgpack: {name} of {count}, {most} are allowed")
    return inner
