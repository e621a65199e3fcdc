"""Who asks is known by a token or a cookie, and looked up each time; whoever is not, or may not, gets nothing."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from asker import ask, gateway_in
from people import OTHER, SECRET, credentials_of, secured_in
from whole_house import House

from fedbus.access.actions import PERMITTED, ROLES, Action, may, permitted_to
from fedbus.access.credentials import Credentials
from fedbus.access.names import id_of
from fedbus.access.signin import login_link
from fedbus.client.app import ClientApp
from fedbus.config.session import SessionConfig
from fedbus.errors import ConfigError, Conflict
from fedbus.gateway.caller import Proof
from fedbus.gateway.cookies import AHEAD_S, CHARS_MAX, Cookies
from fedbus.gateway.events import frame
from fedbus.gateway.hiding import frame_without_clients, without_clients
from fedbus.gateway.listening import Listening
from fedbus.gateway.operations import API, NAMES
from fedbus.gateway.table import OPERATIONS
from fedbus.gateway.views import HealthView, Page, WaitView
from fedbus.messages.access import Member
from fedbus.messages.ids import Peer
from fedbus.testing.loop import run_virtual

ME = f"{API}/me"
SESSIONS = f"{API}/sessions"


def in_house(scene, **given):
    """Run a scene in a secured gateway."""

    async def run():
        house = House()
        async with secured_in(house, **given) as found:
            return await scene(found)

    return run_virtual(run())


def target_of(operation):
    """An address of an operation; names in it are those of nothing."""
    given = {"round": "1", "role": "client", "name": "fedavg", "sign_in": "0" * 16}
    path = operation.path
    for name in NAMES:
        path = path.replace(f"{{{name}}}", given.get(name, "nothing"))
    return path


# --- the matrix ---


def test_every_operation_by_every_role_is_as_the_table_says():
    """Each operation, asked by each role and by nobody: let in or refused with the permission that is missing."""

    async def scene(house):
        found = {}
        for operation in OPERATIONS:
            if operation.method == "GET" and operation.media == "text/event-stream":
                target = f"{target_of(operation)}?limit=1"
            else:
                target = target_of(operation)
            for who in (None, *ROLES):
                answer = await house.ask(who, operation.method, target)
                found[operation.id, who] = answer
        return found

    found = in_house(scene)
    assert len(found) == 6 * len(OPERATIONS)
    for operation in OPERATIONS:
        for who in (None, *ROLES):
            answer = found[operation.id, who]
            if operation.needs is None:
                assert answer.status not in (401, 403) or operation.id == "logIn", (operation.id, who, answer.body)
            elif who is None:
                assert answer.status == 401, (operation.id, answer.body)
                assert answer.headers["WWW-Authenticate"] == 'Bearer realm="fedbus"'
            elif operation.needs in PERMITTED[who]:
                assert answer.status not in (401, 403), (operation.id, who, answer.body)
            else:
                assert answer.status == 403, (operation.id, who, answer.body)
                assert answer.json["permission"] == operation.needs.value
                assert answer.json["permitted_to"] == list(permitted_to(operation.needs))
                assert operation.needs.value in answer.json["detail"] and f"{who}-person" in answer.json["detail"]


def test_no_answer_tells_what_only_its_owner_may_know():
    """Whatever anybody may read: no digest of a secret, no JWT, no secret of the workspace, no id of a session."""

    async def scene(house):
        member = Member(
            role="client", name="site-1", key=f"U{'A' * 55}", state="active", at=1.0, by="x", jwt="e30.e30.c2ln"
        )
        await house.members.change(Peer("client", "site-1"), lambda _: member)
        page = await house.sign_in("engineer")
        await page.ask("POST", f"{API}/logout")
        digests = [state.digest for state in house.members.tokens.all()]
        ended = list(house.members.people.get("engineer-person").ended)
        secrets = [text.split("_", 2)[2] for text in house.tokens.values()]
        targets = [target_of(operation) for operation in OPERATIONS if operation.method == "GET"]
        targets += [f"{API}/members/client/site-1", *(f"{API}/people/{role}-person" for role in ROLES)]
        told = b""
        for target in targets:
            for who in (None, *ROLES):
                answer = await house.ask(who, "GET", target)
                told += answer.body + repr(dict(answer.headers)).encode()
        return told.decode(), [SECRET, member.jwt, *digests, *secrets, *ended], len(digests)

    told, hidden, count = in_house(scene)
    assert count == len(ROLES) and len(hidden) == 3 + 2 * count and "site-1" in told
    assert not [text for text in hidden if text in told]


def test_what_is_open_to_anybody_is_named():
    """Nothing but health, the document and signing in is answered to who has not said who she is."""
    opened = {operation.id for operation in OPERATIONS if operation.needs is None}
    assert opened == {"getHealth", "getReadiness", "getDocument", "getLogin", "logIn", "beginOidc", "endOidc"}


def test_what_changes_something_is_for_nobody_who_only_looks():
    """Viewers, auditors and data owners may do nothing by a method that changes something, but sign out."""
    for operation in OPERATIONS:
        if operation.method != "GET" and operation.needs not in (None, Action.SELF_READ):
            assert not may(("viewer", "auditor", "data-owner"), operation.needs), operation.id


def test_a_role_that_nobody_knows_permits_nothing():
    """A role of a later release, or of an attacker, is no role here."""
    assert not any(may(("root", "Admin", ""), action) for action in Action)
    assert may(("root", "viewer"), Action.SESSION_READ)


# --- tokens ---


def test_an_unknown_token_and_a_wrong_secret_look_the_same():
    """Status, text and headers tell nobody which ids there are."""

    async def scene(house):
        good = house.tokens["admin"]
        wrong = good[:-4] + ("AAAA" if not good.endswith("AAAA") else "BBBB")
        unknown = f"fba_ffffffffffffffff_{good.split('_', 2)[2]}"
        found = []
        for text in (wrong, unknown, "fba_", "nonsense", "fbj_abc"):
            answer = await ask(house.gateway, "GET", ME, headers={"Authorization": f"Bearer {text}"})
            found.append((answer.status, answer.json["detail"], answer.headers["WWW-Authenticate"]))
        return found

    found = in_house(scene)
    assert set(found) == {(401, "the token is not valid", 'Bearer realm="fedbus", error="invalid_token"')}


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "fba_x_y", "Digest a", "Bearer  ", ""])
def test_other_ways_to_say_who_one_is_are_refused(header):
    """Whoever says something else than a bearer is not taken for a guest, also where a cookie would be good."""

    async def scene(house):
        page = await house.sign_in("admin")
        return await page.ask("GET", ME, headers={"Authorization": header})

    assert in_house(scene).status == 401


def test_whoever_guesses_waits_and_the_owner_does_not():
    """After five wrong secrets 429, with when to come again; from where the token was right it is asked as ever."""

    async def scene(house):
        await house.ask("admin", "GET", ME, remote="192.0.2.1")
        wrong = {"Authorization": f"Bearer {house.tokens['admin'][:-4]}AAAA"}
        found = [(await ask(house.gateway, "GET", ME, headers=wrong, remote="192.0.2.66")) for _ in range(8)]
        locked = await house.ask("admin", "GET", ME, remote="192.0.2.66")
        login = {"token": house.tokens["admin"]}
        page = await house.ask(None, "POST", f"{API}/login", json=login, remote="192.0.2.66")
        owner = await house.ask("admin", "GET", ME, remote="192.0.2.1")
        other = await house.ask("viewer", "GET", ME, remote="192.0.2.67")
        await asyncio.sleep(int(found[-1].headers["Retry-After"]))
        return found, locked, page, owner, other, await house.ask("admin", "GET", ME, remote="192.0.2.66")

    found, locked, page, owner, other, later = in_house(scene)
    assert [one.status for one in found] == [401] * 6 + [429] * 2 and found[-1].headers["Retry-After"] == "2"
    assert (locked.status, page.status, owner.status, other.status, later.status) == (429, 429, 200, 200, 200)


def test_a_revoked_or_expired_token_is_good_for_nothing_from_the_next_request_on():
    """And says why, to who has its secret."""

    async def scene(house):
        await house.give("short", "viewer", "viewer-person", expires_s=60.0)
        first = await house.ask("short", "GET", ME)
        await asyncio.sleep(61)
        late = await house.ask("short", "GET", ME)
        await house.members.tokens.revoke(house.ids["admin"], by="test", reason="lost")
        revoked = await house.ask("admin", "GET", ME)
        return first, late, revoked

    first, late, revoked = in_house(scene)
    assert first.status == 200 and first.json["name"] == "viewer-person" and first.json["roles"] == ["viewer"]
    assert late.status == 401 and "expired" in late.json["detail"]
    assert revoked.status == 401 and "revoked: lost" in revoked.json["detail"]


def test_a_join_token_is_no_bearer():
    """A secret that lets a machine join lets nobody in here."""

    async def scene(house):
        new = await house.members.tokens.create_join("client", by="test")
        text = f"fba_{new.state.id}_{new.secret}"
        return await ask(house.gateway, "GET", ME, headers={"Authorization": f"Bearer {text}"})

    assert in_house(scene).status == 401


def test_a_token_gives_no_role_that_its_person_has_not():
    """A person who is no admin any more is none by her old token either; one of several roles gives that one alone."""

    async def scene(house):
        await house.members.people.change("admin-person", by="test", roles=["viewer", "auditor"])
        old = await house.ask("admin", "GET", ME)
        await house.give("one", "auditor", "admin-person")
        one = await house.ask("one", "GET", ME)
        return old, one

    old, one = in_house(scene)
    assert old.status == 401 and "no more" in old.json["detail"]
    assert one.json["roles"] == ["auditor"]


def test_a_token_that_is_nobodys_is_a_bearer_and_signs_nobody_in():
    """Programs have such; what they do is written down under the token's id."""

    async def scene(house):
        await house.give("program", "viewer", "")
        me = await house.ask("program", "GET", ME)
        login = await house.ask(None, "POST", f"{API}/login", json={"token": house.tokens["program"]})
        return me, login, house.ids["program"]

    me, login, id_ = in_house(scene)
    assert me.json["name"] == f"token/{id_}" and me.json["roles"] == ["viewer"]
    assert login.status == 401


