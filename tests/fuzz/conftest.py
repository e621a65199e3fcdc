"""Makes `targets` importable: under --import-mode=importlib a test file's own directory is not on the path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
