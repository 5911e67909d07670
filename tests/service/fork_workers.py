"""A process that has loaded what workers need, and becomes one, by fork, for each request: the other end of
``forked_workers``, which starts it. Asked for a program (``forked_programs``) it loads those, too, and becomes one.

Its argument is a socket. A request is the byte that names the kind of worker, with descriptors beside it: the socket
that is told of the worker's life (its pid, then its status, four bytes each), then those that the worker takes.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module

from fork_kinds import KIND_OF, PROGRAM

from transporter.workloads.worker import ignore_signals

DESCRIPTORS_AT_MOST = 8
MODULES = {kind: import_module(module) for module, kind in KIND_OF.items()}


def main() -> None:
    """Serve until nobody asks any more."""
    ignore_signals()
    requests = socket.socket(fileno=int(sys.argv[1]))
    lives: dict[int, socket.socket] = {}

    def reap(*_: object) -> None:
        while lives:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with lives.pop(pid) as life, suppress(OSError):
                life.send(struct.pack("<i", os.waitstatus_to_exitcode(status)))

    signal.signal(signal.SIGCHLD, reap)
    while True:
        kind, descriptors, _flags, _address = socket.recv_fds(requests, 1, DESCRIPTORS_AT_MOST)
        if not kind:
            requests.close()
            return
        if kind == PROGRAM and PROGRAM not in MODULES:
            MODULES[PROGRAM] = import_module("program_child")
        life = socket.socket(fileno=descriptors.pop(0))
        # None may end before it is known here.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if not pid:
            for each in (requests, life, *lives.values()):
                each.close()
            become(kind, descriptors)
        lives[pid] = life
        with suppress(OSError):
            life.send(struct.pack("<i", pid))
        for descriptor in descriptors:
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def become(kind: bytes, descriptors: list[int]) -> None:
    """Be that worker, as ``python -m`` would run it; never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        sys.argv[1:] = map(str, descriptors)
        MODULES[kind].main()
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