def test_whoever_is_suspended_removed_or_another_of_her_name_is_out_at_once():
    """By token and by cookie; a person who is added again does not inherit what another of her name had."""

    async def scene(house):
        page = await house.sign_in("engineer")
        await house.members.people.change("engineer-person", by="test", state="suspended")
        suspended = await house.ask("engineer", "GET", ME), await page.ask("GET", ME)
        await house.members.people.change("engineer-person", by="test", state="active")
        again = await house.ask("engineer", "GET", ME)
        await house.members.people.remove("engineer-person", by="test")
        removed = await house.ask("engineer", "GET", ME), await page.ask("GET", ME)
        await asyncio.sleep(3600)
        await house.members.people.add("engineer-person", ["engineer"], by="test")
        other = await house.ask("engineer", "GET", ME), await page.ask("GET", ME)
        return suspended, again, removed, other

    suspended, again, removed, other = in_house(scene)
    assert [one.status for one in (*suspended, again, *removed, *other)] == [401, 401, 200, 401, 401, 401, 401]
    assert "suspended" in suspended[0].json["detail"] and "before" in other[0].json["detail"]


# --- cookies ---


def test_a_sign_in_sets_a_cookie_that_no_script_reads():
    """Over plain HTTP on this machine without `Secure`; strict, for all paths, until it would be idle."""

    async def scene(house):
        answer = await house.ask(None, "POST", f"{API}/login", json={"token": house.tokens["engineer"]})
        page = await house.sign_in("engineer")
        return answer, await page.ask("GET", ME)

    answer, me = in_house(scene)
    value, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert value.startswith("fedbus_session=2.")
    assert sorted(attributes) == ["HttpOnly", "Max-Age=7200", "Path=/", "SameSite=Strict"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert me.json["how"] == "cookie" and me.json["csrf"] and me.json["name"] == "engineer-person"
    assert set(me.json["actions"]) == {action.value for action in PERMITTED["engineer"]}


def test_what_somebody_was_let_see_is_kept_nowhere():
    """Neither by a browser nor by what lies between: every answer to who is known says so."""

    async def scene(house):
        page = await house.sign_in("engineer")
        return await page.ask("GET", f"{API}/sessions"), await house.ask("viewer", "GET", f"{API}/models")

    for answer in in_house(scene):
        assert answer.headers["Cache-Control"] == "no-store"


def test_behind_https_the_cookie_is_of_this_host_alone():
    """`__Host-` and `Secure`, where a proxy ends TLS; a cookie of plain HTTP is not taken there."""

    async def scene(house):
        secure = {"Host": "fed.example"}
        plain = await house.sign_in("viewer")
        login = await house.ask(None, "POST", f"{API}/login", json={"token": house.tokens["viewer"]}, headers=secure)
        assert login.status == 200, login.body
        cookie = login.headers["Set-Cookie"]
        good = await ask(house.gateway, "GET", ME, headers=secure | {"Cookie": cookie.partition(";")[0]})
        wrong = await ask(house.gateway, "GET", ME, headers=secure | {"Cookie": plain.cookie})
        return cookie, good, wrong

    cookie, good, wrong = in_house(scene, public_url="https://fed.example")
    assert cookie.startswith("__Host-fedbus=2.") and "; Secure" in cookie and "Domain" not in cookie
    assert good.status == 200 and wrong.status == 401


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://fed.example", 200),
        ("https://fed.example:443", 200),
        ("http://fed.example", 403),
        ("http://fed.example:443", 403),
        ("https://fed.example:8443", 403),
        ("https://evil.example", 403),
        ("null", 403),
    ],
)
def test_a_page_behind_a_proxy_that_ends_tls_is_our_own(origin, status):
    """Its origin is that of the public address, though we are asked over plain HTTP; that over plain HTTP is not."""

    async def scene(house):
        headers = {"Host": "fed.example", "Origin": origin}
        return await house.ask(None, "POST", f"{API}/login", json={"token": house.tokens["viewer"]}, headers=headers)

    assert in_house(scene, public_url="https://fed.example").status == status


