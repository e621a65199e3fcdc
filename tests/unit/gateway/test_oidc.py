"""Signing in with a provider: what it is asked, what of its answers counts, and who somebody is then."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import replace

import pytest
from asker import ask
from joserfc import jwk, jwt
from people import secured_in
from whole_house import House
from yarl import URL

from fedbus.access.signin import login_link
from fedbus.errors import ConfigError
from fedbus.gateway import oidc as module
from fedbus.gateway.oidc import BEGUN_S, OidcSettings, SignInRefused, groups_in
from fedbus.gateway.operations import API
from fedbus.testing.loop import run_virtual

ISSUER = "https://login.example"
SETTINGS = OidcSettings(ISSUER, "fedbus", "geheim")
MAPPED = OidcSettings(ISSUER, "fedbus", "geheim", "groups", {"lab": "viewer", "ops": "admin"}, "the lab")
ME = f"{API}/me"
LOGIN = f"{API}/login/oidc"
CALLBACK = f"{LOGIN}/callback"


class Provider:
    """A provider in memory, that checks what it is asked; ``claims``: what it says of who signs in."""

    def __init__(self, clock, **document):
        self.clock = clock
        self.key = jwk.RSAKey.generate_key(2048, {"kid": "k1"})
        self.claims = {"sub": "u-1", "preferred_username": "ana"}
        self.asked = []
        self.codes = {}
        self.document = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/authorize",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/keys",
        } | document

    async def answer(self, method, url, *, data=None, basic=""):
        """Stand in for HTTP."""
        self.asked.append((method, url))
        match URL(url).path:
            case "/.well-known/openid-configuration":
                return self.document
            case "/keys":
                return {"keys": [self.key.as_dict(private=False)]}
            case "/token":
                return self.token(data, basic)
        raise AssertionError(url)

    def authorize(self, address, **claims):
        """Let somebody sign in there; returns what the browser brings back."""
        url = URL(address)
        assert str(url.with_query(None)) == f"{ISSUER}/authorize"
        assert url.query["response_type"] == "code" and url.query["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = (dict(url.query), self.claims | claims)
        return {"code": code, "state": url.query["state"]}

    def token(self, form, basic):
        """Give an ID token for a code, once, to whoever has begun and can prove it."""
        if form["code"] not in self.codes:
            raise SignInRefused("failed", "400: invalid_grant")
        query, claims = self.codes.pop(form["code"])
        assert form["redirect_uri"] == query["redirect_uri"] and base64.b64decode(basic) == b"fedbus:geheim"
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if challenge.decode() != query["code_challenge"]:
            raise SignInRefused("failed", "400: invalid_grant")
        now = int(self.clock.now())
        told = {"iss": ISSUER, "aud": "fedbus", "nonce": query["nonce"], "iat": now, "exp": now + 60} | claims
        return {"id_token": jwt.encode({"alg": "RS256", "kid": self.key.kid}, told, self.key)}


def at_provider(monkeypatch, scene, settings=SETTINGS, **document):
    """Run a scene in a gateway with a provider; it gets both."""

    async def run():
        house = House()
        provider = Provider(house.clock, **document)
        monkeypatch.setattr(module, "_asked", provider.answer)
        async with secured_in(house, oidc=settings) as found:
            return await scene(found, provider)

    return run_virtual(run())


async def begin(house):
    """Begin to sign in; returns where the browser goes, and its cookie."""
    answer = await ask(house.gateway, "GET", LOGIN)
    assert answer.status == 303, answer.body
    return answer.headers["Location"], answer.headers["Set-Cookie"].partition(";")[0]


async def come_back(house, told, cookie):
    """Come back from the provider."""
    headers = {"Cookie": cookie} if cookie else {}
    return await ask(house.gateway, "GET", str(URL(CALLBACK).with_query(told)), headers=headers)


async def sign_in(house, provider, **claims):
    """All of it."""
    address, cookie = await begin(house)
    return await come_back(house, provider.authorize(address, **claims), cookie)


def session_of(answer):
    """The cookie of somebody who is signed in."""
    (cookie,) = (one for one in answer.headers.getall("Set-Cookie") if one.startswith("fedbus_session="))
    return {"Cookie": cookie.partition(";")[0]}


def word_of(answer):
    """Why somebody is not signed in, as the page is told."""
    assert answer.status == 303 and not any("session=2" in one for one in answer.headers.getall("Set-Cookie"))
    return answer.headers["Location"].partition("refused=")[2]


def test_somebody_who_is_known_signs_in(monkeypatch):
    """By the provider's id of her; the page is shown, the cookie of the way there is gone, her roles are ours."""

    async def scene(house, provider):
        await house.members.people.add("ana", ["engineer"], by="test", subjects=[f"{ISSUER}#u-1"])
        answer = await sign_in(house, provider, preferred_username="admin-person")
        return answer, await ask(house.gateway, "GET", ME, headers=session_of(answer))

    answer, me = at_provider(monkeypatch, scene)
    assert answer.status == 303 and answer.headers["Location"] == "/"
    assert any(one.startswith("fedbus_session-begun=;") for one in answer.headers.getall("Set-Cookie"))
    assert me.json["name"] == "ana" and me.json["roles"] == ["engineer"] and me.json["csrf"]


