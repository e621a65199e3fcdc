"""The script that gives a failed test a second look: run on small suites, as `.ci/run` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "tests.py"

SUITE = """
import os, pathlib, pytest

def beside():
    "Whether this is the first time: as under load."
    mark = pathlib.Path(__file__).with_name("mark")
    first = not mark.exists()
    mark.touch()
    return first

def test_passes():
    pass
"""


@pytest.fixture
def look(tmp_path):
    """Run the script on a suite of some more lines; returns (exit code, lines of what it prints)."""

    def run(text):
        (tmp_path / "test_some.py").write_text(SUITE + text)
        done = subprocess.run(
            [sys.executable, SCRIPT, sys.executable, "-m", "pytest", "-q", "-p", "xdist.plugin", str(tmp_path)],
            cwd=tmp_path,
            env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # what they import takes longer than these runs
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.splitlines()

    return run


def test_what_fails_beside_others_only_ends_no_run_and_is_named(look):
    """It passes by itself: exit code 0, its name under a headline, and pytest's summary as the last words."""
    code, lines = look("def test_late():\n    assert not beside()\n")
    assert code == 0
    headline = next(number for number, line in enumerate(lines) if "PASSED ALONE: DEPENDS ON LOAD" in line)
    assert lines[headline + 1].strip() == "test_some.py::test_late"
    assert lines[-1].startswith("1 passed")


@pytest.mark.parametrize(
    ("text", "seen", "looks"),
    [
        ("def test_hides():\n    assert not beside() or 0\n    pytest.skip('now')\n", "1 skipped", 1),
        ("@pytest.mark.parametrize('n', range(4))\ndef test_four(n):\n    assert 0\n", "4 failed", 0),
        ("def test_late():\n    assert not beside()\n\ndef test_broken():\n    assert 0\n", "1 failed, 1 passed", 1),
    ],
    ids=["skipped", "four", "one-of-two"],
)
def test_what_fails_again_fails(look, text, seen, looks):
    """Nor is there a pass where the second look skips what failed, or where more failed than load would explain."""
    code, lines = look(text)
    assert code == 1
    assert seen in lines[-1]
    assert sum("ONCE MORE, BY ITSELF" in line for line in lines) == looks


def test_an_exit_that_is_no_matter_of_single_tests_stays(look):
    """A suite that cannot be collected ends as pytest ends it."""
    code, lines = look("import nothing_of_this_name\n")
    assert code == 2
    assert not any("ONCE MORE" in line for line in lines)