def test_nobody_signs_in_over_plain_http_from_elsewhere():
    """The token and the cookie would be read on the way; the answer says what to do."""

    async def scene(house):
        target = {"Host": "gateway:8080"}
        return await house.ask(
            None, "POST", f"{API}/login", json={"token": house.tokens["viewer"]}, headers=target, remote="10.0.0.9"
        )

    answer = in_house(scene, host="0.0.0.0")
    assert answer.status == 403 and "--tls-cert" in answer.json["detail"] and "Set-Cookie" not in answer.headers


def test_what_a_page_changes_needs_the_value_of_its_session():
    """Without `X-Fedbus-CSRF`, or with that of another session, a cookie changes nothing; reading needs none."""

    async def scene(house):
        page, other = await house.sign_in("admin"), await house.sign_in("admin")
        stage = f"{API}/stages/nothing"
        return [
            (await page.ask("DELETE", stage, headers={"X-Fedbus-CSRF": given})).status
            for given in (None, "", "x", other.csrf, page.csrf)
        ] + [(await page.ask("GET", ME, headers={"X-Fedbus-CSRF": None})).status]

    assert in_house(scene) == [403, 403, 403, 403, 404, 200]


def test_a_page_of_another_origin_changes_nothing_also_with_both():
    """The check of `Origin` stands before all."""

    async def scene(house):
        page = await house.sign_in("admin")
        return await page.ask("DELETE", f"{API}/stages/nothing", headers={"Origin": "https://evil.example"})

    answer = in_house(scene)
    assert answer.status == 403 and "Origin" in answer.json["detail"]


