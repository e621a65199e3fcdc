"""What holds on every view: no error in the console, nothing that axe finds, nothing beyond the edge, few bytes."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

import fedbus.gateway

pytestmark = pytest.mark.slow

VIEWS = (
    "#/",
    "#/sessions",
    "#/sessions/new?clone=seed",
    "#/sessions/seed?round=2",
    "#/sessions/seed/rounds/2/trace",
    "#/compare?session=seed",
    "#/models",
    "#/models/seed-3",
    "#/clients",
    "#/clients/north",
    "#/events",
    "#/traces",
)
PAGE_BYTES_MAX = 200_000
RULES = {
    "light": {
        "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
        "resultTypes": ["violations"],
    },
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}, "resultTypes": ["violations"]},
}
"""Of the other theme what it changes: the elements are the same."""

NOT_KNOWN = ("404",)
"""Spans are kept for a while only: a round that has none is a 404, which the page says in words."""


def _settled(page: Page) -> None:
    expect(page.locator("main h1").first).to_be_visible(timeout=15_000)
    expect(page.locator("main .loading")).to_have_count(0)
    expect(page.locator("#live")).to_have_attribute("data-status", "live")


def _open(page: Page, address: str) -> None:
    page.evaluate("address => { location.hash = address }", address)
    expect(page.locator(f"main > .view[data-address='{address.partition('?')[0]}']")).to_be_visible(timeout=15_000)
    _settled(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_on_any_view(open_page, theme):
    """WCAG 2.2 AA and best practice, contrast among them, hold on all views in both themes."""
    page = open_page("#/", theme=theme, expected=NOT_KNOWN)
    found = []
    for address in VIEWS:
        _open(page, address)
        for one in Axe().run(page, options=RULES[theme]).response["violations"]:
            nodes = [f"{node['target']} {node['html'][:160]}: {node['failureSummary']}" for node in one["nodes"][:3]]
            found.append(f"{address}: {one['id']} ({len(one['nodes'])}): " + "\n   ".join(nodes))
    assert not found, "\n".join(found)


def test_nothing_is_wider_than_the_screen(open_page):
    """From a narrow telephone to a wide desk no view scrolls sideways."""
    page = open_page("#/", width=320, expected=NOT_KNOWN)
    found = []
    for address in VIEWS:
        _open(page, address)
        for width in (320, 375, 768, 1440, 3840):
            page.set_viewport_size({"width": width, "height": 800})
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                found.append(f"{address}: {wide} px of {width}")
    assert not found, "\n".join(found)


def test_no_view_needs_much(open_page):
    """What a browser fetches of the page for any one view is less than 200 KB before compression, the library's too."""
    sizes = """() => performance.getEntries().filter((one) => ["navigation", "resource"].includes(one.entryType)
        && !one.name.includes("/api/")).map((one) => one.decodedBodySize)"""
    for address in ("#/", "#/sessions/new?clone=seed", "#/sessions/seed?round=2", "#/models/seed-3"):
        page = open_page(address, expected=NOT_KNOWN)
        _settled(page)
        fetched = page.evaluate(sizes)
        assert len(fetched) > 15, fetched
        assert sum(fetched) < PAGE_BYTES_MAX, (address, sum(fetched))


def test_the_page_is_small_on_the_wire(place):
    """All files of the page together, as the gateway sends them to a browser, are less than 200 KB."""
    root = Path(fedbus.gateway.__file__).parent / "page"
    paths = [f"page/{file.relative_to(root).as_posix()}" for file in root.rglob("*") if file.is_file()]
    paths.remove("page/index.html")
    sizes = {}
    for path in ("", *paths):
        request = urllib.request.Request(f"{place.http_url}/{path}", headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(request) as answer:
            sizes[path] = len(answer.read())
    assert sum(sizes.values()) < PAGE_BYTES_MAX, sorted(sizes.items(), key=lambda one: -one[1])[:12]


def test_the_keyboard_goes_everywhere(open_page):
    """Skip link, help and the letters after g work; Escape closes; the heading of what is opened has the focus."""
    page = open_page("#/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("?")
    help_ = page.get_by_role("dialog", name="Keyboard")
    expect(help_).to_be_visible()
    page.keyboard.press("Escape")
    expect(help_).to_be_hidden()
    for letter, heading in (("s", "Sessions"), ("m", "Models"), ("c", "Clients"), ("e", "Events"), ("o", "Overview")):
        page.keyboard.press("g")
        page.keyboard.press(letter)
        expect(page.get_by_role("heading", level=1, name=heading)).to_be_focused()


def test_the_theme_is_the_systems_until_one_is_chosen(open_page):
    """The switch wins over the system, and is remembered when the page is loaded again."""
    page = open_page("#/", theme="dark")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Change to light").click()
    expect(page.get_by_role("button", name="Change to dark")).to_be_visible()
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    expect(page.get_by_role("button", name="Change to dark")).to_be_visible()
    assert page.evaluate(ground) == light


def test_names_of_strangers_are_texts(open_page):
    """An attribute that looks like HTML is shown as it is, and no element comes of it."""
    page = open_page("#/clients/south")
    expect(page.get_by_text("<script>alert(1)</script>")).to_be_visible()
    assert page.locator("main script").count() == 0


def test_the_policy_lets_no_inline_script_run(open_page):
    """The content security policy stands on the page itself: an element with a script in it does nothing."""
    page = open_page("#/", expected=("Content Security Policy",))
    page.evaluate("""() => {
        const one = document.createElement("script");
        one.textContent = "window.ran = true";
        document.body.append(one);
    }""")
    assert page.evaluate("window.ran") is None
