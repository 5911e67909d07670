"""Runs a demo whose commands and daemons are forked: ``python forked_demo.py NAME ARGUMENTS``. See test_demo.py."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path[1:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "service")]

import demo  # noqa: E402 - found on the path that was just set
from forked_programs import start  # noqa: E402

demo.Node.start = staticmethod(start)
name = sys.argv.pop(1)
sys.exit(import_module(name).main())
