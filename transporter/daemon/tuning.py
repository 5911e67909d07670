"""Settings of the process that the data path depends on; measured, with the reason beside each."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys

# Threads that make many short system calls hand the interpreter lock to and fro; at the default of 5 ms the event
# loop waits for whole time slices of the reader.
SWITCH_INTERVAL = 0.0005

# What the data path allocates is freed by reference counting; the collector finds nothing there, and at its default
# pace spends several per cent of a backup of many small files looking.
COLLECT_AFTER = 50_000

# What a daemon is at the start. It may stay that large between jobs: what one job leaves adds to the peak of the next.
KEEP_BYTES = 60 << 20

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE = 64 << 20
# Up to an image's block and its seal memory is kept and used again; the longer chunks of a tree, of ever different
# lengths, would leave a heap full of holes (half as much again at the peak of a restore): they are mapped one by one.
_MAPPED_FROM = 1280 << 10
# Few arenas: memory freed by one thread is used again by the next instead of growing one heap for each.
_ARENAS = 2


def tune_process() -> None:
    """Set the switch interval and the collector, and tell the C library to keep and reuse chunk-sized memory.

    By default each allocation of a chunk is its own mapping: fresh pages every time, which are dear to touch on
    virtual machines. Where the C library has no ``mallopt`` that part changes nothing.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(COLLECT_AFTER, 20, 20)
    gc.freeze()
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
    mallopt(_M_TRIM_THRESHOLD, _LARGE)
    mallopt(_M_ARENA_MAX, _ARENAS)


def give_back_memory() -> None:
    """After a job: free what only a cycle holds, and when much is kept, return free memory to the system.

    Without it each job adds its own fragments to the peak of those before. Not every time: the next job would have to
    touch all of it for the first time again, and that is dear on virtual machines.
    """
    gc.collect()
    if _resident_bytes() < KEEP_BYTES:
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return KEEP_BYTES
