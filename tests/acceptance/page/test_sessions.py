"""Sessions on the page, as people go through them: start, see it move, stop, clone."""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def test_a_session_is_started_from_the_form_moves_and_is_stopped(open_page):
    """The form starts a session, its curves and bars move without a reload, the dialog stops it with a reason."""
    page = open_page("#/sessions/new?model=seed-3")
    page.get_by_label("name", exact=True).fill("from-form")
    page.get_by_label("rounds", exact=True).fill("500")
    page.get_by_label("clients min").fill("3")
    page.get_by_label("quorum").fill("2")
    page.get_by_label("train config").fill("sleep_s=0.05")
    request = page.get_by_role("region", name="The request")
    expect(request).to_contain_text('"rounds": 500')
    expect(request).to_contain_text('"sleep_s": 0.05')
    expect(page.get_by_role("region", name="On the command line")).to_contain_text("--name from-form")
    page.get_by_role("button", name="Start", exact=True).click()

    expect(page.get_by_role("heading", level=1)).to_contain_text("from-form")
    bars = page.locator(".round-bar.is-closed")
    expect(bars.nth(2)).to_be_visible(timeout=20_000)
    curve = page.get_by_role("region", name="Curve of loss")
    expect(curve).to_be_visible()
    first = bars.count()
    expect(bars.nth(first + 2)).to_be_visible(timeout=20_000)
    expect(page.get_by_role("region", name="Not counted, and why")).to_contain_text("shard <b>7</b> is empty")

    page.get_by_role("button", name="Stop").click()
    dialog = page.get_by_role("dialog", name="Stop from-form")
    dialog.get_by_label("Why").fill("seen enough")
    dialog.get_by_role("button", name="Stop the session").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("h1 .badge")).to_contain_text("stopped")
    expect(page.get_by_text("stopped: seen enough")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_where_a_clients_time_went_is_seen_of_each_round(open_page):
    """A round that is chosen shows every client with its parts, and who was refused with the reason."""
    page = open_page("#/sessions/seed?round=2")
    card = page.get_by_role("region", name="Round 2", exact=True)
    expect(card.get_by_role("link", name="north")).to_be_visible()
    expect(card.locator(".client-bar", has_text="north").get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("waiting .*s, download .*s, training .*s, upload .*s")
    )
    refused = card.locator(".client-bar", has_text="broken")
    expect(refused).to_contain_text("refused")
    expect(refused).to_contain_text("shard <b>7</b> is empty")
    card.get_by_text("All numbers, as a table").click()
    expect(card.get_by_role("table").get_by_role("row")).to_have_count(4)
    card.get_by_role("link", name="The next round").click()
    expect(page.get_by_role("region", name="Round 3", exact=True)).to_be_visible()


def test_a_clone_marks_what_differs_and_sends_that_alone(open_page):
    """The form of a clone is filled with the original's settings; changed ones are marked and are all that is sent."""
    page = open_page("#/sessions/new?clone=seed")
    rounds = page.locator("#f-rounds")
    expect(rounds).to_have_value("3")
    rounds.fill("2")
    expect(page.locator(".field.changed")).to_have_count(1)
    expect(page.locator(".field.changed")).to_contain_text("was 3")
    request = page.get_by_role("region", name="The request")
    expect(request).to_contain_text("POST api/v1/sessions/seed/clone")
    expect(request).not_to_contain_text("clients_min")
    command = page.get_by_role("region", name="On the command line")
    expect(command).to_contain_text("fedbus session clone seed")
    expect(command).to_contain_text("--set rounds=2")
    page.get_by_role("button", name="Start the clone").click()
    expect(page.get_by_role("link", name="Clone")).to_be_visible()
    expect(page.locator("h1 .badge")).to_contain_text("completed", timeout=20_000)
    expect(page.locator(".round-bar.is-closed")).to_have_count(2)


def test_settings_that_are_refused_are_told_at_their_fields(open_page):
    """A refused start changes nothing: each wrong field is marked with the gateway's reason and gets the focus."""
    page = open_page("#/sessions/new?model=seed-3", expected=("422",))
    page.get_by_label("name", exact=True).fill("never-started")
    page.get_by_label("rounds", exact=True).fill("-1")
    page.get_by_role("button", name="Start", exact=True).click()
    rounds = page.locator("#f-rounds")
    expect(rounds).to_have_attribute("aria-invalid", "true")
    expect(rounds).to_be_focused()
    expect(page.locator("#f-rounds-problem")).to_be_visible()
    rounds.fill("two")
    expect(page.locator("#f-rounds-problem")).to_contain_text("expected a whole number")
    page.goto(page.url.split("#")[0] + "#/sessions?text=never-started")
    expect(page.get_by_text("No session is like that")).to_be_visible()


def test_options_of_a_strategy_and_of_a_chain_are_known(open_page):
    """What is installed can be chosen; a chain's options are sent by member, with the command that says the same."""
    page = open_page("#/sessions/new?model=seed-3")
    page.get_by_label("strategy", exact=True).select_option("norm_clipping")
    page.get_by_label("clip norm").fill("2.5")
    request = page.get_by_role("region", name="The request")
    expect(request).to_contain_text('"strategy_options": { "clip_norm": 2.5 }', use_inner_text=False)
    page.get_by_role("button", name="+ Chain another").click()
    page.get_by_label("then").select_option("fedadam")
    page.get_by_label("tau").fill("0.01")
    expect(request).to_contain_text('"strategy": "norm_clipping+fedadam"')
    expect(request).to_contain_text('"fedadam": { "tau": 0.01 }')
    command = page.get_by_role("region", name="On the command line")
    expect(command).to_contain_text("--strategy norm_clipping+fedadam")


def test_the_list_is_searched_filtered_and_kept_in_the_address(open_page):
    """Search and status narrow the list and stand in the address, so that it can be sent to somebody."""
    page = open_page("#/sessions")
    expect(page.get_by_role("link", name="seed", exact=True)).to_be_visible()
    page.keyboard.press("/")
    search = page.get_by_role("searchbox", name="Search sessions by name")
    expect(search).to_be_focused()
    search.fill("nothing-like-it")
    expect(page.get_by_text("No session is like that")).to_be_visible()
    search.fill("seed")
    expect(page.get_by_role("link", name="seed", exact=True)).to_be_visible()
    expect(search).to_be_focused()
    page.get_by_role("button", name="completed").click()
    expect(page).to_have_url(re.compile(r"#/sessions\?text=seed&status=completed"))
    expect(page.get_by_role("button", name="completed")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("link", name="seed", exact=True)).to_be_visible()


def test_a_model_in_a_file_becomes_the_beginning_of_a_session(open_page, place):
    """A file that is chosen in the form is imported as a version, which the session then begins with."""
    np.savez(place.directory / "first try.npz", w=np.ones((20, 5), np.float32), b=np.zeros(5, np.float32))
    page = open_page("#/sessions/new")
    start = page.get_by_role("button", name="Start", exact=True)
    expect(start).to_be_disabled()
    page.get_by_label("or upload a file").set_input_files(place.directory / "first try.npz")
    expect(page.locator("#f-model")).to_have_value(re.compile("^first-try-"))
    page.get_by_label("name", exact=True).fill("from-file")
    page.get_by_label("rounds", exact=True).fill("1")
    start.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("from-file")
    expect(page.locator("h1 .badge")).to_contain_text("completed", timeout=20_000)
    expect(page.get_by_role("main")).to_contain_text("from first-try-")


def test_an_option_that_is_refused_is_told_at_its_field(open_page):
    """An option of a chain's member that is out of range is marked with the reason, and has the focus."""
    page = open_page("#/sessions/new?model=seed-3", expected=("422",))
    page.get_by_label("strategy", exact=True).select_option("norm_clipping")
    page.get_by_label("clip norm").fill("1")
    page.get_by_role("button", name="+ Chain another").click()
    page.get_by_label("then").select_option("fedadam")
    page.get_by_label("tau").fill("-4")
    page.get_by_role("button", name="Start", exact=True).click()
    tau = page.locator("[id='f-strategy_options.fedadam.tau']")
    expect(tau).to_have_attribute("aria-invalid", "true")
    expect(tau).to_be_focused()
    expect(page.locator("[id='f-strategy_options.fedadam.tau-problem']")).to_contain_text("greater than 0")
    tau.fill("0.01")
    expect(tau).not_to_have_attribute("aria-invalid", "true")
