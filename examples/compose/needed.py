"""Print what an extra of a project needs, without the project itself: ``python needed.py EXTRA pyproject.toml``."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def needed(own: list[str], extras: dict[str, list[str]], extra: str, project: str) -> list[str]:
    """Return ``own`` and the requirements of an extra, with those of the project's extras that it takes."""
    for requirement in extras[extra]:
        taken = re.fullmatch(rf"{project}\[(\w+)\]", requirement)
        own = needed(own, extras, taken[1], project) if taken else [*own, requirement]
    return own


if __name__ == "__main__":
    given = tomllib.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))["project"]
    wanted = needed(given["dependencies"], given["optional-dependencies"], sys.argv[1], given["name"])
    print("\n".join(wanted))
