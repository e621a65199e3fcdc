"""The quickstart's files do what they say: trained by a real federation, with nothing left behind."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import io
import os
import re
import signal
import socket
import sys
import threading
import tokenize
from pathlib import Path

import numpy as np
import pytest
from aiohttp import ClientSession, web

import fedbus

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
LINES_MAX = 30
SLOPE, OFFSET = 3.0, -2.0
MODEL = {"slope": np.zeros(1, np.float32), "offset": np.zeros(1, np.float32)}
POINTS = [(x, SLOPE * x + OFFSET) for x in (-0.8, -0.3, 0.1, 0.6, 0.9)]


def load(name):
    """Import one of the two files, anew."""
    spec = importlib.util.spec_from_file_location(f"quickstart_{name}", QUICKSTART / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_port():
    """A port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def measure_and_predict(url, house, bad=400):
    """Give the application its measurements, run a session beside another client, return what it predicts.

    ``bad``: its word for a request that cannot be read.
    """
    async with ClientSession(url) as http:
        async with http.get("/predict?x=0.5") as answer:
            assert answer.status == 503
            assert "no model has arrived yet" in await answer.text()
        for x, y in POINTS:
            async with http.post("/measured", json={"x": x, "y": y}) as answer:
                assert answer.status == 201
        await house.client("site-2", load("client").app)
        await house.present(2)
        result, _, arrays = await house.run(MODEL, rounds=10, clients_min=2, train_config={"steps": 40})
        assert result.metrics.keys() == {"loss"}
        async with http.get("/predict?x=0.5") as answer:
            predicted = await answer.json()
        async with http.get("/predict?x=much") as answer:
            assert answer.status == bad
        async with http.post("/measured", json={"x": None}) as answer:
            assert answer.status == bad
    assert abs(arrays["slope"][0] - SLOPE) < 0.2
    assert abs(arrays["offset"][0] - OFFSET) < 0.2
    return predicted, result, arrays


AIOHTTP = [str(QUICKSTART / "embed_in_aiohttp.py"), "{url}", "--name", "site-1", "--port", "{port}"]
FASTAPI = ["-m", "uvicorn", "--log-level", "warning", "--port", "{port}", "embed_in_fastapi:api"]


@pytest.mark.parametrize(("command", "bad"), [(AIOHTTP, 400), (FASTAPI, 422)], ids=["aiohttp", "fastapi"])
async def test_the_application_takes_part_and_predicts_with_what_it_got(house, command, bad):
    """As a process: it trains beside the smallest client, predicts by what came of it, ends by Ctrl-C, silent."""
    await house.operate()
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *([] if command is FASTAPI else ["-W", "error"]),  # warnings of uvicorn's own are not ours to end by
        *(word.format(url=house.url, port=port) for word in command),
        cwd=QUICKSTART,
        env={**os.environ, "FEDBUS_URL": house.url, "FEDBUS_NAME": "site-1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await house.present(1)
        predicted, result, arrays = await measure_and_predict(f"http://127.0.0.1:{port}", house, bad)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            _, err = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert predicted["version"] in (result.model_version, f"{result.session}-9")
    version = {result.model_version: arrays}.get(predicted["version"], arrays)
    assert predicted["y"] == pytest.approx(0.5 * version["slope"][0] + version["offset"][0], abs=0.1)
    assert process.returncode in ((0, -signal.SIGINT) if command is FASTAPI else (0,))  # uvicorn's releases differ
    assert err == b""


async def test_the_application_leaves_nothing_behind(house, eventually):
    """In a loop that goes on: when it is cleaned up, its tasks, threads and its connection are gone."""
    await house.operate()
    async with fedbus.connect(house.url) as federation:
        await federation.combiners()
    example = load("embed_in_aiohttp")
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    runner = web.AppRunner(example.application(house.url, "site-1"))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await house.present(1)
    port = runner.addresses[0][1]
    predicted, _, _ = await measure_and_predict(f"http://127.0.0.1:{port}", house)
    assert predicted["y"] == pytest.approx(SLOPE * 0.5 + OFFSET, abs=0.2)
    await runner.cleanup()
    await house.dismiss("site-2")
    await eventually(lambda: not {task for task in asyncio.all_tasks() - tasks if not task.done()}, 3)
    # The operator's side of this process takes its threads as it needs them; loops keep theirs for names of hosts.
    others = ("coordinator", "combiner", "asyncio_")
    left = lambda: [t.name for t in set(threading.enumerate()) - threads if not t.name.startswith(others)]  # noqa: E731
    await eventually(lambda: not left(), 3)
    async with fedbus.connect(house.url) as federation:
        assert await federation.clients() == []


def code_lines(source):
    """The numbers of lines with code on them: neither blank, nor comment, nor docstring."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def test_embedding_takes_less_than_thirty_lines():
    """What the application has only because of the federation: its own functions, and every line that names it."""
    source = (QUICKSTART / "embed_in_aiohttp.py").read_text()
    text = source.splitlines()
    ours = set()
    for node in ast.parse(source).body:
        if getattr(node, "name", "") == "federation":
            ours |= set(range(node.lineno, node.end_lineno + 1))
    words = re.compile(r"fedbus|federat|client|CLIENT|NATS_URL|nats_url|contextlib|AsyncIterator")
    ours |= {number for number, line in enumerate(text, 1) if words.search(line)}
    ours &= code_lines(source)
    assert 10 < len(ours) < LINES_MAX, "\n".join(text[number - 1] for number in sorted(ours))


def test_the_smallest_client_is_small():
    """An app of two functions in some twenty lines of code."""
    source = (QUICKSTART / "client.py").read_text()
    assert len(code_lines(source)) <= 22
    assert load("client").app.functions.keys() == {"train", "evaluate"}


async def test_the_readmes_session_runs(house):
    """The engineer's script of examples/quickstart/README.md, as written but for the address, ends with a model."""
    (script,) = re.findall(r"```python\n(.*?)```", (QUICKSTART / "README.md").read_text(), re.DOTALL)
    await house.operate()
    for name in ("site-1", "site-2"):
        await house.client(name, load("client").app)
    await house.present(2)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        script.replace("nats://127.0.0.1:4222", house.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert re.search(rb"'loss': 0\.0\d+.*'slope': array", out), out