def test_what_is_asked_of_the_provider_is_bound_to_the_browser(monkeypatch):
    """State, nonce and challenge are new each time, and none of them is in the cookie."""

    async def scene(house, provider):
        return await begin(house), await begin(house)

    (first, cookie), (second, other) = at_provider(monkeypatch, scene)
    one, two = URL(first).query, URL(second).query
    assert one["redirect_uri"] == f"http://localhost:8080{CALLBACK}" and one["scope"] == "openid profile email"
    for name in ("state", "nonce", "code_challenge"):
        assert one[name] != two[name] and len(one[name]) == 43 and one[name] not in cookie
    assert cookie != other


@pytest.mark.parametrize("what", ["no cookie", "another's cookie", "forged cookie", "another's state", "no state"])
def test_an_answer_to_what_this_browser_has_not_asked_is_refused(monkeypatch, what):
    """Nobody is signed in as somebody else by following a link."""

    async def scene(house, provider):
        await house.members.people.add("ana", ["admin"], by="test", subjects=[f"{ISSUER}#u-1"])
        address, cookie = await begin(house)
        _, other = await begin(house)
        told = provider.authorize(address)
        match what:
            case "no cookie":
                cookie = ""
            case "another's cookie":
                cookie = other
            case "forged cookie":
                cookie = cookie[:-3] + "AAA"
            case "another's state":
                told["state"] = "A" * 43
            case "no state":
                del told["state"]
        return word_of(await come_back(house, told, cookie))

    assert at_provider(monkeypatch, scene) == ("expired" if what == "no cookie" else "failed")


def test_a_code_that_was_given_to_another_browser_is_refused(monkeypatch):
    """Whoever puts her own code into somebody's answer fails by the verifier; with that left out, by the nonce."""

    async def scene(house, provider):
        await house.members.people.add("ana", ["admin"], by="test", subjects=[f"{ISSUER}#u-1"])
        words = []
        for without_pkce in (False, True):
            address, cookie = await begin(house)
            other, _ = await begin(house)
            told = provider.authorize(address)
            injected = provider.authorize(other)
            if without_pkce:
                query, _ = provider.codes[injected["code"]]
                query["code_challenge"] = URL(address).query["code_challenge"]
            words.append(word_of(await come_back(house, told | {"code": injected["code"]}, cookie)))
        return words

    assert at_provider(monkeypatch, scene) == ["failed", "failed"]


