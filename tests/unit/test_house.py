"""What import-linter can't see: uses of a module that one may import. Its contracts: tests/integration."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from fedbus.version import __version__

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}

# Who else may touch the environment, and why.
MAY_READ: dict[str, str] = {}


def reads_environment(source):
    """Return the lines on which a module touches the environment."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT:
            lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "posix"):
            lines += [node.lineno for name in node.names if name.name in ENVIRONMENT | {"*"}]
    return lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import os\nos.environ['HOME']", [2]),
        ("import os as system\nsystem.getenv('HOME')", [2]),
        ("from os import environ as e, path", [1]),
        ("from os import *", [1]),
        ("from os import path\npath.join('a')", []),
        ("environ = {}\ndef setup(environ): return environ.get('HOME')", []),
    ],
)
def test_the_check_of_the_environment_can_fail(source, lines):
    """The check finds each way to read the environment, and lets a mapping of that name pass."""
    assert reads_environment(source) == lines


def test_only_the_command_line_reads_the_environment():
    """Outside of fedbus/cli nobody touches os.environ, but for those named with a reason."""
    found = {}
    for path in sorted((ROOT / "fedbus").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if (
            not name.startswith("fedbus/cli/")
            and name not in MAY_READ
            and (lines := reads_environment(path.read_text()))
        ):
            found[name] = lines
    assert found == {}


def test_exceptions_are_used():
    """Who is excused still needs the excuse."""
    assert [name for name in MAY_READ if not reads_environment((ROOT / name).read_text())] == []


def test_the_changelog_knows_this_version():
    """The version in fedbus/version.py has a section in CHANGELOG.md."""
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_version_has_one_source():
    """pyproject.toml takes the version from fedbus/version.py."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "fedbus/version.py"


def test_ci_can_be_run():
    """.ci/run is executable."""
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111 == 0o111
