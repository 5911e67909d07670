"""Finding and reading chunks: live writers first, the index after, one pread for each record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from transporter.errors import DamagedData, TransporterError
from transporter.repository import files
from transporter.repository.errors import ChunkMissing, PackGone
from transporter.repository.index import Index, Location
from transporter.repository.layout import Layout
from transporter.repository.pack_reader import PackReader
from transporter.repository.record import HEADER_LENGTH, ChunkRecord, Entry, open_record
from transporter.repository.writer import PackWriter

# A place is looked up so often when packs vanish meanwhile: each time another compaction would have to come between.
_LOOKS = 4


class ChunkStore:
    """All chunks of a repository, published or still with a writer. ``writers_of``: the live writers of a domain."""

    def __init__(self, layout: Layout, index: Index, writers_of: Callable[[bytes], list[PackWriter]]) -> None:
        self._index = index
        self._writers_of = writers_of
        self._reader = PackReader(layout)

    def have(self, domain: bytes, ids: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        """Return, for each id, the key ids under which the chunk is stored in ``domain`` (unknown: ()).

        Counts what live writers hold, durable or not; `commit_point` sees to it that it becomes so. A doomed chunk that
        is asked for is revived.
        """
        live = self._live_keys(domain, ids)  # before the index: a chunk that is being published is in one of the two
        known = self._index.asked(domain, ids)
        if not live:
            return [known.get(chunk_id, ()) for chunk_id in ids]
        return [_merge(known.get(chunk_id, ()), live.get(chunk_id, ())) for chunk_id in ids]

    def _live_keys(self, domain: bytes, ids: Sequence[bytes]) -> dict[bytes, tuple[bytes, ...]]:
        merged: dict[bytes, tuple[bytes, ...]] = {}
        for writer in self._writers_of(domain):
            for chunk_id, keys in writer.keys_of(ids).items():
                merged[chunk_id] = _merge(merged.get(chunk_id, ()), keys)
        return merged

    def read(self, domain: bytes, chunk_id: bytes, key_ids: Collection[bytes] | None = None) -> ChunkRecord:
        """Return the proven record of a chunk stored under one of ``key_ids`` (None: any).

        ChunkMissing if there is none, DamagedData if there are some and none is sound.
        """
        for writer in self._writers_of(domain):
            for entry in writer.entries_of(chunk_id):
                raw = writer.read_raw(entry) if _allowed(entry, key_ids) else None
                if raw is not None:
                    return open_record(raw, entry)
        for _ in range(_LOOKS - 1):
            try:
                return self._read_first(chunk_id, self._index.locate(domain, [chunk_id]), key_ids)
            except PackGone:
                continue  # compacted by another process since we looked: the index knows the new place
        return self._read_first(chunk_id, self._index.locate(domain, [chunk_id]), key_ids)

    def hash_of(self, domain: bytes, chunk_id: bytes, key_id: bytes) -> bytes:
        """Read and prove the record of a chunk that is stored under ``key_id``; return its hash (32 bytes).

        Raises as `read`.
        """
        record = self.read(domain, chunk_id, (key_id,))
        # `read` gives a view of the whole record, whose header has just been compared with what it is the hash of.
        return bytes(memoryview(memoryview(record.stored).obj)[HEADER_LENGTH - 32 : HEADER_LENGTH])

    def _read_first(
        self, chunk_id: bytes, places: Iterable[Location], key_ids: Collection[bytes] | None
    ) -> ChunkRecord:
        problem: DamagedData = ChunkMissing(
            f"chunk {chunk_id.hex()} is not in the repository", "run `scrub`; the next run of its job sends it again"
        )
        for place in places:
            if not _allowed(place.entry, key_ids):
                continue
            try:
                with files.disk_errors("read a chunk"):
                    return open_record(self._reader.read_raw(place), place.entry)
            except DamagedData as error:
                problem = error
        raise problem

    def read_many(
        self,
        domain: bytes,
        ids: Sequence[bytes],
        key_ids: Collection[bytes] | None = None,
        *,
        on_problem: Callable[[bytes, DamagedData], None] | None = None,
    ) -> Iterator[ChunkRecord]:
        """Yield the records of distinct chunks in the order in which they lie on the disk.

        A chunk that is missing or damaged raises, or is handed to ``on_problem`` and left out. Hold ≤ 4096 ids a call.
        """
        places: dict[bytes, list[Location]] = {chunk_id: [] for chunk_id in ids}
        for place in self._index.locate(domain, list(places)):
            if _allowed(place.entry, key_ids):
                places[place.entry.chunk_id].append(place)
        for chunk_id, found in sorted(places.items(), key=_where):
            try:
                record = self._read_placed(domain, chunk_id, found, key_ids)
            except DamagedData as error:
                if on_problem is None:
                    raise
                on_problem(chunk_id, error)
                continue
            yield record

    def _read_placed(
        self, domain: bytes, chunk_id: bytes, places: list[Location], key_ids: Collection[bytes] | None
    ) -> ChunkRecord:
        try:
            if places:
                return self._read_first(chunk_id, places, key_ids)
        except PackGone:
            pass
        return self.read(domain, chunk_id, key_ids)

    def forget(self, pack: bytes) -> None:
        """Read a pack anew from now on: it was replaced, set aside, or removed; its room is free once it is closed."""
        self._reader.forget(pack)

    def forget_removed(self) -> None:
        """Close packs that another process has removed meanwhile."""
        self._reader.forget_removed()

    def require(self, domain: bytes, ids: Sequence[bytes], key_ids: Collection[bytes] | None) -> None:
        """Raise ChunkMissing unless every chunk is published; writers that hold some publish them first."""
        missing = self._not_indexed(domain, ids, key_ids)
        failure: TransporterError | None = None
        if missing:
            for writer in self._writers_of(domain):
                try:
                    if writer.keys_of(missing):
                        writer.publish()
                except TransporterError as error:
                    failure = error
            missing = self._not_indexed(domain, missing, key_ids)
        if missing:
            raise failure or ChunkMissing(
                f"{len(missing)} chunks that the restore point needs are not stored, the first is {missing[0].hex()}",
                "run the job again",
            )

    def _not_indexed(self, domain: bytes, ids: Sequence[bytes], key_ids: Collection[bytes] | None) -> list[bytes]:
        known = self._index.asked(domain, ids)
        if key_ids is None:
            return [chunk_id for chunk_id in ids if chunk_id not in known]
        return [chunk_id for chunk_id in ids if not any(key in key_ids for key in known.get(chunk_id, ()))]

    def close(self) -> None:
        """Close the packs that are open for reading."""
        self._reader.close()


def _merge(first: tuple[bytes, ...], second: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(first + second)) if first and second else first or second


def _allowed(entry: Entry, key_ids: Collection[bytes] | None) -> bool:
    return key_ids is None or entry.key_id in key_ids


def _where(item: tuple[bytes, list[Location]]) -> tuple[bytes, int]:
    places = item[1]
    return (places[0].pack, places[0].entry.offset) if places else (b"", 0)