def test_an_answer_counts_once_and_for_ten_minutes(monkeypatch):
    """A code is spent at the provider; the way there ends."""

    async def scene(house, provider):
        await house.members.people.add("ana", ["admin"], by="test", subjects=[f"{ISSUER}#u-1"])
        address, cookie = await begin(house)
        told = provider.authorize(address)
        first = await come_back(house, told, cookie)
        again = word_of(await come_back(house, told, cookie))
        address, cookie = await begin(house)
        told = provider.authorize(address)
        await asyncio.sleep(BEGUN_S + 1)
        return first.headers["Location"], again, word_of(await come_back(house, told, cookie))

    assert at_provider(monkeypatch, scene) == ("/", "failed", "expired")


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"nonce": "of another"},
        {"exp": 1},
        {"azp": "another"},
    ],
    ids=str,
)
def test_an_id_token_that_is_not_for_this_sign_in_is_refused(monkeypatch, claims):
    """Also where the provider itself has signed it."""

    async def scene(house, provider):
        await house.members.people.add("ana", ["admin"], by="test", subjects=[f"{ISSUER}#u-1"])
        return word_of(await sign_in(house, provider, **claims))

    assert at_provider(monkeypatch, scene) == "failed"


def test_an_answer_of_another_issuer_is_refused(monkeypatch):
    """`iss` of RFC 9207: where it comes, and where the provider says that it always does, also where it is missing."""

    async def scene(house, provider):
        await house.members.people.add("ana", ["admin"], by="test", subjects=[f"{ISSUER}#u-1"])
        words = []
        for more in ({"iss": "https://evil.example"}, {}, {"iss": ISSUER}):
            address, cookie = await begin(house)
            answer = await come_back(house, provider.authorize(address) | more, cookie)
            words.append(answer.headers["Location"])
        return words

    refused = "/#/login?refused=failed"
    always = {"authorization_response_iss_parameter_supported": True}
    assert at_provider(monkeypatch, scene, **always) == [refused, refused, "/"]
    assert at_provider(monkeypatch, scene) == [refused, "/", "/"]


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example"},
        {"issuer": ISSUER + "/"},
        {"token_endpoint": "http://login.example/token"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https://user:pass@login.example/keys"},
        {"authorization_endpoint": None},
        {"token_endpoint": "http://127.0.0.1:9200/_search"},
        {"jwks_uri": "http://localhost/keys"},
    ],
    ids=str,
)
def test_a_document_of_another_or_that_leads_to_plain_http_is_refused(monkeypatch, document):
    """Nobody is sent anywhere then."""

    async def scene(house, provider):
        return word_of(await ask(house.gateway, "GET", LOGIN))

    assert at_provider(monkeypatch, scene, **document) == "failed"


def test_a_host_that_leads_nowhere_begins_nothing(monkeypatch):
    """A port that no machine has is told, and is no error that nobody has foreseen."""

    async def scene(house, provider):
        return [
            (await ask(house.gateway, "GET", path, headers={"Host": "localhost:99999"})).status
            for path in (LOGIN, f"{CALLBACK}?code=c&state=s")
        ]

    assert at_provider(monkeypatch, scene) == [421, 421]


def test_new_keys_are_taken_as_the_provider_tells_them(monkeypatch):
    """Asked for when a token is signed by an unknown one, and not again within half a minute, whoever sends such."""

    async def scene(house, provider):
        await house.members.people.add("ana", ["admin"], by="test", subjects=[f"{ISSUER}#u-1"])
        places = [(await sign_in(house, provider)).headers["Location"]]
        provider.key = jwk.RSAKey.generate_key(2048, {"kid": "k2"})
        places.append((await sign_in(house, provider)).headers["Location"])
        await asyncio.sleep(31)
        places.append((await sign_in(house, provider)).headers["Location"])
        return places, [url for _, url in provider.asked].count(f"{ISSUER}/keys")

    places, asked = at_provider(monkeypatch, scene)
    assert places == ["/", "/#/login?refused=failed", "/"] and asked == 2


def test_what_the_provider_refuses_is_told_in_a_word(monkeypatch):
    """Nothing of what stands in the address gets onto the page; the audit has it."""

    async def scene(house, provider):
        words = []
        for error in ("access_denied", "<script>"):
            address, cookie = await begin(house)
            told = {"error": error, "error_description": "<b>", "state": URL(address).query["state"]}
            words.append(word_of(await come_back(house, told, cookie)))
        await asyncio.sleep(3)
        deeds = [one.entry async for one in house.gateway.audit.read(newest_first=False)]
        return words, deeds

    words, deeds = at_provider(monkeypatch, scene)
    assert words == ["cancelled", "failed"]
    assert [(one.action, one.by, one.result) for one in deeds] == [("login", "anonymous", "refused")]
    assert "access_denied" in deeds[0].reason


