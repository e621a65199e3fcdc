"""What roles tell about themselves when the command line starts them: numbers, logs and spans, seen from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import fedbus
from fedbus.bus.embedded.child import die_with
from fedbus.telemetry.metrics import ALL

APP = """
import fedbus

app = fedbus.ClientApp()

@app.train
def train(model, task):
    if task.client == "site-1" and task.round == 2:
        raise ValueError("no data today")
    return fedbus.Update({"w": model["w"] + 1}, weight=2.0)

@app.evaluate
def evaluate(model, task):
    return fedbus.Evaluation(1.0, {"w": float(model["w"][0])})
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory, free_ports):
    """``fedbus up`` and a crowd as processes, a session of two rounds; then what all of them told. Once for all."""
    return asyncio.run(_told(tmp_path_factory.mktemp("up"), free_ports))


@pytest.fixture(scope="module")
def free_ports():
    """The first of four ports in a row that are free, below those that systems give to connections."""
    for first in range(21_000 + os.getpid() % 1000 * 8, 32_000, 8):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + 4):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    pytest.fail("no four ports in a row are free")


async def _told(place, port):
    (place / "owner.py").write_text(APP)
    options = ["--log-format", "json", "--log-file", "fedbus.log", "--spans-file", "spans.jsonl"]
    up = ["up", "--nats-port", "0", "--http-port", "0", "--ready-file", "ready.json", "--data-dir", "data"]
    async with _fedbus(place, *up, *options, "--metrics-port", str(port)):
        ready = await _eventually(lambda: json.loads((place / "ready.json").read_text()))
        client = ["client", "run", "owner:app", "--name", "site", "--count", "3", "--nats", ready["nats_url"]]
        client += ["--metrics-port", str(port + 3), "--log-format", "json", "--log-file", "site.log"]
        async with _fedbus(place, *client), fedbus.connect(ready["nats_url"]) as federation:
            config = fedbus.SessionConfig(rounds=2, clients_min=3, quorum=2, round_deadline_s=30)
            session = await federation.start_session(config, model={"w": np.zeros(64, np.float32)})
            async with asyncio.timeout(90):
                await session.wait()
            seen = {
                role: await asyncio.to_thread(_families, f"http://127.0.0.1:{port + index}/metrics")
                for index, role in enumerate(("coordinator", "combiner", "gateway", "client"))
            }
            await _eventually(lambda: _wait_for_peers(seen, port))
            token = await asyncio.to_thread(_token, place, ready["nats_url"])
            page = await asyncio.to_thread(_families, f"{ready['http_url']}/metrics", token)
    logs = {path.name: path.read_text().splitlines() for path in place.glob("*.log*")}
    spans = {path.name: path.read_text().splitlines() for path in place.glob("spans*.jsonl")}
    return seen, page, logs, spans


def _wait_for_peers(seen, port):
    """The coordinator looks every five seconds who is there, a gateway every ten."""
    for role, index in (("coordinator", 0), ("gateway", 2)):
        seen[role] = _families(f"http://127.0.0.1:{port + index}/metrics")
        assert any(one.value == 3 for one in seen[role]["fedbus_peers"].samples)
        assert "fedbus_sessions" in seen["gateway"] or role == "coordinator"


def _token(place, url):
    """A viewer's token, as Prometheus has one: the gateway's own address asks who one is."""
    command = [sys.executable, "-m", "fedbus", "token", "create", "--api", "--role", "viewer", "--nats", url, "--json"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout.splitlines()[-1])["text"]


def _families(url, token=""):
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return {one.name: one for one in text_string_to_metric_families(answer.read().decode())}


