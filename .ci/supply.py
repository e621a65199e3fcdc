"""Supply chain: what is installed here as a CycloneDX file, and which known advisories hold of it.

``python .ci/supply.py OUT`` writes OUT and asks the advisory database that pip-audit knows. Exit code 0: all was looked
up, and nothing is known. 1: something is known. 3: not all could be looked up, so nothing can be said: the database is
away, or answers for none of it. pip-audit itself calls that "no known vulnerabilities", as each package that it finds
nowhere is passed over; here it is never taken for a pass.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

OURS = frozenset({"fedbus"})
"""What no index has: it is this checkout."""

EXCUSED: Mapping[str, str] = {}
"""Advisories that do not concern us, each with the reason; looked at again with every release."""

AUDIT_S_MAX = 240.0


class Verdict(NamedTuple):
    """What the audit came to: an exit code, and lines for people."""

    code: int
    lines: Sequence[str]


def verdict_of(document: Mapping[str, Any] | None, why: str = "") -> Verdict:
    """Judge what pip-audit has printed; None: it has printed nothing that can be read, and said ``why``."""
    told = [] if document is None else [one for one in document["dependencies"] if plain(one["name"]) not in OURS]
    audited = [one for one in told if "vulns" in one]
    skipped = [one["name"] for one in told if "vulns" not in one]
    known = [(one, vuln) for one in audited for vuln in one["vulns"] if vuln["id"] not in EXCUSED]
    if known:
        lines = [f"{one['name']} {one['version']}: {vuln['id']}, fixed in {_fixed(vuln)}" for one, vuln in known]
        return Verdict(1, ["SUPPLY CHAIN: KNOWN VULNERABILITIES", *lines])
    if not audited or skipped:
        some = ", ".join(skipped[:5]) + (" ..." if len(skipped) > 5 else "")
        reason = why or f"{len(skipped)} of {len(told)} packages were not found in the advisory database ({some})"
        return Verdict(
            3,
            [
                "SUPPLY CHAIN: NOT AUDITED. This is not a pass: nothing is known about what is installed.",
                reason,
                "Run `python .ci/supply.py dist/sbom.cdx.json` where the advisory database of PyPI can be reached.",
            ],
        )
    return Verdict(0, [f"supply chain: {len(audited)} packages audited, no known vulnerability"])


def _fixed(vuln: Mapping[str, Any]) -> str:
    return ", ".join(vuln.get("fix_versions") or ["no release yet"])


def plain(name: str) -> str:
    """Return the name of a package as names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Return what is installed here, by plain name, with its version."""
    return {plain(one.metadata["Name"]): one.version for one in distributions()}


def listed(bom: Mapping[str, Any]) -> dict[str, str]:
    """Return what a CycloneDX document lists, by plain name, with its version."""
    parts = [*bom.get("components", []), *filter(None, [bom.get("metadata", {}).get("component")])]
    return {plain(one["name"]): one.get("version", "") for one in parts}


def write_bom(path: Path, *, validate: bool = True) -> dict[str, str]:
    """Write what is installed here as CycloneDX 1.6, and return what it lists; to validate it takes longest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--spec-version", "1.6", "--output-reproducible"]
    command += ["--validate" if validate else "--no-validate", "--output-file", str(path), sys.executable]
    subprocess.run(command, check=True, capture_output=True)
    return listed(json.loads(path.read_bytes()))


def audit() -> Verdict:
    """Ask pip-audit about what is installed here."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--local"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=AUDIT_S_MAX, check=False)
        return verdict_of(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return verdict_of(None, f"pip-audit did not come to an end within {AUDIT_S_MAX:g} s")
    except ValueError:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return verdict_of(None, f"pip-audit failed: {said[-1] if said else 'it said nothing'}")


def main() -> int:
    """Do both; the exit code says how it went."""
    path = Path(sys.argv[1])
    found, there = write_bom(path), installed()
    if missing := there.keys() - found.keys():
        print(f"SUPPLY CHAIN: {path} does not list {', '.join(sorted(missing))}")
        return 1
    print(f"supply chain: {path} lists {len(found)} packages")
    verdict = audit()
    print("\n".join(verdict.lines))
    return verdict.code


if __name__ == "__main__":
    sys.exit(main())