def test_whoever_is_not_known_here_is_refused(monkeypatch):
    """Her name and address say nothing: they may be somebody else's tomorrow."""

    async def scene(house, provider):
        words = [word_of(await sign_in(house, provider, preferred_username="admin-person"))]
        await house.members.people.add("ana", ["admin"], by="test", subjects=[f"{ISSUER}#u-1", "https://other#u-2"])
        words.append(word_of(await sign_in(house, provider, sub="u-2")))
        await house.members.people.change("ana", by="test", state="suspended")
        return [*words, word_of(await sign_in(house, provider))]

    assert at_provider(monkeypatch, scene) == ["unknown", "unknown", "suspended"]


def test_groups_decide_where_they_are_mapped(monkeypatch):
    """Who is in one is added, has the roles of today's groups, and nothing without; never under another's name."""

    async def scene(house, provider):
        first = await sign_in(house, provider, groups=["lab", "other"], preferred_username="viewer-person")
        me = await ask(house.gateway, "GET", ME, headers=session_of(first))
        more = await sign_in(house, provider, groups=["lab", "ops"])
        again = await ask(house.gateway, "GET", ME, headers=session_of(more))
        old = await ask(house.gateway, "GET", ME, headers=session_of(first))
        none = word_of(await sign_in(house, provider, groups=["other"]))
        stranger = word_of(await sign_in(house, provider, sub="u-9", groups="other"))
        return me.json, again.json, old.json, none, stranger, house.members.people.by_subject(f"{ISSUER}#u-1")

    me, again, old, none, stranger, person = at_provider(monkeypatch, scene, MAPPED)
    assert me["name"].startswith("viewer-person.") and me["roles"] == ["viewer"]
    assert again["name"] == me["name"] and again["roles"] == old["roles"] == ["admin", "viewer"]
    assert (none, stranger) == ("unknown", "unknown") and person.by == "oidc"


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"groups": ["a", "b"]}, ("a", "b")),
        ({"groups": "a"}, ("a",)),
        ({"groups": ["a", 1, None, ["b"]]}, ("a",)),
        ({"groups": {"a": 1}}, ()),
        ({}, ()),
    ],
)
def test_groups_are_read_as_providers_tell_them(claims, expected):
    """A list, one text; anything else is none. A claim in a claim is named by a path."""
    assert groups_in(claims, "groups") == expected
    assert groups_in({"realm": {"access": claims}}, "realm.access.groups") == expected
    assert groups_in({"https://x/groups": ["a"]}, "https://x/groups") == ("a",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "http://login.example"},
        {"issuer": "login.example"},
        {"issuer": ""},
        {"client_id": ""},
        {"roles_claim": "groups"},
        {"role_map": {"a": "admin"}},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(wrong):
    """Before a gateway starts."""
    with pytest.raises(ConfigError):
        OidcSettings(**({"issuer": ISSUER, "client_id": "fedbus"} | wrong))


def test_a_client_secret_is_shown_nowhere():
    """Neither where settings are printed, nor in a document of the gateway."""
    assert "geheim" not in repr(SETTINGS)


def test_the_button_has_a_name_and_without_a_provider_there_is_none(monkeypatch):
    """What the page asks before anybody has signed in."""

    async def scene(house, provider):
        return (await ask(house.gateway, "GET", f"{API}/login")).json

    assert at_provider(monkeypatch, scene) == {"open": False, "oidc": "login.example"}
    assert at_provider(monkeypatch, scene, MAPPED) == {"open": False, "oidc": "the lab"}

    async def without():
        async with secured_in(House()) as house:
            return (await ask(house.gateway, "GET", LOGIN)).status, (await ask(house.gateway, "GET", CALLBACK)).status

    assert run_virtual(without()) == (404, 404)


