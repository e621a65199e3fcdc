"""Pages that promise something name the test that shows it: it has to be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THREATS = ROOT / "docs" / "explanation" / "threat-model.md"
ASVS = ROOT / "docs" / "reference" / "asvs.md"
TEST = re.compile(r"`((?:unit|fuzz|integration|acceptance|simulation|chaos)/[\w/]+\.py)::(test_\w+)`")

SECTIONS = {
    1: (2, 9, 11, 3, 2),
    2: (3, 3, 4, 1),
    3: (0, 2, 4, 6, 5, 0, 2),
    4: (3, 1, 2, 4),
    5: (1, 3, 2, 3),
    6: (3, 12, 4, 4, 5, 3, 0, 4),
    7: (3, 4, 2, 5, 2, 2),
    8: (2, 3, 1, 1),
    9: (3, 4),
    10: (2, 2, 4, 11, 5, 2, 3),
    11: (2, 3, 3, 4, 1, 1),
    12: (3, 2, 4),
    13: (1, 5, 2, 5),
    14: (2, 4, 3),
    15: (3, 3, 7),
    16: (1, 5, 4, 3, 3),
    17: (1, 4, 2),
}
"""How many requirements of level 1 and 2 each section of ASVS 5.0.0 has."""

VERDICTS = {"met", "partly", "not met", "n/a"}


@pytest.mark.parametrize("page", [THREATS, ASVS], ids=lambda page: page.stem)
def test_tests_that_a_page_names_are_there(page):
    """Each by file and name; a test that is renamed or removed is noticed here."""
    found = TEST.findall(page.read_text())
    assert len(found) > 40
    missing = [
        f"{path}::{name}"
        for path, name in found
        if not (ROOT / "tests" / path).is_file()
        or not re.search(rf"^(?:async )?def {name}\(", (ROOT / "tests" / path).read_text(), re.MULTILINE)
    ]
    assert missing == []


def rows():
    """Return each line of the checklist: which requirements, the verdict, how, what shows it."""
    lines = [line for line in ASVS.read_text().splitlines() if re.match(r"\| [0-9]", line)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def ids_of(text):
    """Return the requirements of a line: ``6.2.1-12, 6.4.1`` are thirteen."""
    found = []
    for part in text.split(", "):
        chapter, section, numbers = part.split(".")
        first, _, last = numbers.partition("-")
        found += [(int(chapter), int(section), number) for number in range(int(first), int(last or first) + 1)]
    return found


def test_every_requirement_is_answered_once():
    """All 253 requirements of level 1 and 2, each with one verdict."""
    told = [one for row in rows() for one in ids_of(row[0])]
    assert len(told) == len(set(told)) == 253
    counted = {}
    for chapter, section, _ in told:
        counted[chapter, section] = counted.get((chapter, section), 0) + 1
    wanted = {
        (chapter, section): count
        for chapter, counts in SECTIONS.items()
        for section, count in enumerate(counts, 1)
        if count
    }
    assert counted == wanted


def test_a_verdict_has_its_evidence():
    """What is met links to a test or a page; what is not, or only in part, or does not apply, says why."""
    for ids, verdict, how, shown in rows():
        assert verdict in VERDICTS, ids
        assert len(how) > 10, ids
        if verdict == "met":
            assert TEST.search(shown) or "](" in shown, ids
