"""Who one is on the page, what one may there, and how a machine is let in, watched and shut out."""

from __future__ import annotations

import io
import json
import re
import time
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from fedbus.access.actions import PERMITTED, Action
from fedbus.access.credentials import read_credentials
from fedbus.gateway.cookies import Cookies

pytestmark = pytest.mark.slow

ASKED = ("401",)
"""What a browser notes when it is asked who one is."""

REFUSED = ("403",)

RULES = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "dark": {"type": "rule", "values": ["color-contrast"]},
}
"""Of the other theme what it changes: the elements are the same."""

WAIT_S_MAX = 30.0

SITE = """
import fedbus

app = fedbus.ClientApp()

@app.train
def train(model, task):
    return fedbus.Update(dict(model), weight=1)
"""


def rest(place, method, path, body=None, role="admin"):
    """Ask the gateway as a program of somebody does."""
    request = urllib.request.Request(
        f"{place.http_url}/api/v1/{path}",
        method=method,
        data=body if body is None or isinstance(body, bytes) else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {place.tokens[role]}",
            "Content-Type": "application/octet-stream" if isinstance(body, bytes) else "application/json",
        },
    )
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


def settled(page: Page, address: str) -> None:
    """Go to an address, and wait until all of it is there."""
    page.evaluate("address => { location.hash = address }", address)
    expect(page.locator(f"main > .view[data-address='{address.partition('?')[0]}']")).to_be_visible(timeout=15_000)
    expect(page.locator("main h1").first).to_be_visible(timeout=15_000)
    expect(page.locator("main .loading")).to_have_count(0)


def log_in(page: Page, token: str) -> None:
    """Fill in the token."""
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()


def test_one_logs_in_where_one_is_and_out_again(open_page, secured):
    """A wrong token is refused in words; a right one leads on at the same address; after a log-out nothing is seen."""
    page = open_page("#/models", base=secured.http_url, expected=ASKED)
    expect(page.get_by_role("heading", level=1, name="Log in")).to_be_visible()
    expect(page.get_by_role("navigation")).to_be_hidden()
    log_in(page, secured.tokens["viewer"][:-4] + "AAAA")
    expect(page.get_by_role("alert")).to_contain_text("not valid")
    log_in(page, secured.tokens["viewer"])
    expect(page.get_by_role("heading", level=1, name="Models")).to_be_visible()
    expect(page.locator("#live")).to_have_attribute("data-status", "live")
    page.reload()
    expect(page.get_by_role("heading", level=1, name="Models")).to_be_visible()
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="ms-viewer").click()
    expect(page.get_by_role("dialog", name="You")).to_contain_text("session.read")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1, name="Log in")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", level=1, name="Log in")).to_be_visible()


def test_a_link_logs_in_once_and_leaves_the_address(open_page, secured):
    """The token of a link is exchanged at once, stands in no address and no history, and is no good a second time."""
    wanted = {"what": "api", "role": "viewer", "name": "ms-viewer", "uses_max": 1, "expires_s": 900}
    text = rest(secured, "POST", "tokens", wanted)["text"]
    page = open_page(f"#/login/{text}", base=secured.http_url, expected=ASKED)
    expect(page.get_by_role("heading", level=1, name="Overview")).to_be_visible()
    expect(page.get_by_role("button", name="ms-viewer")).to_be_visible()
    assert text not in page.url and page.evaluate("history.length") <= 2
    settled(page, "#/roles")
    page.go_back()
    expect(page.get_by_role("heading", level=1, name="Overview")).to_be_visible()
    assert text not in page.url
    again = open_page(f"#/login/{text}", base=secured.http_url, expected=ASKED)
    expect(again.get_by_role("alert")).to_contain_text("no good any more")
    assert text not in again.url


