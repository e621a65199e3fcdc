"""REST as its document says it: schemathesis asks a real gateway everything, and believes the document word by word.

As an admin of a secured workspace everything by all checks; as every other role, and as nobody, everything once.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fedbus
from fedbus.access.actions import ROLES
from fedbus.access.authority import Authority
from fedbus.access.credentials import write_credentials
from fedbus.access.members import Members
from fedbus.bus.nats import connect
from fedbus.clock import SystemClock
from fedbus.messages.subjects import Subjects

READY_S_MAX = 90.0

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


async def furnish(url: str, credentials: str) -> dict[str, str]:
    """Wait for the clients, let two sessions run to their end; returns a token of each role. By a connection: quick."""
    model = {"w": np.zeros((300, 1000), np.float32), "b": np.zeros(3, np.float32)}
    config = fedbus.SessionConfig(rounds=2, clients_min=2)
    async with asyncio.timeout(READY_S_MAX), fedbus.connect(url, credentials=credentials) as federation:
        while len(await federation.clients()) != 2:  # noqa: ASYNC110 - the state of others
            await asyncio.sleep(0.05)
        for name in ("s1", "s2"):
            session = await federation.start_session(config, model=model, name=name)
            await session.wait()
    async with await connect(url, name="tokens", credentials=credentials) as bus:
        tokens = Members(bus, Subjects("default"), SystemClock()).tokens
        return {role: (await tokens.create_api(role, by="test")).api_text for role in ROLES}


class Rest:
    """A workspace with two sessions, a gateway of it that takes any number of requests, and a token of each role."""

    def __init__(self, shell: Any) -> None:
        self.shell, self.place = shell, shell.place
        shell.up("--in-process")
        self.url = shell.ready()["http_url"]
        shell.start("client", "run", "client:app", "--name", "site", "--count", "2")
        issued = Authority.open(self.place / "fedbus-data" / "keys").issue("default", "gateway", "free")
        write_credentials(self.place / "free.creds", issued)
        more = ("--rate", "0", "--ready-file", "free.json", "--credentials", "free.creds")
        self.gateway = shell.start("gateway", "--name", "free", "--port", "0", *more)
        self.tokens = asyncio.run(furnish(shell.ready()["nats_url"], shell.ready()["credentials"]))
        shell.until("gateway", lambda: (self.place / "free.json").exists() or self.gateway.poll() is not None)
        self.free = json.loads((self.place / "free.json").read_text())["http_url"]
        (self.place / "schemathesis.toml").write_text(CONFIG)

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


@pytest.fixture(scope="module")
def rest(shared_shell: Any) -> Iterator[Rest]:
    """What is asked; in the end its gateway has to end as it should."""
    rest = Rest(shared_shell)
    yield rest
    assert rest.shell.end(rest.gateway) == 0


@pytest.mark.slow
def test_nobody_gets_an_answer_that_is_not_declared(rest: Rest) -> None:
    """Every other role, and nobody: what each may and may not is answered as the document says, and nothing breaks."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    once = ("--phases", "fuzzing", "--mode", "positive", "--max-examples", "1", "--checks", checks)
    for role in (*(role for role in ROLES if role != "admin"), ""):
        rest.try_all(*once, token=rest.tokens.get(role, ""))
    rest.check()


@pytest.mark.slow
def test_every_operation_is_as_its_document_says(rest: Rest) -> None:
    """All checks, examples by schema and against it, and sequences by links: no 5xx, no answer that is not declared.

    And the gateway still lives, and knows the sessions as they were. That nobody is let in without a token is tried of
    each operation elsewhere: here whoever brings many wrong ones is soon told to wait (429).
    """
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
