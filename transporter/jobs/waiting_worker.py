"""A worker process that was started before anybody needed it, and waits to be told which kind of worker it is.

Starting Python and loading what a reader needs takes 0.2 s, for which every run would wait. One byte names the kind;
the descriptors that this kind takes come along with it (SCM_RIGHTS). Then it is that worker, and no other any more.
"""

from __future__ import annotations

import os
import socket
import sys
from importlib import import_module

import transporter.jobs.read_worker  # noqa: F401 - the kind that is needed most often is loaded now
from transporter.jobs.worker_kinds import KINDS
from transporter.workloads.worker import ignore_signals

DESCRIPTORS_AT_MOST = 4


def main() -> None:
    """Be the process. Its only argument is the socket to the daemon."""
    ignore_signals()
    connection = socket.socket(fileno=int(sys.argv[1]))
    kind, descriptors, _flags, _address = socket.recv_fds(connection, 1, DESCRIPTORS_AT_MOST)
    if not kind:
        connection.close()
        return  # Nobody needed it, or the daemon is gone.
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    sys.argv[1:] = [str(connection.detach()), *map(str, descriptors)]
    import_module(KINDS[kind]).main()


if __name__ == "__main__":
    main()