def test_a_cookie_ends_after_eight_hours_and_with_its_token():
    """It is not prolonged by use, only kept from being idle; what a token stands behind ends when that is revoked."""

    async def scene(house):
        page, other = await house.sign_in("admin"), await house.sign_in("viewer")
        for _ in range(7):
            await asyncio.sleep(3600)
            await page.stay(), await other.stay()
            assert (await page.ask("GET", ME)).status == 200
        await house.members.tokens.revoke(house.ids["viewer"], by="test")
        revoked = await other.ask("GET", ME)
        await asyncio.sleep(3601)
        return revoked, await page.ask("GET", ME)

    revoked, late = in_house(scene)
    assert revoked.status == 401 and "revoked" in revoked.json["detail"]
    assert late.status == 401 and "sign in again" in late.json["detail"]


def test_signing_out_ends_a_cookie_at_every_gateway():
    """Who has kept it is let in nowhere; other sign-ins of the same person go on."""

    async def scene():
        house = House()
        async with secured_in(house) as found, gateway_in(house, "gw-2", credentials=credentials_of()) as second:
            page, other = await found.sign_in("engineer"), await found.sign_in("engineer")
            answer = await page.ask("POST", f"{API}/logout")
            await asyncio.sleep(0.1)
            elsewhere = await ask(second, "GET", ME, headers={"Cookie": page.cookie})
            still = await ask(second, "GET", ME, headers={"Cookie": other.cookie})
            return answer, await page.ask("GET", ME), elsewhere, still

    answer, here, elsewhere, still = run_virtual(scene())
    assert answer.status == 200 and "Max-Age=0" in answer.headers["Set-Cookie"]
    assert (here.status, elsewhere.status, still.status) == (401, 401, 200)


def test_a_cookie_is_taken_only_as_it_was_signed():
    """Each changed character, another key, another workspace's name: it says nothing; what is signed comes back."""
    cookies = Cookies(bytes.fromhex(SECRET), "default")
    proof = Proof("ana", "t-1", ("viewer",), "5" * 32, 10.0, 9e3, 12.0, 11.5, factor=True)
    value = cookies.make(proof)
    assert cookies.read(value, 11.0) == proof
    assert cookies.read(value, 9e3) is None
    assert cookies.read(value, 11.0 - AHEAD_S) is None  # made in the future: somebody's clock was set
    for index in range(len(value)):
        changed = value[:index] + ("A" if value[index] != "A" else "B") + value[index + 1 :]
        assert cookies.read(changed, 11.0) is None, index
    for other in (Cookies(bytes.fromhex(OTHER), "default"), Cookies(bytes.fromhex(SECRET), "other")):
        assert other.read(value, 11.0) is None
        assert other.csrf(proof) != cookies.csrf(proof)
    for strange in ("", ".", "1..", "1.e30.", "ü", value * 10, "1." + "A" * CHARS_MAX):
        assert cookies.read(strange, 11.0) is None


# --- how long, how fresh, where ---

ACTIVE, AGAIN, SIGN_INS = f"{API}/me/active", f"{API}/login/again", f"{API}/me/sign-ins"
BOUNDS = {"clients_max": 3}


def test_a_sign_in_ends_where_nothing_is_done():
    """After its time without a word of the page, also for a stream that goes on; looking is not doing something."""

    async def scene(house):
        page, idle = await house.sign_in("viewer"), await house.sign_in("viewer")
        stream = asyncio.ensure_future(idle.ask("GET", f"{API}/events", headers={"Accept": "text/event-stream"}))
        old = page.cookie
        await asyncio.sleep(100)
        stayed = await page.stay()
        await asyncio.sleep(99)
        before = (await idle.ask("GET", ME)).status, stream.done()
        await asyncio.sleep(2)
        late = await idle.ask("GET", ME)
        kept = await ask(house.gateway, "GET", ME, headers={"Cookie": old})
        return stayed, before, late, kept, (await asyncio.wait_for(stream, 1)).status, await page.ask("GET", ME)

    stayed, before, late, kept, stream, still = in_house(scene, idle_s=200.0)
    assert stayed.json["idle_until"] - stayed.json["until"] == 100 + 200 - 8 * 3600
    assert "Max-Age=200" in stayed.headers["Set-Cookie"]
    assert before == (200, False) and (late.status, kept.status, stream, still.status) == (401, 401, 200, 200)
    assert "nothing was done here" in late.json["detail"]


