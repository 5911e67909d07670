"""How far scrubs are: a scrub that takes weeks goes on where it stopped, and a sampled one where the last one ended.

Packs are proved in the cyclic order of their names, which are hashes. So the pack behind the last one that was proved
is always the one that was not proved for longest, a share of the packs proved each week is all of them after a while,
and 32 bytes say how far everything is. (A pack that appears behind that place was hashed when it was written.)

    index/scrub: 8 magic "TPSCRUB1", 4 length n, n msgpack of `ScrubState`, 32 BLAKE3 of what precedes

It is a cache: without it, or where it is damaged, a scrub begins anew. Two scrubs at once both write it: what each of
them says is true, and the later one holds.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from transporter.repository import files, limits

MAGIC: Final = b"TPSCRUB1"
_FIXED: Final = struct.Struct(">8sI")
_LONGEST: Final = 64 * limits.KIB
_Name = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class ScrubState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``cursor``: the pack that was proved last. ``begun_at``: where an unfinished full scrub began (None: none is).

    ``began_ns``, ``packs``, ``bytes``: of the last full one, and what samples proved since. ``finished_ns``: when the
    last full one ended (0: never). ``damaged``: packs that it found damaged so far, at most `limits.REPORTED`.
    """

    cursor: _Name = bytes(32)
    begun_at: _Name | None = None
    began_ns: Annotated[int, msgspec.Meta(ge=0)] = 0
    packs: Annotated[int, msgspec.Meta(ge=0)] = 0
    bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    finished_ns: Annotated[int, msgspec.Meta(ge=0)] = 0
    damaged: list[_Name] = []


class StateFile:
    """The file in which a repository's `ScrubState` lies."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> ScrubState:
        """Return what is remembered; of a file that is not there, or damaged: nothing."""
        try:
            raw = files.read_small(self._path, _LONGEST)
        except OSError:
            return ScrubState()
        if len(raw) < _FIXED.size + 32 or blake3(raw[:-32]).digest() != raw[-32:]:
            return ScrubState()
        magic, length = _FIXED.unpack_from(raw)
        if magic != MAGIC or len(raw) != _FIXED.size + length + 32:
            return ScrubState()
        try:
            return msgspec.msgpack.decode(raw[_FIXED.size : -32], type=ScrubState)
        except (msgspec.MsgspecError, ValueError):
            return ScrubState()

    def write(self, state: ScrubState) -> None:
        """Remember, if the disk takes it: what is not remembered is proved once more."""
        body = msgspec.msgpack.encode(state)
        raw = _FIXED.pack(MAGIC, len(body)) + body
        temporary = self._path.with_name(f"scrub.{os.getpid()}.tmp")
        try:
            files.unlink(temporary)
            fd = files.create(temporary)
            try:
                files.write(fd, raw + blake3(raw).digest())
            finally:
                os.close(fd)
            files.replace(temporary, self._path)
        except OSError:
            files.discard(temporary)