def test_a_link_of_somebody_else_takes_nobodys_place_unasked(open_page, secured):
    """Who is logged in, and follows a link, is asked; she stays who she is, or becomes whom the link is for."""
    wanted = {"what": "api", "role": "viewer", "name": "ms-viewer", "uses_max": 1, "expires_s": 900}
    text = rest(secured, "POST", "tokens", wanted)["text"]
    page = open_page("#/models", base=secured.http_url, token=secured.tokens["engineer"])
    expect(page.get_by_role("button", name="ms-engineer")).to_be_visible()
    for follows in (False, True):
        page.evaluate("text => { location.hash = `#/login/${text}` }", text)
        expect(page.get_by_text("You are ms-engineer here.")).to_be_visible()
        assert text not in page.url
        if follows:
            assert not Axe().run(page).response["violations"]
            page.get_by_role("button", name="Log in with the link").press("Enter")
        else:
            page.get_by_role("link", name="Stay as you are").press("Enter")
            expect(page.get_by_role("heading", level=1, name="Overview")).to_be_visible()
            expect(page.get_by_role("button", name="ms-engineer")).to_be_visible()
    expect(page.get_by_role("button", name="ms-viewer")).to_be_visible()
    expect(page.get_by_role("heading", level=1, name="Overview")).to_be_visible()


def test_a_provider_is_offered_and_its_refusal_told(open_page, secured):
    """With a provider there is a way to it that remembers where one was; why it led nowhere is said in words."""
    page = open_page("#/models", base=secured.http_url, expected=ASKED)
    told = json.dumps({"open": False, "oidc": "Example ID"})
    page.route("**/api/v1/login", lambda route: route.fulfill(content_type="application/json", body=told))
    page.route("**/api/v1/login/oidc", lambda route: route.fulfill(status=302, headers={"Location": secured.http_url}))
    page.reload()
    link = page.get_by_role("link", name="Log in with Example ID")
    expect(link).to_have_attribute("href", f"{secured.http_url}/api/v1/login/oidc")
    assert page.context.request.post(
        f"{secured.http_url}/api/v1/login", data={"token": secured.tokens["viewer"]}
    ).ok  # as the provider's way does, with a cookie
    link.click()
    expect(page.get_by_role("heading", level=1, name="Models")).to_be_visible()
    other = open_page("#/login?refused=unknown", base=secured.http_url, expected=ASKED)
    expect(other.get_by_role("alert")).to_contain_text("this workspace does not")


def test_whoever_is_let_in_no_more_is_asked_and_goes_on_where_she_was(open_page, secured):
    """A suspended person's open page asks who she is by itself; whoever logs in next sees the same address."""
    rest(secured, "POST", "people", {"person": "short", "roles": ["viewer"]})
    text = rest(secured, "POST", "tokens", {"what": "api", "role": "viewer", "name": "short", "uses_max": 0})["text"]
    page = open_page("#/clients", base=secured.http_url, token=text, expected=(*ASKED, "ERR_INCOMPLETE"))
    expect(page.locator("#live")).to_have_attribute("data-status", "live")
    rest(secured, "PATCH", "people/short", {"state": "suspended"})
    expect(page.get_by_role("heading", level=1, name="Log in")).to_be_visible(timeout=10_000)
    log_in(page, text)
    expect(page.get_by_role("alert")).to_contain_text("suspended")
    log_in(page, secured.tokens["engineer"])
    expect(page.get_by_role("heading", level=1, name="Clients")).to_be_visible()
    expect(page.get_by_role("button", name="ms-engineer")).to_be_visible()
    expect(page.locator("#live")).to_have_attribute("data-status", "live")


