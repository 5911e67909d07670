"""Reading a bundle, member by member: nothing is held but a segment, and nothing handed out that was not proved."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from transporter.bundle.manifest import MAX_FILE, MAX_MANIFEST, Manifest, Member, decode_manifest
from transporter.bundle.stream import SEGMENT, Header, SealedReader, damaged, open_stream, read_header
from transporter.errors import UsageError
from transporter.keys.derive import same

Put = Callable[[bytes], object]
"""Takes the next piece of a member."""


@dataclass(frozen=True)
class Bundle:
    """An open bundle whose password is still to come."""

    file: BinaryIO
    header: Header

    def unlock(self, password: bytes) -> OpenBundle:
        """Return its contents; may be tried again. Raises WrongPassword, DamagedData, UnsupportedFormat, UsageError."""
        self.file.seek(len(self.header.raw))
        stream = open_stream(self.file, self.header, password)
        length = int.from_bytes(stream.read_exactly(4), "big")
        if length > MAX_MANIFEST:
            raise damaged("its list of contents is longer than any can be")
        return OpenBundle(self.header.bundle_id, decode_manifest(stream.read_exactly(length)), stream)


@dataclass(frozen=True)
class OpenBundle:
    """A bundle that its password opened. ``each`` once."""

    bundle_id: bytes
    manifest: Manifest
    stream: SealedReader

    def each(self, taker: Callable[[Member], Put]) -> None:
        """Give every member to what ``taker`` returns for it, in pieces, and prove it: length, hash, and the end.

        Raises DamagedData; what a taker was given until then is to be thrown away.
        """
        for member in self.manifest.members:
            put = taker(member)
            digest, left = blake3(), member.length
            while left:
                piece = self.stream.read(min(left, SEGMENT))
                digest.update(piece)
                put(piece)
                left -= len(piece)
            if not same(digest.digest(), member.blake3):
                raise damaged(f"{member.name} is not what was exported")
        self.stream.finish()

    def prove(self) -> None:
        """Read all of it, and keep nothing. Raises DamagedData."""
        self.each(lambda _member: len)


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Yield the bundle at ``path``. Raises UsageError (no such file), DamagedData, UnsupportedFormat."""
    try:
        # Not to wait for ever for somebody to write to a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise UsageError(f"{path} is not a file", "name the file that `config export` wrote")
    with open(handle, "rb") as file:
        if found.st_size > MAX_FILE:
            raise damaged("it is longer than any can be")
        yield Bundle(file, read_header(file))
