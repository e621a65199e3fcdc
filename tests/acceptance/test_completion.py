from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ASK = """
set -eu
printf '#!/bin/sh\nexec "%(python)s" -m fedbus "$@"\n' > fedbus && chmod +x fedbus && PATH=$PWD:$PATH
eval "$(_FEDBUS_COMPLETE=source_bash fedbus)"
complete -p fedbus >/dev/null
while IFS= read -r line; do
    read -ra COMP_WORDS <<< "$line"
    [[ $line == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )) COMPREPLY=()
    _fedbus_completion fedbus
    echo "${COMPREPLY[*]}"
done
"""


def completed(shell, *lines):
    """What a real bash offers for each of these lines, with the cursor at their ends."""
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK % {"python": sys.executable}],
        input="\n".join(lines) + "\n",
        cwd=shell.place,
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return [line.split() for line in done.stdout.splitlines()]


def test_bash_completes_names(shell):
    """Commands, options, names of sessions, versions, clients' strategies and codecs; behind a + the chain goes on."""
    shell.up("--no-http")
    for name in ("first", "final"):
        shell.run("session", "start", "model.npz", "--name", name, "--no-watch")
    shell.until("versions", lambda: len(shell.json("model", "list")) == 2)
    offered = completed(
        shell,
        "fedbus sess",
        "fedbus session show fi",
        "fedbus model download fir",
        "fedbus session start model.npz --strategy fedad",
        "fedbus strategy show norm_clipping+fedavg",
        "fedbus session start model.npz --codec int",
    )
    assert offered == [
        ["session"],
        ["final", "first"],
        ["first-0"],
        ["fedadagrad", "fedadam"],
        ["norm_clipping+fedavg", "norm_clipping+fedavgm"],
        ["int4", "int8"],
    ]


def test_without_a_broker_there_are_no_names_and_no_words(shell):
    """Where nobody answers nothing is offered, and nothing is said on the line that is being typed."""
    shell.env["FEDBUS_URL"] = "nats://127.0.0.1:9"
    assert completed(shell, "fedbus session show fi", "fedbus model show ") == [[], []]
    assert json.dumps(completed(shell, "fedbus session sto")) == '[["stop"]]'
