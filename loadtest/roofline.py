"""The roofline: the same bytes through the same C functions on all cores, with no protocol and no format around them.

Sender lanes read, hash (keyed BLAKE3), [cut (FastCDC), trees only], compress (lz4 block), seal the chunk (AES-256-GCM)
and seal the frame (AES-256-GCM) into a loopback TCP connection; receiver lanes open the frame, hash the sealed chunk,
write it and make it durable. One process a lane, as many lanes at each end as there are cores; buffers are reused.
No deduplication, no index, no journal, no acknowledgement, no manifest: what is left is what the hardware allows.

Run as ``python -m loadtest.roofline image|tree PATH OUTPUT``; prints one JSON object. The clock starts when every
process is ready and stops when the last receiver's file is durable.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import resource
import secrets
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import blake3
import lz4.block
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyfastcdc import FastCDC

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Barrier as _Barrier

    _Counter = Synchronized[int]
    _Results = SimpleQueue[tuple[str, dict[str, float]]]

MIB = 1 << 20
BLOCK = MIB
LARGEST = 4 * MIB  # the longest chunk that FastCDC cuts here
FILL = 2 * LARGEST  # a tree is read in units of this many bytes
TAG = 16
_ROOM = LARGEST + LARGEST // 128 + 4096  # an lz4 block of incompressible data is a little longer than the data
_LENGTH = struct.Struct(">I")
_CONTEXT = multiprocessing.get_context("fork")  # the parent has one thread, so a fork is safe and shares the imports
_KEY = bytes(range(32))


@dataclasses.dataclass(frozen=True, slots=True)
class Lane:
    """What a lane did: CPU seconds, peak memory in bytes, bytes that passed on the wire or onto the disk."""

    cpu: float
    peak: int
    bytes: int


class Sealer:
    """The sending half of a lane: one chunk in, one frame on the socket."""

    def __init__(self, connection: socket.socket) -> None:
        """Take reusable buffers for one chunk."""
        self._connection = connection
        self._chunk_cipher, self._frame_cipher = AESGCM(_KEY), AESGCM(_KEY)
        self._sealed = memoryview(bytearray(_ROOM))
        self._frame = memoryview(bytearray(_ROOM))
        self._counter = 0
        self.sent = 0

    def send(self, plain: memoryview) -> None:
        """Hash, compress, seal twice, send."""
        chunk_id = blake3.blake3(plain, key=_KEY).digest()
        packed = lz4.block.compress(plain, store_size=False)
        nonce = self._counter.to_bytes(12, "big")
        self._counter += 1
        sealed = len(packed) + TAG
        self._chunk_cipher.encrypt_into(nonce, packed, chunk_id, self._sealed[:sealed])
        framed = sealed + TAG
        _LENGTH.pack_into(self._frame, 0, framed)
        self._frame_cipher.encrypt_into(nonce, self._sealed[:sealed], None, self._frame[4 : 4 + framed])
        self._connection.sendall(self._frame[: 4 + framed])
        self.sent += 4 + framed


def send_image(path: Path, take: Callable[[], int], sealer: Sealer) -> None:
    """Send every block whose number `take` hands out, until it is past the end."""
    size = path.stat().st_size
    block = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while (offset := take() * BLOCK) < size:
            count = os.preadv(file.fileno(), [block], offset)
            sealer.send(block[:count])


def walk(folder: str, *, deep: bool = True) -> Iterator[tuple[str, int]]:
    """Yield (path, size) of the regular files of a folder, those of its sub-folders too if `deep`."""
    with os.scandir(folder) as rows:
        entries = sorted(rows, key=lambda row: row.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if deep:
                yield from walk(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry.path, entry.stat(follow_symlinks=False).st_size


def portions(tree: Path) -> list[tuple[str, bool]]:
    """Cut a tree into (folder, deep) portions small enough to spread over the lanes."""
    found = [(str(tree), False)]
    for first in sorted(row.path for row in os.scandir(tree) if row.is_dir(follow_symlinks=False)):
        found.append((first, False))
        found += [(row.path, True) for row in os.scandir(first) if row.is_dir(follow_symlinks=False)]
    return found


def send_tree(tree: Path, take: Callable[[], int], sealer: Sealer) -> None:
    """Send the content of every portion whose number `take` hands out, cut by FastCDC, many files to a chunk."""
    work = portions(tree)
    buffer = memoryview(bytearray(FILL))
    chunker = FastCDC(MIB, min_size=MIB // 4, max_size=LARGEST)
    filled = 0
    while (number := take()) < len(work):
        for path, _ in walk(work[number][0], deep=work[number][1]):
            handle = os.open(path, os.O_RDONLY)
            try:
                while count := os.readv(handle, [buffer[filled:]]):
                    filled += count
                    if filled == FILL:
                        filled = _cut(chunker, buffer, filled, sealer, last=False)
            finally:
                os.close(handle)
    _cut(chunker, buffer, filled, sealer, last=True)


def _cut(chunker: FastCDC, buffer: memoryview, filled: int, sealer: Sealer, *, last: bool) -> int:
    """Send the chunks of the buffer; keep the tail that the next bytes could still change; return its length."""
    start = 0
    for chunk in chunker.cut_buf(buffer[:filled]):
        if not last and filled - chunk.offset < LARGEST:
            break
        sealer.send(chunk.data)
        start = chunk.offset + chunk.length
    buffer[: filled - start] = buffer[start:filled]
    return filled - start


def receive(connection: socket.socket, output: Path) -> int:
    """Open, hash and write every frame until the sender closes; return the bytes written, all durable."""
    cipher = AESGCM(_KEY)
    frame, sealed = memoryview(bytearray(_ROOM)), memoryview(bytearray(_ROOM))
    length = bytearray(4)
    counter = written = 0
    with output.open("wb", buffering=0) as file:
        while connection.recv_into(length, 4, socket.MSG_WAITALL) == len(length):
            (size,) = _LENGTH.unpack(length)
            connection.recv_into(frame, size, socket.MSG_WAITALL)
            cipher.decrypt_into(counter.to_bytes(12, "big"), frame[:size], None, sealed[: size - TAG])
            counter += 1
            blake3.blake3(sealed[: size - TAG]).digest()
            written += file.write(sealed[: size - TAG])
        os.fsync(file.fileno())
    return written


def _account(amount: int) -> Lane:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Lane(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, amount)


def _sender(kind: str, path: Path, port: int, counter: _Counter, start: _Barrier, results: _Results) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        sealer = Sealer(connection)

        def take() -> int:
            with counter.get_lock():
                counter.value += 1
                return int(counter.value) - 1

        start.wait()
        (send_image if kind == "image" else send_tree)(path, take, sealer)
    results.put(("source", dataclasses.asdict(_account(sealer.sent))))


def _receiver(listener: socket.socket, output: Path, start: _Barrier, results: _Results) -> None:
    connection, _ = listener.accept()
    start.wait()
    with connection:
        written = receive(connection, output)
    results.put(("target", dataclasses.asdict(_account(written))))


def measure(kind: str, path: Path, output: Path, lanes: int) -> dict[str, object]:
    """Run the roofline once; return seconds, and for each end its CPU seconds, peak memory (bytes) and bytes."""
    start, results = _CONTEXT.Barrier(2 * lanes + 1), _CONTEXT.SimpleQueue()
    counter = _CONTEXT.Value("Q", 0)
    name = secrets.token_hex(4)
    with socket.create_server(("127.0.0.1", 0), backlog=lanes) as listener:
        port = listener.getsockname()[1]
        workers = [
            _CONTEXT.Process(target=_receiver, args=(listener, output / f"{name}-{lane}", start, results), daemon=True)
            for lane in range(lanes)
        ] + [
            _CONTEXT.Process(target=_sender, args=(kind, path, port, counter, start, results), daemon=True)
            for _ in range(lanes)
        ]
        for worker in workers:
            worker.start()
        start.wait()
        started = time.monotonic()
        rows = [results.get() for _ in workers]
        seconds = time.monotonic() - started
        for worker in workers:
            worker.join()
    ends: dict[str, object] = {"seconds": seconds, "lanes": lanes}
    for end in ("source", "target"):
        mine = [row for side, row in rows if side == end]
        ends[end] = {key: sum(row[key] for row in mine) for key in ("cpu", "peak", "bytes")}
    return ends


def main() -> None:
    """Run once and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=("image", "tree"))
    parser.add_argument("path", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--lanes", type=int, default=max(2, os.cpu_count() or 2))
    chosen = parser.parse_args()
    json.dump(measure(chosen.kind, chosen.path, chosen.output, chosen.lanes), sys.stdout)


if __name__ == "__main__":
    main()
