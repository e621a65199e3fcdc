"""The page in a real browser, over a real federation: broker, coordinator, combiner, gateway and a few quick clients.

`place` is open, so that nobody has to log in; `secured` asks who one is, and knows a person of each role.
`open_page` gives a page that fails its test for every error in its console, and for every breach of its policy. Without
Chromium these tests are skipped, except where CI=true: there it has to be installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
)
NOTICED = ("error", "warning")
NOT_OURS = "net::ERR_NETWORK_CHANGED"
"""What Chromium says when an interface of the machine comes or goes, as with every container that is started."""

expect.set_options(timeout=30_000)  # of Playwright's own five seconds a busy machine needs them all to draw a page

READY_S_MAX = 60.0
UP = ("-m", "fedbus", "up", "--in-process", "--nats-port", "0", "--http-port", "0", "--data-dir", "data",
      "--ready-file", "ready.json")  # fmt: skip

PEOPLE = """
import asyncio, sys
import numpy as np
import fedbus

app = fedbus.ClientApp()

@app.train
async def train(model, task):
    await asyncio.sleep(task.config.get("sleep_s", 0.0))
    if task.client == "broken" and task.round == 2:
        raise ValueError("shard <b>7</b> is empty")
    rng = np.random.default_rng(task.seed)
    arrays = {name: value + rng.standard_normal(value.shape, dtype=value.dtype) for name, value in model.items()}
    return fedbus.Update(arrays, weight=10, metrics={"loss": 1 / task.round})

@app.evaluate
async def evaluate(model, task):
    return fedbus.Evaluation(weight=10, metrics={"accuracy": 0.5, "loss": 0.4})

async def main(url):
    places = {"north": {"region": "eu"}, "south": {"region": "us", "note": "<script>alert(1)</script>"}, "broken": {}}
    async with asyncio.TaskGroup() as group:
        for name, attributes in places.items():
            group.create_task(present(fedbus.Client(url, app, name=name, attributes=attributes)))

async def present(client):
    async with client:
        await client.run()

asyncio.run(main(sys.argv[1]))
"""

SEED = """
import asyncio, sys
import numpy as np
import fedbus

async def main(url):
    async with fedbus.connect(url) as federation:
        config = fedbus.SessionConfig(rounds=3, clients_min=3, quorum=2, best_metric="max accuracy")
        arrays = {"w": np.zeros((20, 5), np.float32), "b": np.zeros(5, np.float32)}
        session = await federation.start_session(config, model=arrays, name="seed")
        await session.wait()

asyncio.run(main(sys.argv[1]))
"""


PERSONS = """
import asyncio, json, sys
from fedbus.access.members import Members
from fedbus.bus.nats import connect
from fedbus.clock import SystemClock
from fedbus.access.actions import ROLES
from fedbus.messages.subjects import Subjects

async def main(url, credentials):
    async with await connect(url, name="persons", credentials=credentials) as bus:
        members = Members(bus, Subjects("default"), SystemClock())
        tokens = {}
        for role in ROLES:
            await members.people.add(f"ms-{role}", (role,), by="test")
            made = await members.tokens.create_api(role, by="test", person=f"ms-{role}")
            tokens[role] = made.api_text
    print(json.dumps(tokens))

