"""Signing in with a provider that is not ours, over HTTP: discovery, PKCE, keys, ID token, all by its own code."""

from __future__ import annotations

import asyncio
import sys
import urllib.error
import urllib.parse
import urllib.request
import warnings
from pathlib import Path

import pytest

from fedbus.clock import SystemClock
from fedbus.gateway.oidc import OidcSettings
from fedbus.gateway.operations import API

sys.path += [str(Path(__file__).parents[2] / "unit" / part) for part in ("gateway", "federation")]

from asker import ask
from people import secured_in
from whole_house import House

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it uses what its own libraries have deprecated
    import oidc_provider_mock

CALLBACK = f"{API}/login/oidc/callback"
MAP = {"lab": "engineer"}


@pytest.fixture
def provider():
    """A provider on a port of its own; returns its issuer."""
    strong = {"groups": ["lab"], "acr": "gold", "amr": ["pwd", "otp"]}
    users = [
        oidc_provider_mock.User(sub="u-1", claims={"email": "ana@x.example", "groups": ["lab"]}),
        oidc_provider_mock.User(sub="u-2", claims=strong),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with oidc_provider_mock.run_server_in_thread(user_claims=users) as server:
            yield f"http://localhost:{server.server_port}"


class _Stay(urllib.request.HTTPRedirectHandler):
    """A browser that looks where it is sent before it goes."""

    def redirect_request(self, *_):
        return None


def submit(address, **form):
    """Send the provider's form; returns what it sends the browser back with."""
    opener = urllib.request.build_opener(_Stay)
    try:
        opener.open(address, data=urllib.parse.urlencode(form).encode())
    except urllib.error.HTTPError as answer:
        query = urllib.parse.urlsplit(answer.headers["Location"]).query
        return dict(urllib.parse.parse_qsl(query))
    raise AssertionError("the provider sends nobody back")


async def begin(gateway, session=""):
    """Begin to sign in, or, with a session, to show anew who one is; returns where the browser goes, and its cookie."""
    target, headers = (f"{API}/login/oidc?again=true", {"Cookie": session}) if session else (f"{API}/login/oidc", {})
    answer = await ask(gateway, "GET", target, headers=headers)
    assert answer.status == 303, answer.body
    return answer.headers["Location"], answer.headers["Set-Cookie"].partition(";")[0]


async def come_back(gateway, told, cookie):
    """Come back from the provider; returns where the browser goes then, and its session."""
    answer = await ask(gateway, "GET", f"{CALLBACK}?{urllib.parse.urlencode(told)}", headers={"Cookie": cookie})
    session = [one for one in answer.headers.getall("Set-Cookie") if one.startswith("fedbus_session=2")]
    return answer.headers["Location"], session[0].partition(";")[0] if session else ""


async def in_house(scene, **settings):
    """Run a scene in a secured gateway whose clock is that of this machine, as the provider's is."""
    house = House()
    house.clock = SystemClock()
    async with secured_in(house, oidc=OidcSettings(client_id="fedbus", client_secret="geheim", **settings)) as found:
        return await scene(found)


async def test_somebody_signs_in_with_a_real_provider(provider):
    """Added by her group at first, then known by the provider's id of her; a code counts once, a refusal never."""

    async def scene(house):
        address, cookie = await begin(house.gateway)
        told = await asyncio.to_thread(submit, address, sub="u-1")
        where, session = await come_back(house.gateway, told, cookie)
        me = (await ask(house.gateway, "GET", f"{API}/me", headers={"Cookie": session})).json
        again = await come_back(house.gateway, told, cookie)
        address, cookie = await begin(house.gateway)
        denied = await come_back(house.gateway, await asyncio.to_thread(submit, address, action="deny"), cookie)
        return where, me, again, denied, house.members.people.by_subject(f"{provider}#u-1")

    where, me, again, denied, person = await in_house(scene, issuer=provider, roles_claim="groups", role_map=MAP)
    assert where == "/" and me["roles"] == ["engineer"] and me["name"] == person.name
    assert again == ("/#/login?refused=failed", "")
    assert denied == again  # this provider forgets the state where it denies: it is not believed


async def test_answers_to_others_are_refused(provider):
    """A code in another browser, another nonce, another state, another issuer; somebody without a group."""

    async def scene(house):
        words = []
        for case in ("browser", "nonce", "state", "iss", "stranger"):
            address, cookie = await begin(house.gateway)
            if case == "nonce":
                address = address.replace("nonce=", "nonce=x")
            told = await asyncio.to_thread(submit, address, sub="u-9" if case == "stranger" else "u-1")
            match case:
                case "browser":
                    _, cookie = await begin(house.gateway)
                case "state":
                    told["state"] = told["state"][::-1]
                case "iss":
                    told["iss"] = "https://evil.example"
            where, session = await come_back(house.gateway, told, cookie)
            assert not session
            words.append(where.partition("refused=")[2])
        return words

    words = await in_house(scene, issuer=provider, roles_claim="groups", role_map=MAP)
    assert words == ["failed", "failed", "failed", "failed", "unknown"]


async def test_a_second_factor_is_demanded_and_shown_anew(provider):
    """Who has none is refused; who has is in, and shows anew who she is: nobody else does it for her."""

    async def scene(house):
        where, session = [], ""
        for sub, again in (("u-1", False), ("u-2", False), ("u-1", True), ("u-2", True)):
            address, cookie = await begin(house.gateway, session if again else "")
            told = await asyncio.to_thread(submit, address, sub=sub)
            place, found = await come_back(house.gateway, told, cookie)
            where.append((place, bool(found)))
            before, session = session, found or session
        old, new = [await ask(house.gateway, "GET", f"{API}/me", headers={"Cookie": one}) for one in (before, session)]
        return where, old.status, new.json

    where, old, me = await in_house(
        scene, issuer=provider, roles_claim="groups", role_map=MAP, acr=("gold",), amr=("otp", "hwk")
    )
    assert where == [
        ("/#/login?refused=factor", False), ("/", True), ("/#/shown?refused=factor", False), ("/#/shown", True)
    ]  # fmt: skip
    assert old == 401 and me["roles"] == ["engineer"]
    assert 890 < me["fresh_until"] - me["idle_until"] + 7200 <= 900


async def test_a_provider_that_is_not_there_is_no_error_of_ours(provider):
    """Neither one that does not answer, nor one whose document is not found, or is another's."""

    async def scene(house):
        return (await ask(house.gateway, "GET", f"{API}/login/oidc")).headers["Location"]

    for issuer in ("http://localhost:9", f"{provider}/nothing", provider.replace("localhost", "127.0.0.1") + "/"):
        assert await in_house(scene, issuer=issuer) == "/#/login?refused=failed"
