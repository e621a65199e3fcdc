"""`fedbus up` as it is without any option: a broker that knows everybody, and commands that know who they are."""

from __future__ import annotations

import json
import stat
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from fedbus.tensors import files

pytestmark = pytest.mark.slow


def modes(directory):
    """The modes of all that stands in a directory, itself among them."""
    found = {path: stat.S_IMODE(path.lstat().st_mode) for path in [directory, *directory.rglob("*")]}
    return {path: mode for path, mode in found.items() if mode & 0o077}


def ask(url, method="GET", body=None, cookie=""):
    """What a gateway answers: status, body, cookie."""
    headers = {"Content-Type": "application/json", **({"Cookie": cookie} if cookie else {})}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=10) as answer:
            set_ = answer.headers.get("Set-Cookie", "")
            return answer.status, json.loads(answer.read()), set_.partition(";")[0]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), ""


def test_up_is_secured_for_whoever_runs_it(shell):
    """The way of README, without any option: strangers are refused, one's own commands are not, nothing lies open.

    Credentials and keys are for their owner alone, the ready file has no secret, the page's address logs in once; all
    is forgotten at the end, and the next run goes on with the same keys and streams.
    """
    up = shell.up()
    told = shell.ready()
    data = shell.place / "fedbus-data"
    assert Path(told["credentials"]).parent == data / "credentials" / "default"
    seeds = [path.read_text().strip() for path in (data / "keys").rglob("*.nk")]
    assert len(seeds) > 5
    assert not any(seed in (shell.place / "ready.json").read_text() for seed in seeds)
    assert modes(data / "keys") == modes(data / "credentials") == modes(shell.place / "home") == {}

    client = shell.start("client", "run", "client:app", "--name", "site-1")
    shell.until("client", lambda: shell.json("client", "list"))
    shell.run("session", "start", "model.npz", "--clients-min", "1", "--rounds", "1", "--name", "first")
    members = {(one["role"], one["name"]) for one in shell.json("member", "list")}
    assert {("coordinator", "coordinator"), ("combiner", "combiner-1"), ("gateway", "gateway")} < members
    assert ("client", "site-1") in members

    mine = shell.env["FEDBUS_HOME"]
    shell.env["FEDBUS_HOME"] = str(shell.place / "stranger")
    refused = shell.run("session", "list", code=1)
    assert "refused" in refused.stderr
    hops = {check["hop"]: check for check in shell.json("doctor", code=1)["checks"]}
    assert not hops["authentication"]["ok"]
    shell.env["FEDBUS_HOME"] = mine

    api = f"{told['http_url']}/api/v1"
    assert ask(f"{api}/sessions")[0] == 401
    (line,) = [line for line in shell.said().splitlines() if line.startswith("page:")]
    token = line.split()[1].rpartition("/")[2]
    status, me, cookie = ask(f"{api}/login", "POST", {"token": token})
    assert (status, me["roles"]) == (200, ["admin"])
    assert ask(f"{api}/sessions", cookie=cookie)[1]["items"][0]["session"] == "first"
    assert ask(f"{api}/login", "POST", {"token": token})[0] == 401

    issued = Path(told["credentials"]).read_text()
    assert shell.end(client) == 0
    assert shell.end(up) == 0
    assert json.loads((shell.place / "home" / "known.json").read_text())["known"] == []
    shell.up("--in-process", "--no-http")
    again = Path(shell.ready()["credentials"]).read_text()
    key = [line for line in issued.splitlines() if line.startswith("SU")]
    assert key == [line for line in again.splitlines() if line.startswith("SU")] != []
    assert [one["session"] for one in shell.json("session", "list")] == ["first"]


def test_open_and_secured_runs_do_not_lose_each_others_streams(shell):
    """What an open run has kept is neither touched nor hidden: a secured one is refused with the way to take it
    along, which goes; a secured run's is not hidden by an open one.
    """
    up = shell.up("--open", "--no-http", "--in-process")
    assert shell.ready()["credentials"] is None
    assert "nobody is asked" in shell.said()
    np.savez(shell.place / "small.npz", w=np.ones(3, np.float32))
    shell.run("model", "import", "small.npz", "kept")
    shell.run("backup", "before")
    assert shell.end(up) == 0

    refused = shell.run("up", "--nats-port", "0", "--no-http", code=2)
    for word in ("open run", "--open", "fedbus backup DIR", "fedbus restore DIR --from-open"):
        assert word in refused.stderr
    up = shell.up("--no-http", "--in-process", "--data-dir", "secured")
    shell.run("restore", "before", "--from-open")
    shell.run("model", "download", "kept", "--output", "again.safetensors")
    assert np.array_equal(files.read(shell.place / "again.safetensors")["w"], np.ones(3, np.float32))
    assert shell.end(up) == 0
    assert "secured run" in shell.run("up", "--open", "--data-dir", "secured", "--no-http", code=2).stderr


def test_open_has_no_keys(shell):
    """Who asks for both is told so, and nothing is made."""
    assert "--open" in shell.run("up", "--open", "--keys", "keys", code=2).stderr
    assert not (shell.place / "keys").exists()