def test_a_machine_joins_is_approved_watched_and_suspended(open_page, secured, run_at):
    """The page's own line joins in another process, waits with the key it shows, is let in, is seen, and is cut off."""
    page = open_page("#/tokens", base=secured.http_url, token=secured.tokens["admin"])
    page.get_by_role("button", name="Let a machine join").first.click()
    page.get_by_label("Name").fill("site-1")
    page.get_by_label("Approval").select_option("ask")
    page.get_by_role("button", name="Create").click()
    made = page.get_by_role("dialog", name="A token to join with")
    words = made.locator("code").first.text_content().split()
    assert words[:2] == ["fedbus", "join"] and words[2].startswith("fbj_")
    made.get_by_role("button", name="Done").click()
    expect(page.get_by_role("row").filter(has_text="site-1 as client")).to_contain_text("0 of 1")
    assert words[2] not in page.content()

    joining = run_at("join", "-m", *words, home="site")
    settled(page, "#/members")
    row = page.get_by_role("region", name="Members that wait").get_by_role("row").filter(has_text="site-1")
    expect(row).to_be_visible(timeout=20_000)
    expect(page.get_by_title(re.compile("wait to be let in"))).to_be_visible(timeout=20_000)
    key = row.locator("code").text_content()
    assert f"key: {key}" in (secured.directory / "join.log").read_text()
    row.get_by_role("button", name="Approve site-1").click()
    page.get_by_role("dialog").get_by_role("button", name="Approve").click()
    assert joining.wait(WAIT_S_MAX) == 0, (secured.directory / "join.log").read_text()

    (secured.directory / "site_app.py").write_text(SITE)
    site = run_at(
        "site", "-m", "fedbus", "client", "run", "site_app:app", "--name", "site-1", "--nats", secured.nats_url,
        home="site",
    )  # fmt: skip
    everybody = page.get_by_role("region", name="Members", exact=True)
    row = everybody.get_by_role("row").filter(has=page.get_by_role("link", name="site-1"))
    expect(row).to_contain_text("online", timeout=20_000)
    row.get_by_role("link", name="site-1").click()
    expect(page.get_by_role("region", name="Identity")).to_contain_text(key)
    page.get_by_role("button", name="Suspend site-1").click()
    dialog = page.get_by_role("dialog", name="Suspend client site-1")
    dialog.get_by_label("Reason").fill("sends noise")
    dialog.get_by_role("button", name="Suspend").click()
    expect(page.locator(".heading")).to_contain_text("suspended")
    expect(page.get_by_role("region", name="Identity")).to_contain_text("sends noise")
    settled(page, "#/clients")
    rows = page.get_by_role("row").filter(has=page.get_by_role("link", name="site-1"))
    expect(rows.filter(has_text="online")).to_have_count(0)
    settled(page, "#/audit?action=member.suspend")
    expect(page.get_by_role("row").filter(has_text="site-1").first).to_contain_text("ms-admin")
    assert "revoked" in (secured.directory / "site.log").read_text()
    site.terminate()


def test_a_person_is_added_let_in_changed_and_removed(open_page, secured):
    """From the form, with the roles that the gateway tells of, to a link that works, to another role, to gone."""
    page = open_page("#/people", base=secured.http_url, token=secured.tokens["admin"], expected=("422",))
    told = rest(secured, "GET", "roles")
    told["roles"].append({"role": "pilot", "about": "of a later release", "actions": []})
    page.route("**/api/v1/roles", lambda route: route.fulfill(content_type="application/json", body=json.dumps(told)))
    page.reload()
    page.get_by_role("button", name="Add a person").click()
    dialog = page.get_by_role("dialog", name="Add a person")
    expect(dialog.get_by_role("checkbox")).to_have_count(len(PERMITTED) + 1)
    dialog.get_by_label("Name").fill("ana@hospital.example")
    dialog.get_by_label("pilot").check()
    dialog.get_by_role("button", name="Add").press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("roles")
    expect(dialog.get_by_role("button", name="Add")).to_be_focused()
    dialog.get_by_label("pilot").uncheck()
    dialog.get_by_label("Name").fill("ana@hospital.example")
    dialog.get_by_label("viewer").check()
    dialog.get_by_role("button", name="Add").click()
    row = page.get_by_role("row").filter(has_text="ana@hospital.example")
    expect(row).to_contain_text("viewer")
    row.get_by_role("button", name="Let ana@hospital.example log in").click()
    page.get_by_role("button", name="Create").click()
    link = page.get_by_role("dialog", name="For ana@hospital.example").locator("code").first.text_content()
    other = open_page(link.removeprefix(f"{secured.http_url}/"), base=secured.http_url, expected=ASKED)
    expect(other.get_by_role("button", name="ana@hospital.example")).to_be_visible()
    page.get_by_role("button", name="Done").click()
    row.get_by_role("button", name="Change ana@hospital.example").click()
    dialog = page.get_by_role("dialog", name="Change ana@hospital.example")
    dialog.get_by_label("viewer").uncheck()
    dialog.get_by_label("auditor").check()
    dialog.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("auditor")
    row.get_by_role("button", name="Remove ana@hospital.example").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Remove").press("Enter")
    expect(row).to_have_count(0)
    expect(page.get_by_role("row").nth(1).get_by_role("button", name=re.compile("^Remove"))).to_be_focused()


