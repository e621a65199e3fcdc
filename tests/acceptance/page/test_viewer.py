"""The viewer of the document of REST: in a real browser, without a network, under the strict policy."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from fedbus.gateway.table import OPERATIONS


def test_the_viewer_shows_every_operation(open_page):
    """All operations with what they take and give, found by a word; nothing for axe, nothing wider than a telephone."""
    page = open_page("docs", width=375, theme="dark")
    expect(page.locator("article")).to_have_count(len(OPERATIONS))
    assert "[object" not in page.locator("body").inner_text()
    start = page.locator("article#startSession")
    expect(start).to_contain_text("POST /api/v1/sessions")
    expect(start).to_contain_text("Idempotency-Key")
    expect(start).to_contain_text("fedbus session start")
    start.locator("summary", has_text="SessionStart").click()
    expect(start.get_by_role("cell", name="config", exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert Axe().run(page).response["violations"] == []
    page.fill("#find", "rollback")
    expect(page.locator("article:visible")).to_have_count(1)
