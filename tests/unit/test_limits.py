from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "limits.md"
ROW = re.compile(r"^\| [^|]+ \| ([0-9,.]+)[^|]*\| `([a-z_.]+)\.([A-Z_]+)` \| [^|]+ \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE.read_text())

DECODERS = (
    "fedbus.access.claims",
    "fedbus.access.credentials",
    "fedbus.algorithms.trees",
    "fedbus.config.policy",
    "fedbus.config.session",
    "fedbus.foreign",
    "fedbus.gateway.asking",
    "fedbus.gateway.cookies",
    "fedbus.gateway.paging",
    "fedbus.messages.envelope",
    "fedbus.store.archive",
    "fedbus.store.objects.records",
    "fedbus.tensors.incoming",
    "fedbus.tensors.npy",
    "fedbus.tensors.spec",
)
"""Modules that read what strangers send, of which no bound may be missing on the page."""


@pytest.mark.parametrize(("value", "module", "name"), ROWS, ids=[f"{module}.{name}" for _, module, name in ROWS])
def test_the_page_says_what_the_code_says(value, module, name):
    """Each number of the page is that of its constant."""
    assert float(value.replace(",", "")) == getattr(importlib.import_module(module), name)


def test_every_row_is_compared():
    """No row of a table escapes the pattern above."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "| constant |" not in line]
    assert len(rows) == len(ROWS) > 50


@pytest.mark.parametrize("module", DECODERS)
def test_no_bound_of_a_decoder_is_missing(module):
    """A bound that is added to one of these modules gets a row."""
    own = Path(importlib.import_module(module).__file__).read_text()
    constants = set(re.findall(r"^([A-Z][A-Z_]*_MAX)\b(?:: [A-Za-z]+)? = ", own, re.MULTILINE))
    assert constants - {name for _, of, name in ROWS if of == module} == set()
