"""Who may take part, over REST: tokens, members, people, bounds, audit, roles; and that no secret is told twice."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from asker import ask, gateway_in
from securing import URLS, secured
from whole_house import House

from fedbus.access.actions import PERMITTED, Action
from fedbus.access.chain import verify_lines
from fedbus.access.tokens import JoinToken, read_api_token
from fedbus.client.app import ClientApp, Update
from fedbus.gateway.table import OPERATIONS
from fedbus.messages.ids import Peer
from fedbus.testing.loop import run_virtual


def in_secured(test):
    """Run a test in a secured workspace, in virtual time; it gets the gateway and the house."""

    def run(tmp_path):
        async def main():
            house = House()
            async with secured(house, tmp_path) as place:
                await test(place, house)

        run_virtual(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def app():
    """What a client does that is only looked at."""
    found = ClientApp()
    found.train(lambda model, task: Update(model, weight=1))
    return found


@pytest.mark.parametrize("target", ["tokens", "members", "members/client/a", "people", "people/ana", "workspace"])
def test_an_open_workspace_says_how_it_is_secured(target):
    """There is nobody to let in where everybody may do everything: 409, with what to do about it."""

    async def main():
        async with gateway_in(House()) as gateway:
            answer = await ask(gateway, "GET", f"/api/v1/{target}")
            assert (answer.status, answer.json["state"]) == (409, "open")
            assert "--open" in answer.json["detail"] and "--keys" in answer.json["detail"]

    run_virtual(main())


@in_secured
async def test_a_join_token_is_told_once(place, house):
    """Its text says where to join and is in no other answer; its list entry has all but the secret."""
    wanted = {"role": "client", "expires_s": 600, "uses_max": 3, "approval": "ask", "owner": ""}
    made = await place.ask("POST", "/tokens", json=wanted)
    assert made.status == 201 and made.headers["Cache-Control"] == "no-store"
    assert made.headers["Location"] == f"/api/v1/tokens/{made.json['token']}"
    told = JoinToken.read(made.json["text"])
    assert (told.id, told.urls, told.role, told.workspace) == (made.json["token"], URLS, "client", "default")
    assert told.jwt.count(".") == 2 and made.json["command"] == f"fedbus join {made.json['text']}"
    listed = await place.ask("GET", "/tokens?what=join")
    (found,) = listed.json["items"]
    assert found.items() <= made.json.items() and set(made.json) - set(found) == {"text", "command"}
    assert (found["status"], found["uses_max"], found["approval"], found["by"]) == ("open", 3, "ask", "admin")
    assert found["expires_at"] == pytest.approx(found["at"] + 600)
    everything = [await place.ask("GET", f"/{one}") for one in ("tokens", "members", "people", "audit", "workspace")]
    assert all(answer.status == 200 and told.secret.encode() not in answer.body for answer in everything)


@in_secured
async def test_a_repeat_makes_another_token(place, house):
    """What was told is kept nowhere: under the same `Idempotency-Key` the answer is another token, as is documented."""
    key = {"Idempotency-Key": "k-1"}
    one, other = [await place.ask("POST", "/tokens", json={}, headers=key) for _ in range(2)]
    assert one.status == other.status == 201
    assert one.json["token"] != other.json["token"] and one.json["text"] != other.json["text"]
    (operation,) = [found for found in OPERATIONS if found.id == "createToken"]
    assert not operation.idempotent and "repeat makes another" in operation.handler.__doc__


@in_secured
async def test_tokens_are_revoked_filtered_and_paged(place, house):
    """Newest first; who is revoked says why and stays revoked; one that does not exist is a 404."""
    made = []
    for role in ("client", "combiner", "client"):
        made.append((await place.ask("POST", "/tokens", json={"role": role})).json["token"])
        await asyncio.sleep(1)
    gone = await place.ask("DELETE", f"/tokens/{made[0]}?reason=sent+to+the+wrong+one")
    assert (gone.status, gone.json["status"], gone.json["reason"]) == (200, "revoked", "sent to the wrong one")
    assert (await place.ask("DELETE", f"/tokens/{made[0]}")).json["reason"] == "sent to the wrong one"
    assert (await place.ask("DELETE", "/tokens/none")).status == 404
    joining = (await place.ask("GET", "/tokens?what=join")).json
    assert [one["token"] for one in joining["items"]] == made[::-1] and joining["total"] == 3
    assert [one["token"] for one in (await place.ask("GET", "/tokens?status=revoked")).json["items"]] == made[:1]
    assert [one["token"] for one in (await place.ask("GET", "/tokens?text=COMB")).json["items"]] == made[1:2]
    seen, target = [], "/tokens?what=join&limit=2"
    while target:
        page = (await place.ask("GET", target)).json
        seen += [one["token"] for one in page["items"]]
        target = page["next"] and f"/tokens?what=join&limit=2&cursor={page['next']}"
    assert seen == made[::-1]


@in_secured
async def test_a_persons_token_lets_that_person_in(place, house):
    """A bearer acts as the person whose it is; one for signing in once is none; whoever is not known gets none."""
    await place.ask("POST", "/people", json={"person": "ana@hospital.example", "roles": ["engineer", "auditor"]})
    wanted = {"what": "api", "role": "auditor", "name": "ana@hospital.example", "uses_max": 0, "expires_s": 0}
    made = (await place.ask("POST", "/tokens", json=wanted)).json
    assert read_api_token(made["text"]) and made["command"] == "" and made["name"] == "ana@hospital.example"
    place.texts["ana"] = made["text"]
    assert (await place.ask("GET", "/audit", by="ana")).status == 200
    refused = await place.ask("POST", "/tokens", json={}, by="ana")
    assert (refused.status, refused.json["permission"]) == (403, "token.create")
    place.texts["once"] = (await place.ask("POST", "/tokens", json=wanted | {"uses_max": 1})).json["text"]
    assert (await place.ask("GET", "/audit", by="once")).status == 401
    for field, value in (("name", "nobody"), ("role", "client"), ("uses_max", 2)):
        wrong = await place.ask("POST", "/tokens", json=wanted | {field: value})
        assert (wrong.status, wrong.json["errors"][0]["where"]) == (422, f"body.{field}")


@in_secured
async def test_members_are_listed_and_decided_about(place, house):
    """Who waits is let in, shut out, let in again and expelled, each by whom and why; what cannot be is a conflict."""
    member = await place.join("site-1", attributes={"region": "eu"}, owner="ana")
    await place.join("site-2", state="active")
    await place.join("k0", role="combiner", state="active")
    listed = (await place.ask("GET", "/members?limit=2")).json
    assert [one["member"] for one in listed["items"]] == ["site-1", "site-2"] and listed["total"] == 3
    rest = (await place.ask("GET", f"/members?cursor={listed['next']}")).json
    assert [(one["role"], one["member"]) for one in rest["items"]] == [("combiner", "k0")]
    waiting = (await place.ask("GET", "/members?state=waiting&role=client&text=ANA")).json["items"]
    assert [(one["member"], one["key"], one["attributes"]) for one in waiting] == [
        ("site-1", member.key, {"region": "eu"})
    ]
    steps = [("approve", "active"), ("suspend", "suspended"), ("resume", "active"), ("expel", "expelled")]
    for deed, state in steps:
        done = await place.ask("POST", f"/members/client/site-1/{deed}", json={"reason": f"to {deed}"})
        assert (done.status, done.json["state"], done.json["reason"], done.json["by"]) == (
            200, state, f"to {deed}", "admin",
        )  # fmt: skip
        await asyncio.sleep(1)
        told = (await place.ask("GET", "/members/client/site-1")).json
        assert (told["state"], told["online"]) == (state, False)
    again = await place.ask("POST", "/members/client/site-1/approve")
    assert (again.status, again.json["state"]) == (409, "expelled")
    assert (await place.ask("POST", "/members/client/nobody/expel")).status == 404
    assert (await place.ask("GET", "/members/fish/site-1")).status == 404


@in_secured
async def test_a_gateway_does_not_shut_itself_out(place, house):
    """Nobody would hear what came of it: 409, and it stays."""
    await place.join("gw", role="gateway", state="active")
    for deed in ("suspend", "expel"):
        assert (await place.ask("POST", f"/members/gateway/gw/{deed}")).status == 409
    assert place.gateway.members.get(Peer("gateway", "gw")).state == "active"


@in_secured
async def test_who_is_there_is_shown(place, house):
    """A member that says it lives is online, with what it does; one that is suspended is not, whatever was heard."""
    house.coordinator()
    await place.join("co", role="coordinator", state="active")
    await asyncio.sleep(5)
    told = (await place.ask("GET", "/members/coordinator/co")).json
    assert told["online"] and told["seen_at"]
    await place.ask("POST", "/members/coordinator/co/suspend")
    assert not (await place.ask("GET", "/members/coordinator/co")).json["online"]


@in_secured
async def test_a_client_that_was_shut_out_is_there_no_more(place, house):
    """At once: a coordinator misses it only after some heartbeats, who suspends it looks at once."""
    house.coordinator()
    house.client("site-1", app())
    await place.join("site-1", state="active")
    await asyncio.sleep(5)
    assert (await place.ask("GET", "/clients/site-1")).json["online"]
    await place.ask("POST", "/members/client/site-1/suspend")
    assert (await place.ask("GET", "/clients?online=true")).json["items"] == []
    assert (await place.ask("GET", "/clients/site-1")).status == 404
    await place.ask("POST", "/members/client/site-1/resume")
    assert (await place.ask("GET", "/clients/site-1")).json["online"]


@in_secured
async def test_people_are_added_changed_and_removed(place, house):
    """Roles in their order, a conflict for a name twice, nothing left out of a change is changed, gone is gone."""
    wanted = {"person": "ana@hospital.example", "roles": ["auditor", "engineer"], "subjects": ["https://id.example#7"]}
    made = await place.ask("POST", "/people", json=wanted)
    assert made.status == 201 and made.headers["Location"] == "/api/v1/people/ana@hospital.example"
    assert (made.json["roles"], made.json["by"]) == (["engineer", "auditor"], "admin")
    assert (await place.ask("POST", "/people", json=wanted)).status == 409
    assert (await place.ask("POST", "/people", json=wanted | {"person": "gateway/gw"})).status == 422
    of = "/people/ana%40hospital.example"
    changed = (await place.ask("PATCH", of, json={"state": "suspended"})).json
    assert (changed["state"], changed["roles"], changed["subjects"]) == (
        "suspended", ["engineer", "auditor"], wanted["subjects"],
    )  # fmt: skip
    assert (await place.ask("PATCH", of, json={"roles": []})).status == 422
    assert (await place.ask("PATCH", of, json={"roles": ["viewer"], "state": "active"})).json["roles"] == ["viewer"]
    named = [one["person"] for one in (await place.ask("GET", "/people?role=viewer")).json["items"]]
    assert named == ["ana@hospital.example"]
    assert (await place.ask("GET", of)).json == (await place.ask("DELETE", of)).json
    assert (await place.ask("GET", of)).status == (await place.ask("DELETE", of)).status == 404


@in_secured
async def test_a_workspace_has_bounds_and_says_what_it_uses(place, house):
    """What is set is told with who did it, beside what is used; what cannot be is refused by field."""
    await place.join("site-1", state="active")
    await place.join("site-2")
    given = {"clients_max": 5, "sessions_max": 2, "bytes_max": 10**9, "approval": "ask"}
    told = (await place.ask("PUT", "/workspace", json=given)).json
    assert given.items() <= told.items() and told["by"] == "admin" and told["workspace"] == "default"
    assert told["usage"]["clients"] == 1 and told["usage"]["sessions"] == 0
    assert told["members"] == {"active": 1, "waiting": 1}
    assert (await place.ask("GET", "/workspace")).json == told
    wrong = await place.ask("PUT", "/workspace", json={"clients_max": -1})
    assert (wrong.status, wrong.json["errors"][0]["where"]) == (422, "body.clients_max")


@in_secured
async def test_the_audit_is_read_filtered_exported_and_verified(place, house):
    """Deeds over REST stand there with who did them; the file verifies by itself, and the chain holds."""
    await place.join("site-1", state="active")
    await place.ask("POST", "/members/client/site-1/suspend", json={"reason": "noisy"})
    await place.ask("POST", "/members/client/site-1/suspend")
    await place.ask("PUT", "/workspace", json={}, by="viewer")
    await asyncio.sleep(1)
    done = (await place.ask("GET", "/audit?action=member&by=admin")).json["items"]
    assert [(one["action"], one["result"]) for one in done] == [
        ("member.suspend", "refused"), ("member.suspend", "done"),
    ]  # fmt: skip
    assert all("site-1" in one["target"] and one["origin"] == "127.0.0.1" for one in done)
    assert done[1]["reason"] == "noisy" and "suspended" in done[0]["reason"]
    refused = (await place.ask("GET", "/audit?result=refused&by=viewer")).json["items"]
    assert [one["action"] for one in refused] == ["workspace.set"]
    assert (await place.ask("GET", "/audit?action=member.approve")).json["items"] == []
    seen, cursor = [], ""
    while cursor is not None:
        page = (await place.ask("GET", f"/audit?limit=1{cursor and '&cursor='}{cursor}")).json
        seen += [one["number"] for one in page["items"]]
        cursor = page["next"]
    assert seen == sorted(seen, reverse=True) and len(seen) >= 3 and seen[-1] == 1
    file = await place.ask("GET", "/audit?format=jsonl")
    assert "attachment" in file.headers["Content-Disposition"] and file.headers["Cache-Control"] == "no-store"
    verified = verify_lines(file.body.decode().splitlines())
    assert verified.is_whole and verified.count >= 3
    told = (await place.ask("GET", f"/audit/verification?head={verified.head}")).json
    assert told["whole"] and told["pinned_at"] == verified.sequence and told["faults"] == []
    assert not (await place.ask("GET", f"/audit/verification?head={'0' * 64}")).json["whole"]


def test_the_roles_are_those_of_the_one_table():
    """Each role with its actions, each action with the operations that need it: all operations but the open ones."""

    async def main():
        async with gateway_in(House()) as gateway:
            return (await ask(gateway, "GET", "/api/v1/roles")).json

    told = run_virtual(main())
    assert {one["role"]: set(one["actions"]) for one in told["roles"]} == {
        role: {action.value for action in actions} for role, actions in PERMITTED.items()
    }
    needed = {name for one in told["actions"] for name in one["operations"]}
    assert needed == {one.id for one in OPERATIONS if one.needs is not None}
    assert {one["action"] for one in told["actions"]} == {action.value for action in Action}


@in_secured
async def test_no_secret_is_logged(place, house):
    """Whatever is asked, and however it fails: the texts of tokens stand in no line of the log."""
    capture = logging.getLogger("fedbus")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    capture.addHandler(handler)
    level, _ = capture.level, capture.setLevel(logging.DEBUG)
    try:
        made = (await place.ask("POST", "/tokens", json={"role": "client"})).json
        await place.ask("GET", "/tokens")
        await place.ask("DELETE", f"/tokens/{made['token']}")
        await asyncio.sleep(1)
    finally:
        capture.setLevel(level)
        capture.removeHandler(handler)
    text = json.dumps(lines)
    secrets = [JoinToken.read(made["text"]).secret, made["text"], *place.texts.values()]
    assert lines and not any(secret in text for secret in secrets)
