"""REST as its document says it: schemathesis asks a real gateway everything, and believes the document word by word.

As an admin of a secured workspace everything by all checks; as every other role, and as nobody, everything once.
"""

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

from fedbus.access.actions import ROLES
from fedbus.access.authority import Authority
from fedbus.access.credentials import write_credentials

EXAMPLES = int(os.environ.get("FEDBUS_REST_EXAMPLES", "1"))
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

# No token that is made up is one; a role or a name that is made up may not be, or be somebody already.
[[operations]]
include-operation-id = ["logIn"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "429"]

# JSON Schema takes 403.0 for an integer, we do not.
[[operations]]
include-operation-id = ["setRetention"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "422"]

[[operations]]
include-operation-id = ["createToken", "addPerson", "changePerson"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422", "503"]
"""

CUTS_OFF = ("revokeToken", "expelMember", "suspendMember", "setWorkspace", "changePerson", "removePerson")
"""What an admin can do to whoever serves her, and to herself; tried one by one elsewhere."""

LEFT_OUT = ("beginOidc", "endOidc")
"""They answer a browser, which goes where it is sent."""


def get(url: str, token: str = "") -> Any:
    """Return what an address answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return json.load(answer)


class Rest:
    """A workspace with two sessions, a gateway of it that takes any number of requests, and a token of each role."""

    def __init__(self, shell: Any, place: Path) -> None:
        self.shell, self.place = shell, place
        shell.up("--http-port", "0")
        self.url = shell.ready()["http_url"]
        shell.start("client", "run", "client:app", "--name", "site", "--count", "2")
        shell.until("clients", lambda: len(shell.json("client", "list")) == 2)
        for name in ("s1", "s2"):
            shell.run("session", "start", "model.npz", "--name", name, "--rounds", "2", "--clients-min", "2")
        self.tokens = {role: shell.json("token", "create", "--api", "--role", role)["text"] for role in ROLES}
        issued = Authority.open(place / "fedbus-data" / "keys").issue("default", "gateway", "free")
        write_credentials(place / "free.creds", issued)
        more = ("--rate", "0", "--ready-file", "free.json", "--credentials", "free.creds")
        self.gateway = shell.start("gateway", "--name", "free", "--port", "0", *more)
        shell.until("gateway", lambda: (place / "free.json").exists() or self.gateway.poll() is not None)
        self.free = json.loads((place / "free.json").read_text())["http_url"]
        (place / "schemathesis.toml").write_text(CONFIG)

    def try_all(self, *more: str, token: str = "", without: tuple[str, ...] = ()) -> str:
        """Let schemathesis ask everything; returns what it says, and fails where it has found something."""
        who = ("--header", f"Authorization: Bearer {token}") if token else ()
        left_out = [f"--exclude-operation-id={name}" for name in (*LEFT_OUT, *without)]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run"),
                *(f"{self.free}/openapi.json", "--seed", "1", *who, *left_out, *more),
                *("--request-timeout", "30", "--continue-on-failure", "--no-color", "--generation-database", "none"),
            ],
            cwd=self.place,
            env=self.shell.env,
            capture_output=True,
            text=True,
            timeout=150 + 10 * EXAMPLES,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-8000:]}\n{self.shell.said()[-4000:]}"
        return done.stdout

    def check(self) -> None:
        """The gateway lives, nobody has seen an error that nobody has foreseen, and no secret stands in a log."""
        assert self.gateway.poll() is None
        said = self.shell.said()
        assert "Traceback" not in said
        assert not [role for role, token in self.tokens.items() if token.split("_", 2)[2] in said]
        assert get(f"{self.url}/readyz")["status"] == "ok"
        assert self.shell.end(self.gateway) == 0


@pytest.mark.slow
def test_every_operation_is_as_its_document_says(shell: Any, tmp_path: Path) -> None:
    """All checks, examples by schema and against it, and sequences by links: no 5xx, no answer that is not declared.

    And the gateway still lives, and knows the sessions as they were. That nobody is let in without a token is tried of
    each operation elsewhere: here whoever brings many wrong ones is soon told to wait (429).
    """
    rest = Rest(shell, tmp_path)
    admin = rest.tokens["admin"]
    before = get(f"{rest.free}/api/v1/sessions/s1", admin)
    said = rest.try_all(
        "--checks",
        "all",
        "--exclude-checks",
        "ignored_auth",
        "--max-examples",
        str(EXAMPLES),
        token=admin,
        without=CUTS_OFF,
    )
    tested = re.search(r"Tested: (\d+)\n", said)
    count = sum(len(methods) for methods in get(f"{rest.free}/openapi.json")["paths"].values())
    left_out = len(CUTS_OFF) + len(LEFT_OUT)
    assert tested is not None and int(tested[1]) >= count - left_out - 1, said  # the document was read before
    assert get(f"{rest.free}/api/v1/sessions/s1", admin) == before
    rest.check()


@pytest.mark.slow
def test_nobody_gets_an_answer_that_is_not_declared(shell: Any, tmp_path: Path) -> None:
    """Every other role, and nobody: what each may and may not is answered as the document says, and nothing breaks."""
    rest = Rest(shell, tmp_path)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    once = ("--phases", "fuzzing", "--mode", "positive", "--max-examples", "1", "--checks", checks)
    for role in (*(role for role in ROLES if role != "admin"), ""):
        rest.try_all(*once, token=rest.tokens.get(role, ""))
    rest.check()
