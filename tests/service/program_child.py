"""What a fork of ``fork_workers`` does to be the program ``transporter``: every module of it is loaded here."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import warnings

import forked_workers
from every_module import load_every_module

from transporter.bundle.export import export_bundle
from transporter.cli import main as program
from transporter.keys.keyset import seal_private
from transporter.keys.operator_key import seal_operator
from transporter.keys.password import KdfParameters
from transporter.keys.password_table import PasswordTable

PRICED = (export_bundle, seal_private, seal_operator, PasswordTable.__init__)

load_every_module()
for priced in PRICED:
    # The price of a guess is what tests/keys is about; here it would be most of what many a command does.
    priced.__kwdefaults__["parameters"] = KdfParameters(8, 1, 1)


def main() -> None:
    """Run the command that the order says; never returns."""
    asked, order, *streams = map(int, sys.argv[1:])
    with open(order, "rb") as file:
        how = json.load(file)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(how["folder"])
    os.environ.clear()
    os.environ.update(how["environment"])
    if os.environ.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    forked_workers.fork_by(socket.socket(fileno=asked))
    program.main(how["arguments"])