def aged(page: Page, place) -> None:
    """Make a sign-in one whose owner has shown long ago who she is: its cookie says so, signed as a gateway does."""
    credentials = read_credentials(place.directory / "data" / "credentials" / "default" / "gateway.gateway.creds")
    cookies = Cookies(bytes.fromhex(credentials.secrets["login"]), "default")
    (known,) = page.context.cookies()
    proof = cookies.read(known["value"], time.time())
    page.context.add_cookies([{**known, "value": cookies.make(replace(proof, shown=1.0))}])


def test_who_has_logged_in_a_while_ago_is_asked_again_and_goes_on(open_page, secured):
    """What she began is refused where she does not say it, done where she does; sign-ins elsewhere end at a click."""
    token = secured.tokens["admin"]
    page = open_page("#/me", base=secured.http_url, token=token, expected=(*ASKED, *REFUSED))
    rows = page.get_by_role("region", name="Sign-ins, newest first").get_by_role("row")
    expect(rows.filter(has_text="this one")).to_contain_text("127.0.0.1")
    other = open_page("#/me", base=secured.http_url, token=token, expected=(*ASKED, "ERR_INCOMPLETE"))
    expect(other.locator("#live")).to_have_attribute("data-status", "live")
    aged(page, secured)
    page.reload()
    page.get_by_role("button", name="End all others").press("Enter")
    page.get_by_role("dialog", name="End all others").get_by_role("button", name="End all others").press("Enter")
    dialog = page.get_by_role("dialog", name="Who are you?")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("show again who you are")
    page.get_by_role("dialog", name="End all others").get_by_role("button", name="End all others").press("Enter")
    for given in (secured.tokens["viewer"], f"{token[:-4]}AAAA"):
        dialog.get_by_label("Token").fill(given)
        dialog.get_by_role("button", name="Go on").press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("not")
        expect(dialog.get_by_role("button", name="Go on")).to_be_enabled()
    dialog.get_by_label("Token").fill(f"{secured.http_url}/#/login/{token}")
    dialog.get_by_role("button", name="Go on").press("Enter")
    expect(rows).to_have_count(2)  # its head, and this one
    expect(page.get_by_role("heading", level=1, name="You")).to_be_focused()  # the button has gone
    expect(other.get_by_role("heading", level=1, name="Log in")).to_be_visible(timeout=15_000)
    expect(page.locator("#live")).to_have_attribute("data-status", "live")


def test_a_provider_is_asked_again_in_another_window(open_page, secured):
    """Where there is one it is offered; what was begun goes on as soon as the gateway knows, in the first window."""
    page = open_page("#/people", base=secured.http_url, token=secured.tokens["admin"], expected=REFUSED)
    told = json.dumps({"open": False, "oidc": "Example ID"})
    page.route("**/api/v1/login", lambda route: route.fulfill(content_type="application/json", body=told))
    page.context.route(
        "**/api/v1/login/oidc?again=true",
        lambda route: route.fulfill(status=302, headers={"Location": f"{secured.http_url}/#/shown"}),
    )
    aged(page, secured)
    page.reload()
    page.get_by_role("button", name="Change ms-viewer").click()
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    with page.expect_popup() as opened:
        page.get_by_role("dialog", name="Who are you?").get_by_role("button", name="Show it with Example ID").click()
    expect(opened.value.get_by_role("heading", level=1)).to_have_text("You have shown who you are")
    assert page.context.request.post(f"{secured.http_url}/api/v1/login", data={"token": secured.tokens["admin"]}).ok
    expect(page.get_by_role("dialog")).to_have_count(0, timeout=15_000)
    opened.value.goto(f"{secured.http_url}/#/shown?refused=another")
    expect(opened.value.get_by_role("alert")).to_contain_text("somebody else")