def test_how_long_sign_ins_last_is_set():
    """Both spans, also for cookies of a gateway where they were longer; a bearer never is idle. Nonsense is refused."""

    async def scene():
        house = House()
        async with (
            secured_in(house) as found,
            gateway_in(house, "gw-2", credentials=credentials_of(), sign_in_s=7200.0, idle_s=600.0) as second,
        ):
            page = await found.sign_in("viewer")
            there = []
            for wait_s in (590, 20, 0):
                await asyncio.sleep(wait_s)
                there.append((await ask(second, "GET", ME, headers={"Cookie": page.cookie})).status)
                await page.stay() if wait_s == 20 else None
            await asyncio.sleep(6610)
            await page.stay()
            there.append((await ask(second, "GET", ME, headers={"Cookie": page.cookie})).status)
            bearer = {"Authorization": f"Bearer {found.tokens['viewer']}"}
            there.append((await ask(second, "GET", ME, headers=bearer)).status)
            return there, (await page.ask("GET", ME)).status

    assert run_virtual(scene()) == ([200, 401, 200, 401, 200], 200)
    for wrong in ({"idle_s": 0.0}, {"sign_in_s": 31 * 86400.0}, {"ask_again_s": float("nan")}):
        with pytest.raises(ConfigError):
            Listening(**wrong)


def test_what_lets_others_in_or_shuts_them_out_asks_again():
    """These operations and no others; a page that has shown its person's token a moment ago, and a bearer, go on."""
    assert {operation.id for operation in OPERATIONS if operation.asks_again} == {
        "createToken", "addPerson", "changePerson", "removePerson", "approveMember", "resumeMember", "expelMember",
        "setWorkspace", "endSignIn", "endOtherSignIns",
    }  # fmt: skip

    async def scene(house):
        page = await house.sign_in("admin")
        first = await page.ask("PUT", f"{API}/workspace", json=BOUNDS)
        await asyncio.sleep(901)
        told = [(await page.ask(one.method, target_of(one), json={})).json for one in OPERATIONS if one.asks_again]
        before, csrf = page.cookie, page.csrf
        again = await page.again(house.tokens["admin"])
        done = await page.ask("PUT", f"{API}/workspace", json=BOUNDS)
        old = await ask(house.gateway, "GET", ME, headers={"Cookie": before})
        listed = await page.ask("GET", SIGN_INS)
        await asyncio.sleep(901)
        late = await page.ask("PUT", f"{API}/workspace", json=BOUNDS)
        bearer = await house.ask("admin", "PUT", f"{API}/workspace", json=BOUNDS)
        viewer = await (await house.sign_in("viewer")).ask("PUT", f"{API}/workspace", json=BOUNDS)
        return first, told, again, done, old, listed.json["items"], late, bearer, viewer, page.csrf != csrf

    first, told, again, done, old, listed, late, bearer, viewer, other = in_house(scene)
    assert (first.status, again.status, done.status, old.status) == (200, 200, 200, 401) and other
    assert {(one["status"], one["again"], one.get("permission")) for one in told} == {(403, True, None)}
    assert again.json["until"] - again.json["fresh_until"] < 8 * 3600 - 901 - 900  # not a second longer altogether
    assert len(listed) == 1 and listed[0]["until"] == again.json["until"]
    assert (late.status, late.json["again"], bearer.status) == (403, True, 200)
    assert viewer.json["permission"] == "workspace.set" and "again" not in viewer.json


def test_anew_she_is_shown_by_a_token_of_hers_that_gives_no_less():
    """Not by another's, one of less, a wrong, a spent one, or without the value of the session; a link does, once."""

    async def scene(house):
        await house.members.people.change("admin-person", by="test", roles=["admin", "viewer"])
        await house.give("less", "viewer", "admin-person")
        await house.give("program", "admin", "")
        page = await house.sign_in("admin")
        await asyncio.sleep(901)
        link = (await login_link(house.members, "http://x", person="admin-person", by="test")).partition("#/login/")[2]
        given = [house.tokens[who] for who in ("viewer", "less", "program")]
        wrong = f"{house.tokens['admin'][:-4]}AAAA"
        found = [await page.again(text) for text in (*given, wrong, link, link)]
        forged = await page.ask("POST", AGAIN, json={"token": house.tokens["admin"]}, headers={"X-Fedbus-CSRF": "x"})
        bearer = await house.ask("admin", "POST", AGAIN, json={"token": house.tokens["admin"]})
        nobody = await house.ask(None, "POST", AGAIN, json={"token": house.tokens["admin"]})
        return [one.status for one in (*found, forged, bearer, nobody)], found[1].json["detail"]

    statuses, less = in_house(scene)
    assert statuses == [403, 403, 403, 401, 200, 401, 403, 409, 401] and "lesser" in less


