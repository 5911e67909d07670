"""Older points are made whole by the source: what the target lost is sealed once more, bit for bit (keys/resealing.py).

The source has the plaintext when it reads it; which codec and level it had is tried.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.chunk import CODEC_LZ4, CODEC_RAW, CODEC_ZSTD, Chunk
from pipeline.compress import compress, compress_zstd
from pipeline.rungs import LADDER
from pipeline.zstd import ZstdCompressors
from protocol.data import HEADROOM
from protocol.lost_messages import LostClaim
from transporter.jobs.packing import Pack
from transporter.keys.resealing import SealedClaim, keys_by_id, seal_as_claimed
from transporter.keys.session_key import SessionKey
from transporter.points.run_keys import RunKeys

# Every level that a chunk may have been packed with, the likely ones first.
LEVELS = tuple(dict.fromkeys((*(rung.level for rung in LADDER if rung.level), 3)))


class Resealer:
    """The chunks that a target says it lost, and the keys they were sealed under. Any thread."""

    def __init__(self, claims: Iterator[LostClaim], keys: RunKeys) -> None:
        fsi = {key.fsi.key_id: key.fsi for key in keys.older_metakeys.values()}
        self._keys = keys_by_id(keys.older_session_keys, keys.older_metakeys, fsi)
        self._claims: dict[bytes, list[LostClaim]] = {}
        for claim in claims:
            if claim.key_id in self._keys:
                self._claims.setdefault(claim.chunk_id, []).append(claim)
        self._compressors = ZstdCompressors()
        self._ready: dict[bytes, tuple[int, bytearray]] = {}
        self.made = 0

    def __contains__(self, chunk_id: bytes) -> bool:
        return chunk_id in self._claims

    def make(self, chunk: Chunk) -> bool:
        """Try to make the lost form of a plain chunk; `packing` hands it on. Each is tried once."""
        for claim in self._claims.pop(chunk.chunk_id, ()):
            stored = self._make(claim, self._keys[claim.key_id], chunk)
            if stored is not None:
                memory = bytearray(HEADROOM + len(stored))
                memory[HEADROOM:] = stored
                self._ready[chunk.chunk_id] = (claim.codec, memory)
                self.made += 1
                return True
        return False

    def _make(self, claim: LostClaim, key: SessionKey, chunk: Chunk) -> bytes | None:
        if claim.plain_length != chunk.plain_length:
            return None
        sealed = SealedClaim(claim.counter, claim.tag)
        for coded in self._codings(claim.codec, chunk):
            stored = seal_as_claimed(key, sealed, chunk.chunk_id, claim.codec, chunk.plain_length, coded)
            if stored is not None:
                return stored
        return None

    def _codings(self, codec: int, chunk: Chunk) -> Iterator[bytes]:
        if codec == CODEC_RAW:
            yield bytes(chunk.data)
        elif codec == CODEC_LZ4:
            found, coded = compress(chunk.data)
            if found == codec:
                yield bytes(coded)
        elif codec == CODEC_ZSTD:
            for level in LEVELS:
                found, coded = compress_zstd(chunk.data, level, self._compressors)
                if found == codec:
                    yield bytes(coded)

    def packing(self, pack: Pack) -> Pack:
        """Return ``pack``, but of what `make` has made it hands on that."""

        def packed(chunk: Chunk, level: int = 0) -> None:
            ready = self._ready.pop(chunk.chunk_id, None)
            if ready is None:
                pack(chunk, level)
            else:
                chunk.codec, chunk.data = ready

        return packed
