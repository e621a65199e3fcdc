"""Tests: all of them, and a second look at what failed, by itself.

``python .ci/tests.py pytest -n 3`` runs that command, and ends as it does. Only where at most three tests failed are
those run once more, with no others beside them: that a process starts late on a busy machine is no defect of a change,
and ended landings that had none. What passes then is named loudly, for it is to be looked at all the same: something
waits there for a time in place of an event. What fails again, is skipped, or is not found again has failed. Four
failures are not load. The last words are pytest's summary, that of the second run where there was one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SECOND_MAX = 3
"""So many failures may be the machine's; of more, some are the change's."""

SECOND_S_MAX = 300.0
"""The slowest three tests take two minutes by themselves."""

SOME_FAILED = 1
"""pytest's exit code where tests ran and some failed; all others are no matter of single tests."""


def main(command: Sequence[str]) -> int:
    """Run a command of pytest, and perhaps what failed of it once more; returns the exit code."""
    with tempfile.TemporaryDirectory() as cache:
        told = [*command, "-o", f"cache_dir={cache}"]
        code = subprocess.run(told, check=False).returncode
        if code != SOME_FAILED:
            return code
        failed = failed_in(Path(cache))
        if not 1 <= len(failed) <= SECOND_MAX:
            return code
        say("ONCE MORE, BY ITSELF", failed)
        code, out = second([*told, "-n", "0", "--last-failed", "--last-failed-no-failures", "none"])
    if code == 0 and not all_passed(out, len(failed)):
        code = SOME_FAILED
    if code == 0:
        say("PASSED ALONE: DEPENDS ON LOAD: TO BE LOOKED AT", failed)
    else:
        say("FAILED AGAIN, BY ITSELF", failed)
    sys.stdout.write(out)
    return code


def failed_in(cache: Path) -> list[str]:
    """The names of the tests that failed, as pytest has kept them."""
    kept = cache / "v" / "cache" / "lastfailed"
    return sorted(json.loads(kept.read_text())) if kept.exists() else []


def second(command: Sequence[str]) -> tuple[int, str]:
    """Run a command to its end or its bound; returns its exit code and what it has printed."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=SECOND_S_MAX
        )
    except subprocess.TimeoutExpired:
        return SOME_FAILED, f"not ended within {SECOND_S_MAX:g} s\n"
    return done.returncode, done.stdout


def all_passed(out: str, count: int) -> bool:
    """Whether pytest's last line says that so many passed and nothing else came of them."""
    last = out.strip().rpartition("\n")[2]
    return re.search(rf"\b{count} passed", last) is not None and "skipped" not in last and "xfailed" not in last


def say(what: str, names: Sequence[str]) -> None:
    """Print a headline that nobody overlooks, and the names below it."""
    print(f"\n{f' {what} ':!^100}", *names, sep="\n    ", end="\n\n", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