SHORT = """import('./page/js/me.js').then(({ me }) => {
  const now = Date.now, end = now() / 1000 + 60;
  Object.defineProperty(me, "idleUntil", { get: () => end, set: () => {}, configurable: true });
  Date.now = () => now() + 16_000;
})"""
"""The sign-in ends a minute after what was done last, whatever is answered, and more than a quarter of that is over."""


def test_who_uses_the_page_stays_and_who_only_looks_does_not(open_page, secured):
    """A key says it, at most once a minute, or four times before the end; what the page asks by itself does not.

    What came with the cookie, or the header, of before another tab was asked again is repeated. Closing a message loses
    no focus.
    """
    page = open_page("#/me", base=secured.http_url, token=secured.tokens["viewer"], expected=(*ASKED, *REFUSED))
    expect(page.locator("#live")).to_have_attribute("data-status", "live")
    said: list[str] = []
    page.on("request", lambda request: said.append(request.url) if request.url.endswith("/me/active") else None)
    page.keyboard.press("Shift")
    page.evaluate("const now = Date.now; Date.now = () => now() + 61_000")
    settled(page, "#/sessions")
    settled(page, "#/me")
    assert not said
    with page.expect_response("**/me/active") as answer:
        page.keyboard.press("Shift")
    page.keyboard.press("Shift")
    assert answer.value.ok and "set-cookie" in answer.value.all_headers() and len(said) == 1
    page.evaluate(SHORT)
    with page.expect_response("**/me/active"):
        page.keyboard.press("Shift")
    assert page.context.request.post(f"{secured.http_url}/api/v1/login", data={"token": secured.tokens["viewer"]}).ok
    page.evaluate(SHORT)
    with page.expect_response(lambda told: told.url.endswith("/me/active") and told.ok):  # not at first
        page.keyboard.press("Shift")
    page.route("**/me/sign-ins", lambda route: route.fulfill(status=401, body="{}"), times=1)
    settled(page, "#/sessions")
    settled(page, "#/me")
    expect(page.get_by_role("row").filter(has_text="this one")).to_be_visible()
    page.evaluate("import('./page/js/ui.js').then(({ toast }) => ['one', 'two'].map((text) => toast(text, 'bad')))")
    messages = page.get_by_role("button", name="Close message")
    messages.first.press("Enter")
    expect(messages).to_have_count(1)
    expect(messages).to_be_focused()
    messages.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_the_audit_is_verified_and_exported(open_page, secured):
    """The button goes along the chain and shows its head; the export is the file that verifies by itself."""
    rest(secured, "PUT", "workspace", {"sessions_max": 7})
    page = open_page("#/audit", base=secured.http_url, token=secured.tokens["auditor"])
    expect(page.get_by_role("row").filter(has_text="workspace.set").first).to_contain_text("ms-admin")
    page.get_by_role("button", name="Verify").click()
    expect(page.get_by_role("status").filter(has_text="The chain holds")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Export").click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) > 3 and all("raw" in json.loads(line) for line in lines)
    assert download.value.suggested_filename == "audit-default.jsonl"


def test_bounds_are_changed_and_shown(open_page, secured):
    """What is set in the form stands there with how full it is; letters after g lead to the views of access."""
    page = open_page("#/workspace", base=secured.http_url, token=secured.tokens["admin"])
    page.get_by_role("button", name="Change", exact=True).click()
    page.get_by_label("Active clients, at most").fill("9")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("row").filter(has_text="active clients")).to_contain_text("9")
    assert rest(secured, "GET", "workspace")["clients_max"] == 9
    page.get_by_role("button", name="Change", exact=True).click()
    page.get_by_label("Active clients, at most").fill("0")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("row").filter(has_text="active clients")).to_contain_text("no bound")
    for letter, heading in (("k", "Tokens"), ("b", "Members"), ("r", "Roles")):
        page.keyboard.press("g")
        page.keyboard.press(letter)
        expect(page.get_by_role("heading", level=1, name=heading)).to_be_focused()


