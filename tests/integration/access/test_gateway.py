"""A gateway of a secured workspace at a real broker: who asks, who is shut out at once, who is of another workspace."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager

import aiohttp
import pytest
import pytest_asyncio

from fedbus.access.signin import login_link
from fedbus.clock import SystemClock
from fedbus.gateway.listening import Listening
from fedbus.gateway.service import Gateway
from fedbus.workers import Threads

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = "/api/v1"


@asynccontextmanager
async def running(ward, name):
    """A gateway of a ward on a free port; gives its URL."""
    workers = Threads(2, name)
    bus, issued = await ward.bus("gateway", name), ward.authority.issue(ward.workspace, "gateway", name)
    url = asyncio.get_running_loop().create_future()
    gateway = Gateway(
        bus,
        name=name,
        incarnation=secrets.token_hex(8),
        workspace=ward.workspace,
        clock=SystemClock(),
        workers=workers,
        listening=Listening(port=0),
        listened=url.set_result,
        credentials=issued,
    )
    task = asyncio.create_task(gateway.run())
    await asyncio.wait({task, url}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield await url
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        workers.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def urls(wards):
    """A gateway of each workspace."""
    async with running(wards["ward"], "rest-1") as ours, running(wards["lab"], "rest-2") as theirs:
        yield {"ward": ours, "lab": theirs}


async def person(ward, name, role="viewer"):
    """A person with a token."""
    await ward.members.people.add(name, [role], by="eve")
    return await ward.members.tokens.create_api(role, by="eve", person=name)


async def me(url, http=None, **how):
    """Who one is there: the status, and the name."""
    async with aiohttp.ClientSession() as session, (http or session).get(f"{url}{API}/me", **how) as answer:
        return answer.status, (await answer.json()).get("name")


def bearer(token):
    """What a program sends."""
    return {"Authorization": f"Bearer {token}"}


async def known(url, token, name):
    """Wait until a gateway has heard of a new token, within milliseconds: five wrong tries are free, then one waits."""
    for pause_s in (0.02, 0.1, 0.5, 1.0, 2.0):
        if await me(url, headers=bearer(token)) == (200, name):
            return
        await asyncio.sleep(pause_s)
    raise AssertionError(f"{name} is not known")


async def test_a_person_is_known_as_soon_as_she_is_added_and_shut_out_as_soon_as_she_is_not(wards, urls):
    """Her stream ends within a second of her token's end, written at another process's connection to the broker."""
    ward, url = wards["ward"], urls["ward"]
    new = await person(ward, "ana")
    await known(url, new.api_text, "ana")
    headers = bearer(new.api_text) | {"Accept": "text/event-stream"}
    async with aiohttp.ClientSession() as http, http.get(f"{url}{API}/events", headers=headers) as stream:
        assert stream.status == 200
        await stream.content.readline()
        began = asyncio.get_running_loop().time()
        await ward.members.tokens.revoke(new.state.id, by="eve", reason="lost")
        async with asyncio.timeout(5):
            await stream.read()
        took = asyncio.get_running_loop().time() - began
    assert (await me(url, headers=bearer(new.api_text)))[0] == 401
    assert took < 1, f"the stream went on for {took:.3f} s"


async def test_a_link_signs_in_and_a_cookie_is_of_its_workspace(wards, urls):
    """A browser's cookie changes something with its value only; at the other workspace's gateway it is nobody's."""
    ward, url = wards["ward"], urls["ward"]
    link = await login_link(ward.members, url, person="local", by="admin/eve")
    token = link.partition("#/login/")[2]
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        await asyncio.sleep(0.5)  # the gateway hears of the new token within milliseconds
        async with http.post(f"{url}{API}/login", json={"token": token}) as answer:
            told = await answer.json()
            assert answer.status == 200, told
        assert await me(url, http) == (200, "local")
        assert (await me(urls["lab"], http))[0] == 401
        for csrf, status in (("", 403), (told["csrf"], 404)):
            async with http.delete(f"{url}{API}/stages/none", headers={"X-Fedbus-CSRF": csrf}) as answer:
                assert answer.status == status, await answer.text()
        async with http.post(f"{url}{API}/login", json={"token": token}) as answer:
            assert answer.status == 401
    deeds = [(action, result) for action, _, result, _ in await ward.deeds()]
    assert ("login", "done") in deeds and ("login", "refused") in deeds


async def test_a_token_of_one_workspace_is_none_in_another(wards, urls):
    """Also where both are at one broker."""
    new = await person(wards["lab"], "bob", "admin")
    await known(urls["lab"], new.api_text, "bob")
    assert (await me(urls["ward"], headers=bearer(new.api_text)))[0] == 401