def test_one_sees_where_one_is_signed_in_and_ends_it():
    """When, from where, by what, in which browser, and no other's; one by one or all but this, at every gateway."""

    async def scene():
        house = House()
        async with secured_in(house) as found, gateway_in(house, "gw-2", credentials=credentials_of()) as second:
            other = await found.sign_in("viewer")
            agent = {"User-Agent": "Reader/1 \x1b[1m"}
            pages = []
            for n in range(4):
                await asyncio.sleep(1)
                pages.append(await found.sign_in("admin", remote=f"192.0.2.{n}", headers=agent))
            page = pages[0]
            listed = (await page.ask("GET", SIGN_INS)).json["items"]
            left = await page.ask("DELETE", f"{SIGN_INS}/{listed[1]['sign_in']}")
            unknown = await page.ask("DELETE", f"{SIGN_INS}/{listed[1]['sign_in']}")
            others = await page.ask("DELETE", SIGN_INS)
            await asyncio.sleep(0.1)
            there = [(await ask(second, "GET", ME, headers={"Cookie": one.cookie})).status for one in (*pages, other)]
            hers = (await other.ask("GET", SIGN_INS)).json["items"]
            bearer = (await found.ask("admin", "GET", SIGN_INS)).json["items"]
            return listed, left, unknown, others, there, hers, bearer, found.ids["admin"], [one.cookie for one in pages]

    listed, left, unknown, others, there, hers, bearer, token, cookies = run_virtual(scene())
    assert [one["origin"] for one in listed] == [f"192.0.2.{n}" for n in (3, 2, 1, 0)]
    assert [one["this"] for one in listed] == [False, False, False, True]
    assert {(one["by"], one["agent"], one["until"] - one["at"]) for one in listed} == {
        (f"token {token}", "Reader/1 \ufffd[1m", 8 * 3600.0)
    }
    assert len(left.json["items"]) == 3 and unknown.status == 404 and others.json == {"ended": 2}
    assert there == [200, 401, 401, 401, 200] and len(hers) == len(bearer) == 1 and not bearer[0]["this"]
    ids = [Cookies(bytes.fromhex(SECRET), "default").read(one.partition("=")[2], 1e12) for one in cookies]
    assert not [one for one in ids if one is not None]


def test_of_too_many_sign_ins_the_first_ends_and_none_comes_back():
    """At most 32 of a person; one that was ended stays so, however many are ended behind it."""

    async def scene(house):
        page = await house.sign_in("admin")
        await page.ask("POST", f"{API}/logout")
        pages = []
        for _ in range(40):
            await asyncio.sleep(5)
            pages.append(await house.sign_in("admin"))
        await house.members.people.change("admin-person", by="test", state="active")
        statuses = [(await one.ask("GET", ME)).status for one in (page, *pages)]
        person = house.members.people.get("admin-person")
        later = {f"{n:032x}": house.gateway.clock.now() + 9 * 3600 for n in range(256)}
        await house.members.boards.change(  # as if so many had been ended since that the first is forgotten
            house.members.boards.subjects.access_person(id_of(person.name)),
            type(person),
            lambda known: known.model_copy(update={"ended": later}),
        )
        forgotten = await page.ask("GET", ME)
        new = await house.sign_in("admin")
        await new.ask("POST", f"{API}/logout")
        return statuses, len(person.signed_in), forgotten.status, (await new.ask("GET", ME)).status

    statuses, count, *gone = in_house(scene)
    assert statuses == [401] * 9 + [200] * 32 and count == 32 and gone == [401, 401]


def test_being_there_is_no_deed_and_showing_and_ending_are():
    """A page that says every minute that somebody uses it does not fill the audit."""

    async def scene(house):
        page, other = await house.sign_in("engineer"), await house.sign_in("engineer")
        for _ in range(3):
            await page.stay()
        await page.again(house.tokens["engineer"])
        await page.ask("DELETE", SIGN_INS)
        await asyncio.sleep(3)
        deeds = [(one.entry.action, one.entry.target) async for one in house.gateway.audit.read()]
        return (await other.ask("GET", ME)).status, deeds

    gone, deeds = in_house(scene)
    assert gone == 401
    assert deeds == [("logout", "me/sign-ins"), ("login", "login/again"), ("login", "login"), ("login", "login")]


@pytest.mark.parametrize(
    ("method", "target"), [("DELETE", SIGN_INS), ("DELETE", f"{SIGN_INS}/{'0' * 16}"), ("POST", AGAIN)]
)
def test_whoever_only_looks_does_not_fill_the_audit_with_what_she_does_about_herself(method, target):
    """Ending sign-ins that are not there, and showing anew who has no cookie, has a rate as signing in and out has."""

    async def scene(house):
        given = [await house.ask("viewer", method, target, json={"token": "x"}) for _ in range(100)]
        await asyncio.sleep(3)
        return [one.status for one in given], len([one async for one in house.gateway.audit.read()])

    statuses, deeds = in_house(scene)
    assert statuses.count(429) == 70 and statuses[-1] == 429
    assert deeds == 31  # of what was too often one a minute


def test_a_gateway_without_the_workspaces_secret_does_not_start():
    """Credentials of another role, which can unseal models, are no gateway's: engineers would sign admins' cookies."""
    for secret in ("", "00", "no hex"):

        async def scene(secret=secret):
            async with gateway_in(House(), credentials=credentials_of(secret=secret)):
                pass

        with pytest.raises(ConfigError):
            run_virtual(scene())