def test_a_provider_that_does_not_answer_is_a_word_too(monkeypatch):
    """And not an error of the gateway; however many want to sign in, it is asked once, and again a little later."""

    async def scene(house, provider):
        asked = []

        async def silent(*_, **__):
            asked.append(1)
            raise SignInRefused("failed", "it does not answer")

        monkeypatch.setattr(module, "_asked", silent)
        words = [word_of(await ask(house.gateway, "GET", LOGIN)) for _ in range(20)]
        many = len(asked)
        monkeypatch.setattr(module, "_asked", provider.answer)
        await asyncio.sleep(6)
        return words, many, (await ask(house.gateway, "GET", LOGIN)).headers["Location"]

    words, asked, place = at_provider(monkeypatch, scene)
    assert set(words) == {"failed"} and asked == 1 and place.startswith(f"{ISSUER}/authorize?")


# --- a second factor, and who shows anew who she is ---

STRICT = replace(SETTINGS, acr=("gold", "silver"), amr=("otp", "hwk"))
ADMINS = replace(SETTINGS, amr=("mfa",), factor_roles=("admin",))


@pytest.mark.parametrize(
    ("claims", "is_in"),
    [
        ({"acr": "gold", "amr": ["pwd", "otp"]}, True),
        ({"acr": "silver", "amr": ["hwk"]}, True),
        ({"acr": "bronze", "amr": ["otp"]}, False),
        ({"acr": "gold", "amr": ["pwd"]}, False),
        ({"acr": ["gold"], "amr": "otp"}, True),
        ({"acr": ["bronze", "gold"], "amr": ["otp"]}, False),
        ({"acr": {"gold": 1}, "amr": [{"otp": 1}]}, False),
        ({}, False),
    ],
    ids=str,
)
def test_who_comes_without_a_second_factor_is_refused_and_told(monkeypatch, claims, is_in):
    """One of each claim that was set, which is asked for; the audit says what was expected and what came."""

    async def scene(house, provider):
        await house.members.people.add("ana", ["viewer"], by="test", subjects=[f"{ISSUER}#u-1"])
        address, cookie = await begin(house)
        answer = await come_back(house, provider.authorize(address, **claims), cookie)
        await asyncio.sleep(3)
        return URL(address).query["acr_values"], answer, [one.entry.reason async for one in house.gateway.audit.read()]

    asked, answer, reasons = at_provider(monkeypatch, scene, STRICT)
    assert asked == "gold silver"
    if is_in:
        assert answer.headers["Location"] == "/" and session_of(answer)
    else:
        assert word_of(answer) == "factor" and "expected acr gold or silver and amr otp or hwk" in reasons[0]


def test_a_role_can_need_a_second_factor_whichever_way_one_comes(monkeypatch):
    """An admin is let in with one alone: not by a token, a link, or the provider without; others come as ever."""

    async def scene(house, provider):
        await house.members.people.add("ana", ["admin", "viewer"], by="test", subjects=[f"{ISSUER}#u-1"])
        await house.members.people.add("bo", ["viewer"], by="test", subjects=[f"{ISSUER}#u-2"])
        await house.give("viewing", "viewer", "ana")
        await house.give("program", "admin", "")
        link = (await login_link(house.members, "http://x", person="ana", by="test")).partition("#/login/")[2]
        login = [
            await house.ask(None, "POST", f"{API}/login", json={"token": one}) for one in (house.tokens["admin"], link)
        ]
        by_token = [(await house.ask(who, "GET", ME)).status for who in ("admin", "viewing", "program", "viewer")]
        words = [word_of(await sign_in(house, provider))]
        strong = await sign_in(house, provider, amr=["mfa"])
        me = await ask(house.gateway, "GET", ME, headers=session_of(strong))
        other = await sign_in(house, provider, sub="u-2")
        await house.members.people.change("bo", by="test", roles=["admin"])
        grown = await ask(house.gateway, "GET", ME, headers=session_of(other))
        return login, by_token, words, me.json["roles"], other.headers["Location"], grown

    login, by_token, words, roles, other, grown = at_provider(monkeypatch, scene, ADMINS)
    assert [one.status for one in login] == [401, 401] and "second factor" in login[0].json["detail"]
    assert by_token == [401, 200, 200, 200] and words == ["factor"] and roles == ["admin", "viewer"] and other == "/"
    assert grown.status == 401 and "second factor" in grown.json["detail"]


