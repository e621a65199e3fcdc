from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "tests" / "constraints.txt"
PINNED = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+( ; .+)?")


@pytest.fixture(scope="module")
def supply():
    """The script of `.ci`, as a module."""
    spec = importlib.util.spec_from_file_location("supply", ROOT / ".ci" / "supply.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name, *vulns):
    """What pip-audit prints of one that it has found."""
    return {"name": name, "version": "1.0", "vulns": [{"id": one, "fix_versions": ["1.1"]} for one in vulns]}


def skipped(name):
    """And of one that it has not."""
    return {"name": name, "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("told", "code", "words"),
    [
        ([package("numpy"), skipped("fedbus")], 0, "1 packages audited"),
        ([package("numpy", "PYSEC-1"), skipped("fedbus")], 1, "numpy 1.0: PYSEC-1, fixed in 1.1"),
        ([skipped("numpy"), skipped("aiohttp"), skipped("fedbus")], 3, "2 of 2 packages were not found"),
        ([package("numpy"), skipped("aiohttp")], 3, "not a pass"),
        ([], 3, "not a pass"),
    ],
)
def test_what_was_not_looked_up_is_no_pass(supply, told, code, words):
    """Pip-audit says "no known vulnerabilities" of packages that it found nowhere; this says that nothing is known."""
    verdict = supply.verdict_of({"dependencies": told})
    assert verdict.code == code
    assert words in "\n".join(verdict.lines)


def test_an_audit_that_fails_is_no_pass(supply, monkeypatch):
    """Neither one that prints nothing, nor one that does not end."""
    done = subprocess.CompletedProcess([], 1, b"", b"cannot connect\n")
    monkeypatch.setattr(supply.subprocess, "run", lambda *args, **kwargs: done)
    assert supply.audit().code == 3
    assert "cannot connect" in "\n".join(supply.audit().lines)

    def late(*args, **kwargs):
        raise subprocess.TimeoutExpired("pip-audit", 1)

    monkeypatch.setattr(supply.subprocess, "run", late)
    assert supply.audit().code == 3


def test_what_is_installed_is_listed(supply, tmp_path):
    """The CycloneDX file names every package that is installed here, with its version."""
    pytest.importorskip("cyclonedx_py", reason="the extra `audit` is not installed")
    found = supply.write_bom(tmp_path / "sbom.cdx.json", validate=False)
    there = {supply.plain(one.metadata["Name"]): one.version for one in distributions()}
    assert there.keys() <= found.keys()
    assert {name: found[name] for name in there} == there
    told = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")


def test_a_package_that_is_not_listed_is_noticed(supply, tmp_path, monkeypatch, capsys):
    """The script fails where its list lacks something."""
    monkeypatch.setattr(supply, "write_bom", lambda path: {"numpy": "1"})
    monkeypatch.setattr(supply, "installed", lambda: {"numpy": "1", "left-pad": "1"})
    monkeypatch.setattr(supply.sys, "argv", ["supply.py", str(tmp_path / "x")])
    assert supply.main() == 1
    assert "left-pad" in capsys.readouterr().out


def test_what_tests_run_with_is_pinned(supply):
    """Each line of the constraints is one exact version from nowhere in particular, and every requirement has one."""
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not PINNED.fullmatch(line)] == []
    assert "//" not in CONSTRAINTS.read_text()
    pinned = {supply.plain(line.split("==")[0]) for line in lines}
    form = re.compile(r'^    "([A-Za-z0-9_.-]+)(?:\[[^]]*\])?[<>=!~]', re.MULTILINE)
    wanted = {supply.plain(text) for text in form.findall((ROOT / "pyproject.toml").read_text())}
    others = {"xgboost", "fedbus"}  # of another system; and of the wheel's own extras
    assert wanted - pinned - others == set()
    assert "-c tests/constraints.txt" in (ROOT / ".ci" / "run").read_text()