# --- links that work once ---


def test_a_link_signs_in_once():
    """It makes the person where there is none; the second who uses it, or uses it as a bearer, gets nothing."""

    async def scene(house):
        link = await login_link(house.members, "http://127.0.0.1:8080/", person="local", by="gateway/up")
        token = link.partition("#/login/")[2]
        bearer = await ask(house.gateway, "GET", ME, headers={"Authorization": f"Bearer {token}"})
        first, second = await asyncio.gather(
            *(house.ask(None, "POST", f"{API}/login", json={"token": token}) for _ in range(2))
        )
        third = await house.ask(None, "POST", f"{API}/login", json={"token": token})
        winner = next(one for one in (first, second) if one.status == 200)
        me = await ask(house.gateway, "GET", ME, headers={"Cookie": winner.headers["Set-Cookie"].partition(";")[0]})
        return link, bearer, sorted((first.status, second.status)), third, me

    link, bearer, both, third, me = in_house(scene)
    assert link.startswith("http://127.0.0.1:8080/#/login/fba_")
    assert bearer.status == 401 and both == [200, 401] and third.status == 401
    assert me.status == 200 and me.json["name"] == "local" and me.json["roles"] == ["admin"]


def test_a_link_expires_and_is_for_nobody_who_is_suspended():
    """After a quarter of an hour it is good for nothing."""

    async def scene(house):
        link = await login_link(house.members, "http://x", person="viewer-person", by="test")
        await asyncio.sleep(15 * 60 + 1)
        late = await house.ask(None, "POST", f"{API}/login", json={"token": link.partition("#/login/")[2]})
        await house.members.people.change("viewer-person", by="test", state="suspended")
        with pytest.raises(Conflict):
            await login_link(house.members, "http://x", person="viewer-person", by="test")
        return late

    assert in_house(scene).status == 401


# --- open gateways, other workspaces ---


def test_an_open_gateway_asks_nobody():
    """Everybody is a local admin there, a token is not looked at, and nobody signs in."""

    async def scene():
        async with gateway_in(House()) as gateway:
            me = await ask(gateway, "GET", ME, headers={"Authorization": "Bearer nonsense"})
            login = await ask(gateway, "POST", f"{API}/login", json={"token": "x"})
            how = await ask(gateway, "GET", f"{API}/login")
            return me, login, how, await ask(gateway, "DELETE", f"{API}/stages/nothing")

    me, login, how, deed = run_virtual(scene())
    assert me.json["open"] is True and me.json["roles"] == ["admin"] and me.json["name"] == ""
    assert login.status == 409 and how.json == {"open": True, "oidc": ""} and deed.status == 404


def test_what_is_of_one_workspace_is_nothing_at_a_gateway_of_another():
    """Neither its tokens nor its cookies, also where both workspaces are on one broker, or have one secret."""

    async def scene(secret):
        house = House()
        async with secured_in(house) as ours:
            other = credentials_of("other", secret)
            async with gateway_in(house, "gw-b", credentials=other, workspace="other") as theirs:
                page = await ours.sign_in("admin")
                token = {"Authorization": f"Bearer {ours.tokens['admin']}"}
                return [(await ask(theirs, "GET", ME, headers=one)).status for one in (token, {"Cookie": page.cookie})]

    assert run_virtual(scene(OTHER)) == [401, 401]
    assert run_virtual(scene(SECRET)) == [401, 401]


# --- what goes on ---


@pytest.mark.parametrize("what", ["revoked", "suspended", "demoted", "signed out", "expired"])
def test_a_stream_ends_with_the_right_to_read_it(what):
    """At once where that is taken away, when the sign-in ends where it is not; a reader who comes again gets 401."""

    async def scene(house):
        await house.members.people.add("reader", ["viewer"], by="test")
        await house.give("reader", "viewer", "reader", **({"expires_s": 600.0} if what == "expired" else {}))
        page = await house.sign_in("reader")
        reading = asyncio.ensure_future(page.ask("GET", f"{API}/events", headers={"Accept": "text/event-stream"}))
        await asyncio.sleep(5)
        assert not reading.done()
        began = asyncio.get_running_loop().time()
        match what:
            case "revoked":
                await house.members.tokens.revoke(house.ids["reader"], by="test")
            case "suspended":
                await house.members.people.change("reader", by="test", state="suspended")
            case "demoted":
                await house.members.people.change("reader", by="test", roles=["data-owner"])
            case "signed out":
                await page.ask("POST", f"{API}/logout")
        answer = await asyncio.wait_for(reading, 700)
        took = asyncio.get_running_loop().time() - began
        again = await page.ask("GET", f"{API}/events")
        return answer, took, again

    answer, took, again = in_house(scene)
    assert answer.status == 200 and b"retry:" in answer.body
    assert took < (0.5 if what != "expired" else 596)
    assert again.status == 401


# --- what a data owner sees ---


