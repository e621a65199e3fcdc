"""A data owner sees how sessions stand, and in no answer, stream or search the names of clients that are not hers."""

from __future__ import annotations

import asyncio
import itertools
import re
from contextlib import asynccontextmanager

import numpy as np
import pytest
from aiohttp.test_utils import make_mocked_request
from people import SECRET, Page, credentials_of, secured_in
from whole_house import House

from fedbus.access.actions import PERMITTED
from fedbus.access.credentials import Credentials
from fedbus.client.app import ClientApp, Evaluation, Update
from fedbus.config.session import SessionConfig
from fedbus.errors import SessionFailed
from fedbus.gateway.operations import API
from fedbus.gateway.table import OPERATIONS
from fedbus.testing.loop import run_virtual

CLINIC = b"clinic-"
"""What the names of all clients begin with, and nothing else does."""

NAMES = {
    "session": ("one", "two", "three"), "version": ("one-0", "one-1", "two-0"), "round": ("1", "newest"),
    "client": ("clinic-a", "no"), "stage": ("no",), "name": ("fedavg",), "role": ("client",), "member": ("no",),
    "token": ("no",), "person": ("no",), "sign_in": ("0" * 16,),
}  # fmt: skip


def app_of(*, refuses=False):
    """An app that trains, or cannot."""
    app = ClientApp()

    @app.train
    async def train(model, task):
        await asyncio.sleep(0.5)
        if refuses:
            raise ValueError("no data")
        return Update({"w": model["w"] + np.float32(1)}, weight=1.0, metrics={"loss": 1.0})

    @app.evaluate
    def evaluate(model, task):
        return Evaluation(weight=1.0, metrics={"first": 1.0})

    return app


@asynccontextmanager
async def clinics():
    """Three clients of nobody's: a session that went on without one, one that failed for it, one that waits."""
    house, model = House(), {"w": np.zeros(3, np.float32)}
    house.coordinator()
    house.combiner()
    known = Credentials(jwt="", seed="", trust=credentials_of().trust, secrets={"login": SECRET})
    async with secured_in(house, credentials=known) as found, house.federation() as federation:
        for name in "abz":
            house.client(f"clinic-{name}", app_of(refuses=name == "z"))
        config = SessionConfig(rounds=1, clients_min=3, quorum=2)
        await (await federation.start_session(config, model=model, name="one")).wait()
        config = SessionConfig(rounds=1, clients_min=3, quorum=3, round_attempts_max=1, round_deadline_s=5)
        with pytest.raises(SessionFailed, match="clinic-z"):
            await (await federation.start_session(config, model=model, name="two")).wait()
        await federation.start_session(SessionConfig(clients_min=4), model=model, name="three")
        await asyncio.sleep(3)
        yield found


def targets():
    """Addresses of all that can be read, with names that there are."""
    for operation in OPERATIONS:
        names = re.findall(r"{(\w+)}", operation.path)
        for given in itertools.product(*(NAMES[name] for name in names)):
            path = operation.path.format(**dict(zip(names, given, strict=True)))
            query = "?session=one&session=two" if operation.id == "compareSessions" else ""
            if operation.method == "GET" and operation.needs in PERMITTED["data-owner"]:
                yield operation.id, path + query


def test_no_answer_names_the_clients_of_others():
    """All that a data owner may read, of sessions that went on without a client, failed for it, and wait for one."""

    async def scene():
        async with clinics() as found:
            return [
                (id_, target, *[await found.ask(who, "GET", target) for who in ("data-owner", "viewer")])
                for id_, target in targets()
            ]

    told = run_virtual(scene())
    leaks = [
        (target, owner.body)
        for _, target, owner, _ in told
        if CLINIC in owner.body and CLINIC[:-1].decode() not in target
    ]
    assert not leaks
    seen = {id_ for id_, _, _, viewer in told if viewer.status == 200 and CLINIC in viewer.body}
    assert seen >= {
        "listSessions", "getSession", "listRounds", "listEvents", "listSessionEvents", "compareSessions", "getModel",
        "getModelCard", "listClients", "getOverview", "listWaits",
    }  # fmt: skip
    assert all(owner.status == viewer.status for _, target, owner, viewer in told if "clinic" not in target)
    failed = next(owner.json for _, target, owner, _ in told if target == f"{API}/sessions/two")
    assert failed["reason"] == "round 1 failed 1 times"


def test_nothing_is_found_by_a_name_that_is_not_told():
    """A search that finds a session, or an event, by what it does not show tells the name letter by letter."""

    async def scene():
        async with clinics() as found:
            asked = [f"{API}/{what}?text=clinic-z" for what in ("sessions", "events", "sessions/two/events")]
            return [
                [len((await found.ask(who, "GET", target)).json["items"]) for target in asked]
                for who in ("data-owner", "viewer")
            ]

    owner, viewer = run_virtual(scene())
    assert owner == [0, 0, 0]
    assert all(viewer)


def test_a_stream_names_nobody_and_ends_when_its_reader_may_see_less():
    """A data owner reads without names; who read with them, and is a data owner now, is not told any more."""

    async def scene():
        async with clinics() as found:
            await found.members.people.add("ada", ["engineer", "data-owner"], by="test")
            await found.give("ada", "engineer", "ada")
            stream = {"headers": {"Accept": "text/event-stream"}}
            target = f"{API}/events?from=beginning"
            hers = asyncio.ensure_future(found.ask("data-owner", "GET", target, **stream))
            page = await sign_in_with_all_roles(found)
            adas = asyncio.ensure_future(page.ask("GET", target, **stream))
            await asyncio.sleep(3)
            assert not hers.done() and not adas.done()
            await found.members.people.change("ada", by="test", roles=["data-owner"])
            with_names = await asyncio.wait_for(adas, 1)
            await found.members.people.change("data-owner-person", by="test", state="suspended")
            return with_names, await asyncio.wait_for(hers, 1), await page.ask("GET", f"{API}/me")

    with_names, without, me = run_virtual(scene())
    assert CLINIC in with_names.body
    assert b"SessionEnded" in without.body and b"event: overview" in without.body
    assert CLINIC not in without.body
    assert me.status == 200 and me.json["roles"] == ["data-owner"]


async def sign_in_with_all_roles(found):
    """Sign Ada in as a provider does: with all the roles that she has, whatever they are later."""
    request = make_mocked_request("GET", "/", headers={"Host": "localhost"})
    person = found.members.people.get("ada")
    caller, cookie = await found.gateway.sign_ins.by_provider(request, person, "test", shown=0.0, factor=False)
    return Page(found, cookie.partition(";")[0], caller.csrf)
