"""Headers of a tar stream in the PAX format (POSIX.1-2001; extended attributes as ``SCHILY.xattr.*``).

The ustar header is the standard library's. The records in front of it are written here: the library takes names and
attributes as text, and those of a file system are bytes.
"""

from __future__ import annotations

import os
import tarfile

from transporter.workloads.entry import Entry

BLOCK = 512
END = bytes(tarfile.RECORDSIZE)
"""What a tar stream ends with: two empty blocks are the end, and readers like whole records."""
MAX_USTAR_SIZE = 0o77777777777
MAX_USTAR_ID = 0o7777777
MAX_USTAR_NAME = 100
MAX_USTAR_OWNER = 31
TYPES = {
    "f": tarfile.REGTYPE,
    "d": tarfile.DIRTYPE,
    "l": tarfile.SYMTYPE,
    "p": tarfile.FIFOTYPE,
    "c": tarfile.CHRTYPE,
    "b": tarfile.BLKTYPE,
}


def header(path: bytes, entry: Entry, *, first: bytes = b"") -> bytes:
    """Return what stands before the content of one member. ``first``: the member that it is a further name of."""
    kind = tarfile.LNKTYPE if first else TYPES[entry.kind]
    size = entry.size if kind == tarfile.REGTYPE else 0
    target = first or (entry.target if entry.kind == "l" else b"")
    records = {b"mtime": _time(entry.mtime_ns)}
    info = tarfile.TarInfo()
    info.type = kind
    info.mode = entry.mode
    info.mtime = min(max(entry.mtime_ns // 10**9, 0), MAX_USTAR_SIZE)
    info.name = _text(records, b"path", path, MAX_USTAR_NAME)
    info.linkname = _text(records, b"linkpath", target, MAX_USTAR_NAME)
    info.size = _number(records, b"size", size, MAX_USTAR_SIZE)
    info.uid = _number(records, b"uid", entry.uid, MAX_USTAR_ID)
    info.gid = _number(records, b"gid", entry.gid, MAX_USTAR_ID)
    info.uname = _text(records, b"uname", entry.user, MAX_USTAR_OWNER)
    info.gname = _text(records, b"gname", entry.group, MAX_USTAR_OWNER)
    if entry.kind in "bc":
        info.devmajor, info.devminor = os.major(entry.rdev), os.minor(entry.rdev)
    if not first:
        for name, value in entry.xattrs.items():
            records[b"SCHILY.xattr." + name.replace(b"%", b"%25").replace(b"=", b"%3D")] = value
    return _records(records) + info.tobuf(tarfile.USTAR_FORMAT, "ascii", "surrogateescape")


def padding(size: int) -> bytes:
    """Return what fills the last block of ``size`` bytes of content."""
    return bytes(-size % BLOCK)


def _time(ns: int) -> bytes:
    seconds, rest = divmod(abs(ns), 10**9)
    return f"{'-' if ns < 0 else ''}{seconds}.{rest:09}".encode()


def _text(records: dict[bytes, bytes], key: bytes, value: bytes, longest: int) -> str:
    """Return what goes into the ustar header; where that is too little for it, a record says it."""
    if len(value) <= longest and value.isascii():
        return value.decode()
    records[key] = value
    return value[:longest].decode("ascii", "replace").encode("ascii", "replace").decode()


def _number(records: dict[bytes, bytes], key: bytes, value: int, greatest: int) -> int:
    if value <= greatest:
        return value
    records[key] = str(value).encode()
    return 0


def _records(records: dict[bytes, bytes]) -> bytes:
    body = b"".join(_record(key, value) for key, value in records.items())
    info = tarfile.TarInfo("././@PaxHeader")
    info.type = tarfile.XHDTYPE
    info.size = len(body)
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict") + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    """Return length, key and value as a line; the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)
