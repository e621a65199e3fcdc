"""What the page tells of clients, the journal, sessions side by side, and a round's time, of a federation that runs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow

WALKER = """
import fedbus

app = fedbus.ClientApp()

@app.train
def train(model, task):
    return fedbus.Update({name: value + 1 for name, value in model.items()}, weight=3, metrics={"loss": 0.5})
"""


def _ask(place: Any, method: str, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{place.http_url}/api/v1/{path}", data, method=method)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def _ended(place: Any, session: str) -> Any:
    end = time.monotonic() + 30
    while (found := _ask(place, "GET", f"sessions/{session}"))["ended_at"] is None:
        assert time.monotonic() < end, found
        time.sleep(0.1)
    assert found["status"] == "completed", found
    return found


@pytest.fixture(scope="module")
def walked(place: Any) -> Iterator[str]:
    """A session whose one client the command line has started: such a client puts its spans on the bus."""
    directory = Path(place.directory) / "walker"
    directory.mkdir()
    (directory / "walk.py").write_text(WALKER)
    command = [
        sys.executable,
        "-m",
        "fedbus",
        "client",
        "run",
        "walk:app",
        "--nats",
        place.nats_url,
        "--name",
        "walker",
    ]
    with (directory / "log").open("wb") as log:
        client = subprocess.Popen(
            command, cwd=directory, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    try:
        config = {"rounds": 2, "clients_min": 4, "quorum": 1, "evaluate_every": 0}
        _ask(place, "POST", "sessions", {"model": "seed-3", "session": "walked", "config": config})
        _ended(place, "walked")
        yield "walked"
    finally:
        client.send_signal(signal.SIGTERM)
        client.wait(20)


def test_sessions_stand_side_by_side(open_page, walked):
    """Boxes choose sessions, the address keeps them; one chart a metric has a line for each; what differs is listed."""
    page = open_page("#/compare")
    page.get_by_role("checkbox", name=re.compile("^seed")).check()
    expect(page.get_by_text("One more, and they are compared.")).to_be_visible()
    page.get_by_role("checkbox", name=re.compile("^walked")).check()
    expect(page).to_have_url(re.compile(r"session=seed&session=walked"))
    loss = page.get_by_role("region", name="loss (while training)")
    expect(loss.locator(".legend button")).to_have_count(2)
    expect(loss.locator("canvas")).to_be_visible()
    results = page.get_by_role("region", name="Results", exact=True)
    expect(results.get_by_role("row").filter(has_text="seed")).to_contain_text("3 / 3")
    differ = page.get_by_role("region", name="Settings that differ", exact=True)
    expect(differ.get_by_role("row", name=re.compile(r"^rounds\s+3\s+2"))).to_be_visible()
    page.get_by_role("tab", name="by bytes moved").click()
    expect(page).to_have_url(re.compile("by=bytes"))
    expect(page.get_by_role("region", name="loss (while training)").locator("canvas")).to_be_visible()


def test_a_chart_is_read_by_keys_and_as_a_table(open_page, walked):
    """Arrows move its cursor and say the values there; the table has the same; a line is hidden by its switch."""
    page = open_page("#/compare?session=seed&session=walked")
    card = page.get_by_role("region", name="loss (while training)")
    plot = card.get_by_role("slider")
    plot.focus()
    page.keyboard.press("Home")
    expect(plot).to_have_attribute("aria-valuetext", re.compile(r"round 1: seed 1, walked "))
    page.keyboard.press("ArrowRight")
    expect(plot).to_have_attribute("aria-valuetext", re.compile(r"round 2: seed 0\.\d+, walked "))
    card.get_by_text("as a table").click()
    expect(card.get_by_role("row")).to_have_count(4)
    switch = card.get_by_role("button", name=re.compile("^walked"))
    switch.click()
    expect(switch).to_have_attribute("aria-pressed", "false")


def test_one_session_that_is_gone_leaves_the_choice(open_page):
    """A link to a session that nobody knows says so; the boxes are there to change it, and who does so stays there."""
    page = open_page("#/compare?session=seed&session=nobody", expected=("404",))
    expect(page.get_by_role("alert")).to_contain_text("nobody")
    # a key, not `uncheck`, which looks at the box again afterwards: this one goes once nothing is chosen by it
    box = page.get_by_role("checkbox", name="nobody")
    box.focus()
    box.press("Space")
    expect(page.get_by_text("One more, and they are compared.")).to_be_visible()
    expect(page.locator(".boxes").get_by_role("checkbox").first).to_be_focused()  # the one in its place


def test_clients_are_found_by_name_attribute_and_presence(open_page):
    """Attributes of strangers are text and filters; filters stand in the address; a client has its history."""
    page = open_page("#/clients")
    row = page.get_by_role("row", name=re.compile("^south"))
    expect(row).to_contain_text("<script>alert(1)</script>")
    row.get_by_role("link", name="region us").click()
    expect(page).to_have_url(re.compile("attribute=region%3Aus"))
    expect(page.get_by_role("row")).to_have_count(2)
    page.get_by_role("button", name="Without region:us").click()
    expect(page.get_by_role("link", name="north", exact=True)).to_be_visible()
    page.get_by_label("Search").fill("nor")
    expect(page.get_by_role("row")).to_have_count(2)
    page.get_by_label("Presence").select_option("offline")
    expect(page.get_by_text("No client fits")).to_be_visible()
    page.get_by_role("link", name="Show all").click()
    page.get_by_role("link", name="broken", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("broken")
    history = page.get_by_role("region", name="History", exact=True)
    expect(history.get_by_role("row", name=re.compile(r"seed 2 .*refused"))).to_contain_text("shard <b>7</b> is empty")
    contributions = page.get_by_role("region", name="Contributions", exact=True)
    expect(contributions.get_by_role("slider").first).to_be_visible()


def test_the_journal_is_filtered_and_a_record_is_read(open_page):
    """Kind, session and text narrow it and stand in the address; a record opens with its data and links."""
    page = open_page("#/events?session=seed")
    page.get_by_label("Kind").select_option("RoundClosed")
    expect(page).to_have_url(re.compile(r"session=seed&kind=RoundClosed"))
    expect(page.locator(".events > li")).to_have_count(3)
    page.locator(".events summary").first.click()
    opened = page.locator(".events .detail")
    expect(opened.locator("pre")).to_contain_text('"round": 3')
    opened.get_by_role("link", name="its trace").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Trace of round 3")
    page.goto(page.url.split("#")[0] + "#/events?text=nothing-is-like-this")
    expect(page.get_by_text("No event fits")).to_be_visible()


def test_the_journal_goes_on_by_itself_and_pauses(open_page, place):
    """What is decided now appears without a reload; while paused it is counted, and shown when it goes on."""
    page = open_page("#/events?session=live")
    expect(page.get_by_text("No event fits")).to_be_visible()
    expect(page.locator("#live")).to_have_attribute("data-status", "live")
    start = {"model": "seed-3", "config": {"rounds": 1, "clients_min": 3, "quorum": 2}}
    _ask(place, "POST", "sessions", {**start, "session": "live"})
    expect(page.locator(".events .badge", has_text="SessionEnded")).to_be_visible(timeout=20_000)
    page = open_page("#/events?kind=SessionStarted")
    before = page.locator(".events > li")
    expect(before.first).to_be_visible()
    expect(page.locator("#live")).to_have_attribute("data-status", "live")
    count = before.count()
    page.get_by_role("button", name="Pause").click()
    _ask(place, "POST", "sessions", {**start, "session": "paused"})
    go_on = page.get_by_role("button", name="Go on (1 new)")
    expect(go_on).to_be_visible(timeout=20_000)
    expect(before).to_have_count(count)
    go_on.click()
    expect(before).to_have_count(count + 1)


def test_a_rounds_time_is_seen_span_by_span(open_page, walked):
    """From the list of rounds to a waterfall of real spans: a group opens, and says what a span knows."""
    page = open_page(f"#/traces?session={walked}")
    page.get_by_role("link", name="Round 1", exact=True).click()
    tree = page.get_by_role("tree")
    expect(tree.get_by_role("treeitem", name=re.compile("^round, .*critical path"))).to_be_visible()
    group = tree.get_by_role("treeitem", name=re.compile("^client walker"))
    expect(group).to_have_attribute("aria-expanded", "false")
    group.click()
    expect(group).to_have_attribute("aria-expanded", "true")
    for name in ("fetch model", "train", "upload", "fold update"):
        expect(tree.get_by_role("treeitem", name=re.compile(f"^{name}, ")).first).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".about")).to_contain_text("fedbus.session")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(group).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("+")
    page.get_by_role("button", name="Show the whole round").click()
    page.get_by_label("Search clients and spans").fill("nobody-like-this")
    expect(group).to_be_hidden()


def test_a_round_without_spans_says_how_to_get_them(open_page):
    """A round that is not known is no error of the page: it says why there is nothing, and leads on."""
    page = open_page("#/sessions/seed/rounds/77/trace", expected=("404",))
    expect(page.get_by_text("No spans of this round are known")).to_be_visible()
    page.get_by_role("link", name="Other rounds").click()
    expect(page.get_by_role("link", name="Round 3", exact=True)).to_be_visible()