asyncio.run(main(*sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A federation that runs: where its page is, its broker, the directory of its files.

    ``tokens``: by role, of a person ``ms-<role>`` who has it, where people are asked who they are.
    """

    http_url: str
    nats_url: str
    directory: Path
    tokens: Mapping[str, str] = field(default_factory=dict)


def _start(directory: Path, name: str, *arguments: str, home: str = "home") -> subprocess.Popen[bytes]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("FEDBUS_", "OTEL_"))}
    env["FEDBUS_HOME"] = str(directory / home)
    with (directory / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _ready(directory: Path, up: subprocess.Popen[bytes]) -> dict[str, Any]:
    file = directory / "ready.json"
    end = time.monotonic() + READY_S_MAX
    while not file.exists():
        said = (directory / "up.log").read_text()
        assert up.poll() is None, said
        assert time.monotonic() < end, f"not ready within {READY_S_MAX:g} s\n{said}"
        time.sleep(0.05)
    told: dict[str, Any] = json.loads(file.read_text())
    return told


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A federation with three clients, one of which fails at times, and a session ``seed`` that is completed."""
    _chromium()
    directory = tmp_path_factory.mktemp("page")
    for name, text in (("people.py", PEOPLE), ("seed.py", SEED)):
        (directory / name).write_text(text)
    started = [_start(directory, "up", *UP, "--open")]
    try:
        told = _ready(directory, started[0])
        started.append(_start(directory, "people", "people.py", told["nats_url"]))
        seed = _start(directory, "seed", "seed.py", told["nats_url"])
        started.append(seed)
        assert seed.wait(READY_S_MAX) == 0, (directory / "seed.log").read_text()
        yield Place(told["http_url"], told["nats_url"], directory)
    finally:
        _end(started)


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A federation that asks who one is, with a person of each role and a token of hers."""
    _chromium()
    directory = tmp_path_factory.mktemp("secured")
    (directory / "persons.py").write_text(PERSONS)
    started = [_start(directory, "up", *UP)]
    try:
        told = _ready(directory, started[0])
        persons = _start(directory, "persons", "persons.py", told["nats_url"], told["credentials"])
        started.append(persons)
        assert persons.wait(READY_S_MAX) == 0, (directory / "persons.log").read_text()
        tokens = json.loads((directory / "persons.log").read_text())
        yield Place(told["http_url"], told["nats_url"], directory, tokens)
    finally:
        _end(started)


Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="session")
def run_at(secured: Place) -> Iterator[Run]:
    """Start a process of another machine: ``run_at("site", "-m", "fedbus", ...)``; it knows nothing of the operator's.

    What it prints is in ``<name>.log`` of the secured federation's directory, what it knows in its ``home``.
    """
    started: list[subprocess.Popen[bytes]] = []

    def run(name: str, *arguments: str, home: str) -> subprocess.Popen[bytes]:
        started.append(_start(secured.directory, name, *arguments, home=home))
        return started[-1]

    yield run
    _end(started)


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    for process in reversed(started):
        if process.poll() is None:
            process.terminate()
    for process in reversed(started):
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _chromium() -> str:
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("expected Chromium on PATH: the page is tested in it")
        pytest.skip("no Chromium on PATH: the page is tested in it")
    return CHROMIUM


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, as the machine has it: nothing is downloaded."""
    path = _chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """Open an address of the page: ``open_page("#/sessions", width=375, theme="dark")``.

    ``expected``: parts of lines in the console that the test brings about, such as a refused request's status.
    ``base``: of another way to the gateway, or of another one; ``token``: whose it is, is logged in there.
    """
    noticed: list[str] = []
    pages: list[Page] = []

    def open_it(
        address: str = "#/",
        *,
        width: int = 1440,
        theme: str = "light",
        expected: tuple[str, ...] = (),
        base: str = "",
        token: str = "",
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce", accept_downloads=True
        )
        page = context.new_page()
        pages.append(page)
        if token:
            assert context.request.post(f"{base}/api/v1/login", data={"token": token}).ok

        def hear(message: ConsoleMessage) -> None:
            ours = NOT_OURS not in message.text and not any(part in message.text for part in expected)
            if message.type in NOTICED and ours:
                noticed.append(f"{address}: {message.type}: {message.text}")

        page.on("console", hear)
        page.on("pageerror", lambda error: noticed.append(f"{address}: {error}"))
        page.goto(f"{base or request.getfixturevalue('place').http_url}/{address}")
        if not page.locator("main h1").first.is_visible():
            expect(page.locator("main h1").first).to_be_visible(timeout=15_000)
        return page

    yield open_it
    for page in pages:
        page.context.close()
    assert not noticed, "\n".join(noticed)
