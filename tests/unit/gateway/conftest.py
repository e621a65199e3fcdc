"""Makes `asker` importable, as tests of a federation do with the house in memory, which is shared with them."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "federation")]