def test_names_of_others_clients_are_left_out_of_what_a_data_owner_gets():
    """Waits and events: numbers stay, names go; what would only be names is refused."""

    async def scene(house):
        asked = f"{API}/events?kind=RoundOpened"
        return await house.ask("data-owner", "GET", asked), await house.ask("viewer", "GET", asked)

    owner, viewer = in_house(scene)
    assert owner.status == 403 and owner.json["permission"] == "session.inspect"
    assert viewer.status == 200


def test_a_data_owner_sees_her_own_clients_and_no_others():
    """In the list, by name, with their number; whoever may see all sees all."""

    async def scene():
        house = House()
        house.coordinator()
        app = ClientApp()
        app.train(lambda model, task: None)
        for name in ("hers", "others"):
            house.client(name, app)
        async with secured_in(house) as found:
            for name, owner in (("hers", "data-owner-person"), ("others", "ana")):
                fields = {"key": f"U{'A' * 55}", "state": "active", "at": 1.0, "by": "x", "owner": owner}
                member = Member(role="client", name=name, **fields)
                await found.members.change(Peer("client", name), lambda _, member=member: member)
            await asyncio.sleep(10)
            lists = [(await found.ask(who, "GET", f"{API}/clients")).json for who in ("data-owner", "viewer")]
            one = [(await found.ask("data-owner", "GET", f"{API}/clients/{name}")) for name in ("hers", "others", "no")]
            return lists, one

    (hers, all_), one = run_virtual(scene())
    assert [client["client"] for client in hers["items"]] == ["hers"] and hers["total"] == 1
    assert [client["client"] for client in all_["items"]] == ["hers", "others"]
    assert [answer.status for answer in one] == [200, 404, 404]
    assert one[1].json["detail"].replace("others", "no") == one[2].json["detail"]


def test_names_in_waits_and_versions_are_left_out_and_nothing_else_is():
    """However deep they stand; what has none of them is handed on as it is, also live."""
    wait = WaitView(
        session="s", round=1, what="updates", on=("a", "b"), missing=2, since_at=1.0, until_at=2.0, then="goes on",
        doing={"a": "training"}, away={"b": 3.0}, away_count=1,
    )  # fmt: skip
    page = Page[WaitView](items=(wait,), next=None, total=1)
    bare = without_clients((page, {"X": "1"}))[0].items[0]
    assert (bare.on, bare.doing, bare.away) == ((), {}, {}) and (bare.missing, bare.away_count) == (2, 1)
    health = HealthView(status="ok", version="1")
    assert without_clients(health) is health
    told = frame(b'{"at":1,"waits":[%s]}' % wait.model_dump_json().encode(), event="overview")
    assert (
        b"training" in told
        and b'"a"' not in frame_without_clients(told)
        and b'"missing":2' in frame_without_clients(told)
    )
    for other in (b": beat\n\n", frame(b"{}", event="reset", id_="0.0"), b"retry: 1000\nid: 0.0\n\n"):
        assert frame_without_clients(other) == other


def test_ids_of_people_are_those_of_their_tokens():
    """A person whose name is an address has a token and a cookie like any other."""

    async def scene(house):
        await house.members.people.add("ana@hospital.example", ["engineer"], by="test")
        await house.give("ana", "engineer", "ana@hospital.example")
        page = await house.sign_in("ana")
        return await house.ask("ana", "GET", ME), await page.ask("GET", ME)

    by_token, by_cookie = in_house(scene)
    assert by_token.json["name"] == by_cookie.json["name"] == "ana@hospital.example"
    assert id_of("ana@hospital.example").startswith("p_")


# --- a key that two have chosen ---


def test_a_key_of_one_person_gives_another_nothing_of_hers():
    """Under the same key each has a session of her own; a name that is another's is taken, also under a key."""

    async def scene():
        house = House()
        house.coordinator()
        known = Credentials(jwt="", seed="", trust=credentials_of().trust, secrets={"login": SECRET})
        async with secured_in(house, credentials=known) as found, house.federation() as federation:
            await federation.start_session(SessionConfig(), model={"w": np.zeros(3, np.float32)}, name="one")
            await asyncio.sleep(1)
            key = {"Idempotency-Key": "k1"}
            body = {"model": "one-0", "config": {"clients_min": 2}}
            mine = await found.ask("engineer", "POST", SESSIONS, json=body, headers=key)
            again = await found.ask("engineer", "POST", SESSIONS, json=body, headers=key)
            hers = await found.ask("admin", "POST", SESSIONS, json=body, headers=key)
            named = {**body, "session": mine.json["session"]}
            taken = await found.ask("admin", "POST", SESSIONS, json=named, headers={"Idempotency-Key": "other"})
            own = await found.ask("engineer", "POST", SESSIONS, json=named, headers={"Idempotency-Key": "other"})
            return mine, again, hers, taken, own

    mine, again, hers, taken, own = run_virtual(scene())
    assert [answer.status for answer in (mine, again, hers, own)] == [201] * 4
    assert mine.json["session"] == again.json["session"] == own.json["session"] != hers.json["session"]
    assert (mine.json["by"], hers.json["by"]) == ("engineer-person", "admin-person")
    assert taken.status == 409
