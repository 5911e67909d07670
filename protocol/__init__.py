"""The wire protocol of a transporter pair, version 1, without I/O: bytes in, events out.

Start at ``control.py`` and ``data.py`` (the two kinds of connection); ``messages.py`` lists what travels,
``states.py`` when it may, ``limits.py`` how much of it. docs/protocol.md is the specification.
"""

from __future__ import annotations
