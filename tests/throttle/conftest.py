from __future__ import annotations

import sys
from pathlib import Path

# The helper beside this file; the test runner imports tests by path and puts no folder on the path by itself.
sys.path.insert(0, str(Path(__file__).parent))
