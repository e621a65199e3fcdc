"""REST as its document says it: schemathesis asks a real gateway everything, and believes the document word by word."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = int(os.environ.get("FEDBUS_REST_EXAMPLES", "3"))
"""For a long run by hand: FEDBUS_REST_EXAMPLES=100 pytest tests/acceptance/test_rest.py."""

CONFIG = """
# names of what is there, half of the time, so that more is tried than what is not found
[dictionaries]
sessions.values = ["s1", "s2"]
clients.values = ["site-0", "site-1"]
versions.values = ["s1-0", "s1-1", "s1-2"]
rounds.values = ["1", "2", "newest"]
names.values = ["fedavg", "norm_clipping+fedadam", "int8"]

[parameters]
session = { dictionary = "sessions", probability = 0.5 }
client = { dictionary = "clients", probability = 0.5 }
version = { dictionary = "versions", probability = 0.5 }
round = { dictionary = "rounds", probability = 0.5 }
name = { dictionary = "names", probability = 0.5 }

# A session's settings depend on each other, and on what is installed (patience needs best_metric, strategy has to be
# one), which JSON Schema cannot say; another body under a known key is refused; not all bytes are a model. All are 422.
[[operations]]
include-operation-id = ["startSession", "cloneSession", "importModel"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]
"""


def get(url: str) -> Any:
    """Return what an address answers."""
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_every_operation_is_as_its_document_says(shell, tmp_path: Path) -> None:
    """All checks, examples by schema and against it, and sequences by links: no 5xx, no answer that is not declared.

    And the gateway still lives, and knows the sessions as they were.
    """
    shell.up("--http-port", "0")
    url = shell.ready()["http_url"]
    shell.start("client", "run", "client:app", "--name", "site", "--count", "2")
    shell.until("clients", lambda: len(shell.json("client", "list")) == 2)
    for name in ("s1", "s2"):
        shell.run("session", "start", "model.npz", "--name", name, "--rounds", "2", "--clients-min", "2")
    before = get(f"{url}/api/v1/sessions/s1")
    gateway = shell.start("gateway", "--name", "free", "--port", "0", "--rate", "0", "--ready-file", "free.json")
    shell.until("gateway", lambda: (tmp_path / "free.json").exists() or gateway.poll() is not None)
    free = json.loads((tmp_path / "free.json").read_text())["http_url"]
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run"),
            *(f"{free}/openapi.json", "--checks", "all", "--max-examples", str(EXAMPLES), "--seed", "1"),
            *("--request-timeout", "30", "--continue-on-failure", "--no-color", "--generation-database", "none"),
        ],
        cwd=tmp_path,
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=100 + 10 * EXAMPLES,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{shell.said()[-4000:]}"
    tested = re.search(r"Tested: (\d+)\n", done.stdout)
    count = sum(len(methods) for methods in get(f"{free}/openapi.json")["paths"].values())
    assert tested is not None and int(tested[1]) >= count - 1, done.stdout  # the document itself was read before
    assert gateway.poll() is None
    assert "Traceback" not in shell.said()
    assert get(f"{free}/api/v1/sessions/s1") == before
    assert get(f"{url}/readyz")["status"] == "ok"
    assert shell.end(gateway) == 0