MENU = {
    "Overview": Action.OVERVIEW_READ,
    "Sessions": Action.SESSION_READ,
    "Compare": Action.SESSION_READ,
    "Models": Action.MODEL_READ,
    "Clients": Action.CLIENT_READ,
    "Events": Action.EVENT_READ,
    "Traces": Action.SESSION_INSPECT,
    "Members": Action.MEMBER_READ,
    "Tokens": Action.TOKEN_READ,
    "People": Action.PERSON_READ,
    "Audit": Action.AUDIT_READ,
    "Workspace": Action.WORKSPACE_READ,
    "Roles": Action.SELF_READ,
}

BUTTONS = {
    ("#/sessions", Action.SESSION_READ): {"Start a session": Action.SESSION_START},
    ("#/models", Action.MODEL_READ): {
        "Import": Action.MODEL_IMPORT,
        "Retention": Action.RETENTION_SET,
        "Collect": Action.RETENTION_SET,
    },
    ("#/models/first", Action.MODEL_READ): {
        "Download": Action.MODEL_DOWNLOAD,
        "Promote": Action.MODEL_PROMOTE,
        "Add a note": Action.MODEL_ANNOTATE,
        "Start a session": Action.SESSION_START,
        "Remove": Action.MODEL_REMOVE,
    },
    ("#/members", Action.MEMBER_READ): {
        "Let a machine join": Action.TOKEN_CREATE,
        "Suspend combiner-1": Action.MEMBER_SUSPEND,
        "Expel combiner-1": Action.MEMBER_EXPEL,
        "Approve waits-1": Action.MEMBER_APPROVE,
        "Resume rests-1": Action.MEMBER_RESUME,
    },
    ("#/tokens?text=ms-viewer", Action.TOKEN_READ): {
        "Let a machine join": Action.TOKEN_CREATE,
        "/^Revoke/": Action.TOKEN_REVOKE,
    },
    ("#/people", Action.PERSON_READ): {
        "Add a person": Action.PERSON_ADD,
        "Let ms-viewer log in": Action.TOKEN_CREATE,
        "Change ms-viewer": Action.PERSON_CHANGE,
        "Suspend ms-viewer": Action.PERSON_CHANGE,
        "Remove ms-viewer": Action.PERSON_REMOVE,
    },
    ("#/audit", Action.AUDIT_READ): {"Verify": Action.AUDIT_VERIFY},
    ("#/workspace", Action.WORKSPACE_READ): {"Change": Action.WORKSPACE_SET},
}  # fmt: skip
"""By view, with what one needs to see it: what can be done there, and what one needs for it."""

LINKS = ("Start a session", "Download")


@pytest.mark.parametrize("role", PERMITTED)
def test_each_role_sees_and_may_do_what_the_table_says(open_page, secured, something_of_each_kind, role):
    """The menu has what one may see; a view that one may not see, and a button, name the permission that is missing."""
    may = PERMITTED[role]
    page = open_page("#/roles", base=secured.http_url, token=secured.tokens[role], expected=REFUSED)
    entries = [text.split("\n")[0] for text in page.get_by_role("navigation").get_by_role("link").all_inner_texts()]
    assert [re.sub(r"[\d,]+$", "", one) for one in entries] == [one for one, action in MENU.items() if action in may]
    for (address, needed), buttons in BUTTONS.items():
        settled(page, address)
        if needed not in may:
            expect(page.get_by_role("alert")).to_contain_text(needed.value)
            continue
        for name, action in buttons.items():
            wanted = re.compile(name.strip("/")) if name.startswith("/") else name
            by = "link" if name in LINKS and action in may else "button"
            button = page.locator("main").get_by_role(by, name=wanted, exact=True).first
            expect(button).to_be_visible()
            if action in may:
                expect(button).to_be_enabled()
            else:
                expect(button).to_be_disabled()
                assert action.value in button.get_attribute("title"), (address, name)