@contextlib.asynccontextmanager
async def _fedbus(place, *arguments):
    """A fedbus command that runs within the block, and leaves in good order behind it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fedbus", *arguments, cwd=place, preexec_fn=die_with(os.getpid())
    )
    try:
        yield
        assert process.returncode is None, "it has ended by itself"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(60):
            await process.wait()
    assert process.returncode == 0


async def _eventually(condition):
    for _ in range(900):
        with contextlib.suppress(OSError, AssertionError, KeyError, ValueError):
            return condition()
        await asyncio.sleep(0.1)
    return condition()


def _exposed(metric):
    return metric.name.replace(".", "_") + {"s": "_seconds", "By": "_bytes"}.get(metric.unit, "")


def test_every_role_has_the_metrics_that_the_table_says(told):
    """Of a real session: what a role is said to count it counts, and nothing else of fedbus's; labels as declared."""
    seen, _, _, _ = told
    rare = {"fedbus.waits", "fedbus.wait.age"}  # nothing waits when the session is over
    for role, families in seen.items():
        own = {_exposed(one): one for one in ALL if role in one.roles}
        found = {name for name in families if name.startswith(("fedbus_", "http_server"))}
        assert found <= own.keys(), role
        missing = {one.name for name, one in own.items() if name not in found}
        assert missing <= rare | (
            {"http.server.request.duration", "fedbus.requests"} if role == "gateway" else set()
        ), role
        for name in found:
            labels = {key.replace(".", "_") for key in own[name].attributes} | {"le"}
            assert {key for sample in families[name].samples for key in sample.labels} <= labels, name


def test_the_numbers_are_those_of_the_session(told):
    """Two rounds of three clients, one of which failed once: counted alike by everybody."""
    seen, page, _, _ = told

    def value(families, name, **labels):
        samples = [one for family in families.values() for one in family.samples if one.name == name]
        return sum(one.value for one in samples if labels.items() <= one.labels.items())

    assert value(seen["coordinator"], "fedbus_round_duration_seconds_count", fedbus_outcome="closed") == 2
    assert value(seen["coordinator"], "fedbus_updates_total") == 5
    assert value(seen["coordinator"], "fedbus_refusals_total", fedbus_stage="train") == 1
    assert value(seen["coordinator"], "fedbus_leads") == 1
    assert value(seen["coordinator"], "fedbus_round_io_bytes_total", fedbus_direction="up") == 5 * 256
    assert value(seen["combiner"], "fedbus_folds_total", fedbus_outcome="accepted") == 5
    assert value(seen["combiner"], "fedbus_fold_io_bytes_total") == 5 * 256
    assert value(seen["combiner"], "fedbus_upload_duration_seconds_count") == 5
    assert value(seen["combiner"], "fedbus_model_publish_duration_seconds_count", fedbus_outcome="stored") == 2
    assert value(seen["client"], "fedbus_work_total", fedbus_stage="train", fedbus_outcome="done") == 5
    assert value(seen["client"], "fedbus_work_total", fedbus_outcome="failed") == 1
    assert value(seen["client"], "fedbus_work_duration_seconds_count", fedbus_phase="train") == 5
    assert value(page, "fedbus_sessions", fedbus_status="completed") == 1
    assert value(page, "fedbus_stream_usage_bytes", fedbus_stream="journal") > 0
    assert value(page, "fedbus_stream_limit_bytes", fedbus_stream="span") == 32 * 2**20


def test_every_line_of_the_logs_is_an_object(told):
    """Each role has a file of its own, whose lines say who writes; a failure within a span names its trace."""
    _, _, logs, _ = told
    names = {"fedbus.log", "fedbus.coordinator.log", "fedbus.combiner-1.log", "fedbus.gateway.log", "site.log"}
    assert names <= logs.keys()
    for name in names - {"fedbus.log"}:
        lines = [json.loads(line) for line in logs[name]]
        assert lines, name
        assert all(
            {"time", "level", "role", "instance", "workspace", "logger", "event"} <= line.keys() for line in lines
        )
    assert {json.loads(line)["role"] for line in logs["fedbus.combiner-1.log"]} == {"combiner"}
    rounds = [line for line in map(json.loads, logs["fedbus.coordinator.log"]) if line.get("round")]
    assert {line["round"] for line in rounds} == {1, 2} and all(line["session"] for line in rounds)


def test_spans_stand_in_files_too(told):
    """Lines of OTLP JSON, a file a role."""
    _, _, _, spans = told
    names = {}
    for file, lines in spans.items():
        found = [
            one
            for line in lines
            for scope in json.loads(line)["resourceSpans"][0]["scopeSpans"]
            for one in scope["spans"]
        ]
        names[file] = {one["name"] for one in found}
    assert names["spans.coordinator.jsonl"] == {"round"}
    assert names["spans.combiner-1.jsonl"] == {"fold update", "merge"}
