"""What is done at a gateway, and what it refuses, stands in the audit: who, what, from where, with which result."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
from asker import ask, gateway_in
from people import secured_in
from whole_house import House

from fedbus.access.audit import Audit
from fedbus.access.signin import login_link
from fedbus.config.session import SessionConfig
from fedbus.gateway.operations import API
from fedbus.messages.commands import StopSession, author_of
from fedbus.messages.ids import Peer
from fedbus.testing.loop import run_virtual

STAGE = f"{API}/stages/nothing"
OCTETS = {"Content-Type": "application/octet-stream"}


async def audited(gateway):
    """All deeds, oldest first; the chain is whole."""
    await asyncio.sleep(3)
    audit = Audit(gateway.federation.bus, gateway.federation.subjects, Peer("auditor", "test"), gateway.clock)
    assert (await audit.verify()).is_whole
    return [one.entry async for one in audit.read(newest_first=False)]


def in_house(scene):
    """Run a scene in a secured gateway."""

    async def run():
        async with secured_in(House()) as found:
            return await scene(found)

    return run_virtual(run())


def told(entry):
    """What tests look at."""
    return entry.action, entry.by, entry.origin, entry.target, entry.result


def test_changes_are_written_down_with_who_and_from_where():
    """One that was made, one that could not be, one that was not permitted; reading is no deed."""

    async def scene(house):
        await house.ask("engineer", "PUT", f"{API}/retention", json={"keep_last": 3}, remote="192.0.2.1")
        await house.ask("engineer", "DELETE", STAGE, remote="192.0.2.1")
        await house.ask("viewer", "DELETE", STAGE, remote="192.0.2.2")
        await house.ask("viewer", "GET", f"{API}/stages", remote="192.0.2.2")
        return await audited(house.gateway)

    made, failed, refused = in_house(scene)
    assert told(made) == ("retention.set", "engineer-person", "192.0.2.1", "retention", "done")
    assert made.details["operation"] == "setRetention" and made.details["status"] == "200"
    assert told(failed) == ("model.promote", "engineer-person", "192.0.2.1", "stages/nothing", "refused")
    assert failed.details["status"] == "404"
    assert told(refused) == ("model.promote", "viewer-person", "192.0.2.2", "stages/nothing", "refused")
    assert "lacks the permission model.promote" in refused.reason and refused.details["status"] == "403"


def test_signing_in_and_out_are_deeds_and_so_is_failing_to():
    """By token, by link, with a wrong secret (under the id of the token that was tried), with nothing."""

    async def scene(house):
        page = await house.sign_in("admin", remote="192.0.2.1")
        await page.ask("POST", f"{API}/logout", remote="192.0.2.1")
        wrong = house.tokens["admin"][:-4] + "AAAA"
        await house.ask(None, "POST", f"{API}/login", json={"token": wrong}, remote="192.0.2.6")
        await house.ask(None, "POST", f"{API}/login", json={"token": "nonsense"}, remote="192.0.2.7")
        await house.ask(None, "DELETE", STAGE, remote="192.0.2.8")
        return house.ids["admin"], await audited(house.gateway)

    id_, deeds = in_house(scene)
    assert [told(one) for one in deeds] == [
        ("login", "admin-person", "192.0.2.1", "login", "done"),
        ("logout", "admin-person", "192.0.2.1", "logout", "done"),
        ("login", f"token/{id_}", "192.0.2.6", "login", "refused"),
        ("login", "anonymous", "192.0.2.7", "login", "refused"),
        ("model.promote", "anonymous", "192.0.2.8", "stages/nothing", "refused"),
    ]


def test_no_secret_and_no_cookie_stands_in_the_audit():
    """Neither of who is let in nor of who is not, nor one in an address."""

    async def scene(house):
        link = await login_link(house.members, "http://x", person="local", by="test")
        token = link.partition("#/login/")[2]
        page = await house.sign_in("admin")
        await house.ask(None, "POST", f"{API}/login", json={"token": token})
        await house.ask(None, "POST", f"{API}/login", json={"token": token})
        await house.ask(None, "POST", f"{API}/login", json={"token": f"{token}x"})
        await page.ask("DELETE", STAGE)
        secrets = [text.split("_", 2)[2] for text in (*house.tokens.values(), token)]
        return [*secrets, page.cookie.partition("=")[2], page.csrf], await audited(house.gateway)

    secrets, deeds = in_house(scene)
    text = "".join(one.model_dump_json() for one in deeds)
    assert len(deeds) == 5 and not [secret for secret in secrets if secret in text]


def test_whoever_repeats_a_refusal_does_not_fill_the_audit():
    """One a minute for each address and kind, which says how many there were before; changes are all written down."""

    async def scene(house):
        for _ in range(50):
            await house.ask(None, "GET", f"{API}/sessions", remote="192.0.2.9")
            await house.ask(None, "GET", f"{API}/models", remote="192.0.2.9")
        await asyncio.sleep(60)
        await house.ask(None, "GET", f"{API}/sessions", remote="192.0.2.9")
        for _ in range(3):
            await house.ask("engineer", "DELETE", STAGE)
        return await audited(house.gateway)

    deeds = in_house(scene)
    assert [one.by for one in deeds] == ["anonymous"] * 2 + ["engineer-person"] * 3
    assert "others" not in deeds[0].details and deeds[1].details["others"] == "99"


def test_whoever_only_looks_does_not_fill_the_audit_by_signing_in_and_out():
    """What is right is a deed each time, and therefore not done without end; of another nobody waits for it."""

    async def scene():
        async with secured_in(House()) as house:
            login = {"json": {"token": house.tokens["viewer"]}}
            signed_in = [(await house.ask(None, "POST", f"{API}/login", **login)).status for _ in range(200)]
            signed_out = [(await house.ask("data-owner", "POST", f"{API}/logout")).status for _ in range(200)]
            other = await house.ask(None, "POST", f"{API}/login", json={"token": house.tokens["engineer"]})
            return signed_in, signed_out, other.status, len([one async for one in house.gateway.audit.read()])

    signed_in, signed_out, other, deeds = run_virtual(scene())
    for statuses in (signed_in, signed_out):
        assert statuses[:30] == [200] * 30 and set(statuses[-100:]) == {429}
    assert other == 200
    assert deeds < 80


def test_whoever_is_turned_away_at_the_door_is_written_down():
    """A page of another origin: it is not looked at what it wants, and it stands in the audit all the same."""

    async def scene(house):
        for _ in range(3):
            await house.ask("admin", "DELETE", STAGE, headers={"Origin": "https://evil.example"}, remote="192.0.2.5")
        return await audited(house.gateway)

    (deed,) = in_house(scene)
    assert told(deed) == ("request", "anonymous", "192.0.2.5", STAGE, "refused") and "evil.example" in deed.reason


def test_whoever_goes_away_in_the_middle_of_a_change_is_written_down():
    """It may have been done: a line that breaks must not hide it."""

    async def scene(house):
        removing = asyncio.ensure_future(house.ask("engineer", "DELETE", STAGE))
        await asyncio.sleep(0)
        removing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await removing
        return await audited(house.gateway)

    (deed,) = in_house(scene)
    assert told(deed)[:2] == ("model.promote", "engineer-person") and deed.result == "failed"
    assert "went away" in deed.reason


def test_taking_a_model_away_is_a_deed():
    """It changes nothing, and cannot be taken back."""

    async def scene(house):
        await house.ask("engineer", "GET", f"{API}/models/nothing/content")
        await house.ask("viewer", "GET", f"{API}/models/nothing/content")
        return await audited(house.gateway)

    assert [(one.action, one.by, one.result) for one in in_house(scene)] == [
        ("model.download", "engineer-person", "refused"),
        ("model.download", "viewer-person", "refused"),
    ]


def test_each_model_that_is_taken_away_is_a_deed_however_fast():
    """Once a minute for each model, in however many parts it is taken: one hides no other."""

    async def scene(house):
        header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        file = len(header).to_bytes(8, "little") + header + bytes(4)
        for name in ("am", "bm"):
            brought = await house.ask("engineer", "POST", f"{API}/models?version={name}", body=file, headers=OCTETS)
            assert brought.status == 201, brought.body
        for name in ("am", "bm", "am", "bm"):
            assert (await house.ask("engineer", "GET", f"{API}/models/{name}/content")).status == 200
        return await audited(house.gateway)

    found = [(one.target, one.result) for one in in_house(scene) if one.action == "model.download"]
    assert found == [("models/am/content", "done"), ("models/bm/content", "done")]


def test_an_open_gateway_writes_down_what_is_done_as_its_own():
    """Nobody was asked who she is; from where it came is known all the same."""

    async def scene():
        async with gateway_in(House()) as gateway:
            await ask(gateway, "PUT", f"{API}/retention", json={"keep_last": 2}, remote="192.0.2.1")
            return await audited(gateway)

    (deed,) = run_virtual(scene())
    assert told(deed) == ("retention.set", "gateway/gw", "192.0.2.1", "retention", "done")


def test_an_answer_does_not_wait_for_an_audit_that_stands_still(monkeypatch):
    """Longer than some seconds: what was done is done, and is written when the bus is back."""

    async def scene(house):
        async def stuck(*_, **__):
            await asyncio.sleep(3600)

        monkeypatch.setattr(Audit, "write", stuck)
        began = asyncio.get_running_loop().time()
        answer = await house.ask("engineer", "PUT", f"{API}/retention", json={"keep_last": 3})
        return answer.status, asyncio.get_running_loop().time() - began

    status, took = in_house(scene)
    assert status == 200 and took < 6


def test_the_journal_and_the_registry_name_the_person():
    """A session that somebody stops, and a stage that she clears, say who she is; not only which gateway."""

    async def scene():
        house = House()
        house.coordinator()
        async with secured_in(house) as found, house.federation() as federation:
            config = SessionConfig(rounds=2, clients_min=1)
            session = await federation.start_session(config, model={"w": np.zeros(3, np.float32)}, name="one")
            await asyncio.sleep(3)
            stopped = await found.ask("engineer", "POST", f"{API}/sessions/one/stop", json={"reason": "enough"})
            await found.ask("engineer", "PUT", f"{API}/retention", json={"keep_last": 4})
            return stopped, (await session.info()).reason, await federation.registry.history()

    stopped, reason, history = run_virtual(scene())
    assert stopped.status == 200 and "enough (engineer-person)" in reason
    assert history[-1].by == "engineer-person"


def test_only_gateways_are_believed_for_whom_they_ask():
    """An engineer who sends a command in the name of another is written down as herself."""
    stop = StopSession(session="s", by="ana@x")
    assert author_of(Peer("gateway", "g"), stop) == "ana@x"
    assert author_of(Peer("gateway", "g"), StopSession(session="s")) == "gateway/g"
    assert author_of(Peer("engineer", "eve"), stop) == "eve"
    assert author_of(Peer("client", "site-1"), stop) == "client/site-1"
