from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
INDEX = ROOT / "docs" / "README.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")
PYTHON = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def targets(page):
    """The files that a page links to."""
    links = [link.split("#")[0] for link in LINK.findall(page.read_text())]
    return [(page.parent / link).resolve() for link in links if link and "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """Every link to a file of the repository finds it."""
    assert [path for path in targets(page) if not path.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_is_python(page):
    """Every Python block parses, with ``await`` allowed at its top."""
    for _, block in PYTHON.findall(page.read_text()):
        compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


def test_every_page_can_be_found():
    """Each page under docs/ is reached from docs/README.md by links."""
    seen, new = set(), {INDEX}
    while new:
        seen |= new
        new = {path for page in new for path in targets(page) if path.suffix == ".md"} - seen
    assert [page for page in ROOT.glob("docs/**/*.md") if page not in seen] == []


def test_the_checks_find_something():
    """There are pages, links and blocks to check: the patterns above match what we write."""
    assert len(PAGES) > 10
    assert sum(len(targets(page)) for page in PAGES) > 20
    assert sum(len(PYTHON.findall(page.read_text())) for page in PAGES) > 4


def test_ci_runs_the_readmes_test_command():
    """What README tells to run for the tests is what .ci/run does."""
    (command,) = re.findall(
        r"^pip install '\.\[test\]' && (pytest.*?) +#", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert script[-1] == f"python .ci/tests.py {command}"