def test_a_second_factor_that_nobody_can_show_is_no_setting():
    """Who needs one without what one is; values that would be two."""
    for wrong in ({"factor_roles": ("admin",)}, {"acr": ("a b",)}, {"amr": ("",)}):
        with pytest.raises(ConfigError):
            replace(SETTINGS, **wrong)


@pytest.mark.parametrize("case", ["she", "nothing said", "long ago", "another", "signed out", "cancelled", "nobody"])
def test_who_is_signed_in_shows_the_provider_anew_who_she_is(monkeypatch, case):
    """The provider is told to ask, and has to say that it just did; of nobody else, and of no sign-in that ended."""

    async def scene(house, provider):
        for name, sub in (("ana", "u-1"), ("bo", "u-2")):
            await house.members.people.add(name, ["admin"], by="test", subjects=[f"{ISSUER}#{sub}"])
        first = session_of(await sign_in(house, provider, auth_time=int(house.gateway.clock.now()) - 600))
        fresh = (await ask(house.gateway, "GET", ME, headers=first)).json["fresh_until"] - house.gateway.clock.now()
        answer = await ask(house.gateway, "GET", f"{LOGIN}?again=true", headers={} if case == "nobody" else first)
        if case == "nobody":
            return fresh, answer.status, {}, 0, 0
        address, begun = answer.headers["Location"], answer.headers["Set-Cookie"].partition(";")[0]
        now = int(house.gateway.clock.now())
        claims = {"nothing said": {}, "long ago": {"auth_time": now - 70}}.get(case, {"auth_time": now})
        told = provider.authorize(address, **claims, **({"sub": "u-2"} if case == "another" else {}))
        if case == "signed out":
            csrf = (await ask(house.gateway, "GET", ME, headers=first)).json["csrf"]
            await ask(house.gateway, "POST", f"{API}/logout", headers=first | {"X-Fedbus-CSRF": csrf})
        if case == "cancelled":
            told = {"error": "access_denied", "state": URL(address).query["state"]}
        back = await come_back(house, told, begun)
        fresher = 0.0
        if case == "she":
            me = await ask(house.gateway, "GET", ME, headers=session_of(back))
            fresher = me.json["fresh_until"] - house.gateway.clock.now()
        old = (await ask(house.gateway, "GET", ME, headers=first)).status
        return fresh, back.headers["Location"], dict(URL(address).query), fresher, old

    fresh, where, query, fresher, old = at_provider(monkeypatch, scene)
    assert 290 < fresh <= 300
    if case == "nobody":
        assert where == 401
        return
    assert (query["prompt"], query["max_age"]) == ("login", "0")
    refused = {"nothing said": "failed", "long ago": "failed", "cancelled": "cancelled"}.get(case, "another")
    assert where == ("/#/shown" if case == "she" else f"/#/shown?refused={refused}")
    assert 890 < fresher <= 900 if case == "she" else fresher == 0
    assert old == (401 if case in ("she", "signed out") else 200)


def test_of_two_windows_that_show_the_same_sign_in_anew_one_is_told(monkeypatch):
    """On the page, in a word, and not as JSON: what it shows has ended in the other window."""

    async def scene(house, provider):
        await house.members.people.add("ana", ["admin"], by="test", subjects=[f"{ISSUER}#u-1"])
        first = session_of(await sign_in(house, provider))
        begun = [await ask(house.gateway, "GET", f"{LOGIN}?again=true", headers=first) for _ in range(2)]
        now = int(house.gateway.clock.now())
        back = [
            come_back(
                house,
                provider.authorize(one.headers["Location"], auth_time=now),
                one.headers["Set-Cookie"].partition(";")[0],
            )
            for one in begun
        ]
        return sorted([one.headers["Location"] for one in await asyncio.gather(*back)])

    assert at_provider(monkeypatch, scene) == ["/#/shown", "/#/shown?refused=another"]