@pytest.fixture(scope="session")
def something_of_each_kind(secured, run_at):
    """A model, a client that waits, and one that is suspended; neither of them runs."""
    model = io.BytesIO()
    np.savez(model, w=np.zeros(3, np.float32))
    rest(secured, "POST", "models?version=first", model.getvalue())
    for name, approval in (("waits-1", "ask"), ("rests-1", "auto")):
        text = rest(secured, "POST", "tokens", {"name": name, "approval": approval})["text"]
        asking = run_at(name, "-m", "fedbus", "join", text, home=name)
        end = time.monotonic() + WAIT_S_MAX
        while name not in {one["member"] for one in rest(secured, "GET", "members?role=client")["items"]}:
            assert time.monotonic() < end, (secured.directory / f"{name}.log").read_text()
            time.sleep(0.1)
        asking.terminate()
    rest(secured, "POST", "members/client/rests-1/suspend", {"reason": "rests"})


VIEWS = (
    "#/members",
    "#/members/combiner/combiner-1",
    "#/tokens",
    "#/people",
    "#/audit",
    "#/workspace",
    "#/roles",
    "#/me",
    "#/shown",
)


def axe_finds(page: Page, theme: str, where: str) -> list[str]:
    """What axe has against what is shown."""
    return [
        f"{where}: {one['id']}: {[(node['target'], node['failureSummary']) for node in one['nodes'][:2]]}"
        for one in Axe()
        .run(page, options={"runOnly": RULES[theme], "resultTypes": ["violations"]})
        .response["violations"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_on_views_of_access(open_page, secured, theme):
    """WCAG 2.2 AA and best practice hold on each of them, on the login, in forms, and where one may not."""
    page = open_page("#/", base=secured.http_url, theme=theme, expected=(*ASKED, *REFUSED))
    found = axe_finds(page, theme, "login")
    log_in(page, secured.tokens["admin"])
    expect(page.locator("#live")).to_have_attribute("data-status", "live")
    for address in VIEWS:
        settled(page, address)
        found += axe_finds(page, theme, address)
    for address, button in (
        ("#/tokens", "Let a machine join"),
        ("#/people", "Add a person"),
        ("#/workspace", "Change"),
    ):
        settled(page, address)
        page.locator("main").get_by_role("button", name=button, exact=True).click()
        found += axe_finds(page, theme, button)
        page.keyboard.press("Escape")
    aged(page, secured)
    page.get_by_role("button", name="Change", exact=True).click()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog", name="Who are you?")).to_be_visible()
    found += axe_finds(page, theme, "asked again")
    other = open_page("#/people", base=secured.http_url, theme=theme, token=secured.tokens["auditor"])
    found += axe_finds(other, theme, "an auditor's")
    assert not found, "\n".join(found)


def test_nothing_of_access_is_wider_than_the_screen(open_page, secured, something_of_each_kind):
    """From a narrow telephone to a desk none of these views scrolls sideways, nor does the login."""
    page = open_page("#/", base=secured.http_url, width=320, expected=ASKED)
    found = []

    def measure(where: str) -> None:
        for width in (320, 768, 1440):
            page.set_viewport_size({"width": width, "height": 800})
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                found.append(f"{where}: {wide} px of {width}")

    measure("login")
    log_in(page, secured.tokens["admin"])
    expect(page.locator("#live")).to_have_attribute("data-status", "live")
    for address in VIEWS:
        settled(page, address)
        measure(address)
    assert not found, "\n".join(found)


def test_an_open_gateway_says_that_it_asks_nobody(open_page):
    """The bar says that it is open, and how that is changed; there is nobody to let in, so the menu offers none."""
    page = open_page("#/")
    page.get_by_role("button", name="open").click()
    expect(page.get_by_role("dialog", name="An open workspace")).to_contain_text("--open")
    page.keyboard.press("Escape")
    links = page.get_by_role("navigation").get_by_role("link")
    expect(links.filter(has_text="Audit")).to_have_count(1)
    expect(links.filter(has_text="Members")).to_have_count(0)
