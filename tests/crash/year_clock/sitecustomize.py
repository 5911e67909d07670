"""Sets the clock of a Python process: imported at its start by whoever has this folder in PYTHONPATH.

``YEAR_CLOCK``: a file with the seconds by which the clock is ahead, read anew each time somebody asks for the time. The
product asks by `time.time_ns`; times of files, and the clock that never goes back, stay as they are. (A library that is
preloaded, as libfaketime, has threads that wait with a time limit spin instead.)
"""

from __future__ import annotations

import os
import time

_file = os.environ.get("YEAR_CLOCK", "")
if _file:
    _real_ns = time.time_ns

    def _ahead() -> int:
        with open(_file, encoding="ascii") as file:
            return int(file.read())

    def _time_ns() -> int:
        return _real_ns() + _ahead() * 10**9

    time.time_ns = _time_ns
    time.time = lambda: _time_ns() / 1e9
