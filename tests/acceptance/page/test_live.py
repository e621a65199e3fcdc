"""The page stays true while its gateway does not answer, and goes on by itself when one does again."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

import fedbus

pytestmark = pytest.mark.slow


class Line:
    """A line to the gateway that can be cut: connections to its port are carried on, until `cut`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "", parts.port or 80)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._carried: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.mend()

    @property
    def url(self) -> str:
        """Where its near end is."""
        return f"http://127.0.0.1:{self.port}"

    def mend(self) -> None:
        """Take connections (again)."""
        self._server = self._do(asyncio.start_server(self._carry, "127.0.0.1", self.port))

    def cut(self) -> None:
        """Take no more connections, and break those that there are."""
        self._do(self._cut())

    def close(self) -> None:
        """End it for good."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._carried:
            task.cancel()
        await asyncio.gather(*self._carried, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carried.add(task)
        there, here = await asyncio.open_connection(*self._to)
        try:
            await asyncio.gather(self._pump(reader, here), self._pump(there, writer))
        except (asyncio.CancelledError, OSError):
            pass  # cut, or hung up: both ends are closed below
        finally:
            self._carried.discard(task)
            here.close()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@pytest.fixture
def line(place) -> Iterator[Line]:
    """A line to the gateway that can be cut."""
    line = Line(place.http_url)
    yield line
    line.close()


async def _run_one(url: str, name: str) -> None:
    async with fedbus.connect(url) as federation:
        config = fedbus.SessionConfig(rounds=2, clients_min=3, quorum=2, evaluate_every=0)
        session = await federation.start_session(config, model=await federation.models.get("seed-3"), name=name)
        await session.wait()


def _in_a_thread(work) -> None:
    """Run a coroutine to its end beside Playwright, whose loop is this thread's."""
    thread = threading.Thread(target=lambda: asyncio.run(work))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_what_happens_while_the_gateway_is_gone_is_seen_when_it_is_back(open_page, line, place):
    """The dot says that the gateway is gone; when the line is mended, what was missed appears without a reload."""
    page = open_page("#/sessions", base=line.url, expected=("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY"))
    status = page.locator("#live")
    expect(status).to_have_attribute("data-status", "live")
    line.cut()
    expect(status).to_have_attribute("data-status", re.compile("reconnecting|gone"))
    expect(status).to_have_attribute("data-status", "gone", timeout=15_000)
    expect(page.get_by_role("link", name="seed", exact=True)).to_be_visible()
    _in_a_thread(_run_one(place.nats_url, "missed-it"))
    line.mend()
    expect(status).to_have_attribute("data-status", "live", timeout=15_000)
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="missed-it"))
    expect(row).to_contain_text("completed")


def test_an_event_reaches_the_page_by_itself(open_page, place):
    """A session that is started elsewhere appears in an open list, and its rounds move, without anybody's doing."""
    page = open_page("#/sessions")
    expect(page.locator("#live")).to_have_attribute("data-status", "live")
    _in_a_thread(_run_one(place.nats_url, "from-elsewhere"))
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="from-elsewhere"))
    expect(row).to_contain_text("completed")
    expect(row).to_contain_text("2 of 2")


def test_a_page_that_heard_nothing_goes_on_and_a_reset_lets_it_begin_anew(open_page, place):
    """A stream that breaks before its first event goes on from where it began; after `reset` all is read anew."""
    page = open_page("#/sessions")
    told = page.evaluate("fetch('/api/v1/overview').then((answer) => answer.text())")
    streams = [
        f"id: 7.0\n\nevent: overview\ndata: {told}\n\n",
        "id: 0.0\nevent: reset\ndata: {}\n\n",
        f"id: 3.0\n\nevent: overview\ndata: {told}\n\n",
    ]
    asked: list[str] = []
    listed: list[int] = []

    def answer(route) -> None:
        asked.append(urlsplit(route.request.url).query)
        if not streams:
            route.continue_()
            return
        body = streams.pop(0)
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    def count(request) -> None:
        if urlsplit(request.url).path == "/api/v1/sessions":
            listed.append(len(asked))

    page.route("**/api/v1/events*", answer)
    page.on("request", count)
    page.reload()
    expect(page.locator("#live")).to_have_attribute("data-status", "live", timeout=15_000)
    while streams or len(asked) < 4:
        page.wait_for_timeout(100)
    for _ in range(100):  # reading anew is put together with what else comes within a moment
        if any(after >= 3 for after in listed):
            break
        page.wait_for_timeout(100)
    assert asked == ["", "after=7.0", "", "after=3.0"]
    assert any(after >= 3 for after in listed), "the list was not read again behind the reset"


def test_count_downs_go_by_the_coordinators_time(open_page):
    """After an outage theirs lies behind the machine's: the page counts down by the time that the overview says."""
    page = open_page("#/sessions")
    told = page.evaluate("fetch('/api/v1/overview').then((answer) => answer.json())")
    at = told["at"] - 3600.0
    wait = {"session": "s", "round": 1, "what": "waiting for updates", "on": ["a"], "missing": 1, "then": "it closes"}
    wait |= {"since_at": at - 10.0, "until_at": at + 50.0, "doing": {}, "away": {}, "away_count": 0}
    said = json.dumps({**told, "at": at, "waits": [wait]})

    def answer(route) -> None:
        route.fulfill(status=200, content_type="text/event-stream", body=f"event: overview\ndata: {said}\n\n")

    page.route("**/api/v1/events*", answer)
    page.route(
        "**/api/v1/overview", lambda route: route.fulfill(status=200, content_type="application/json", body=said)
    )
    page.goto(page.url.split("#")[0] + "#/")
    page.reload()
    row = page.locator(".wait-row")
    expect(row).to_contain_text(re.compile(r"(50|4\d) s left, waiting 1\d s"))
