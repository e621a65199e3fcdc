"""Sessions over REST: listed, started once, told, stopped, cloned, compared, exported; and their clients and events."""

from __future__ import annotations

import asyncio

import numpy as np
from asker import ask, gateway_in
from whole_house import House

from fedbus.client.app import ClientApp, Evaluation, Update
from fedbus.config.session import SessionConfig
from fedbus.gateway import folded
from fedbus.gateway.routes import events
from fedbus.gateway.routes.rounds import report_of
from fedbus.testing.loop import run_virtual

API = "/api/v1"
MODEL = {"w": np.zeros(3, np.float32)}


def app_of(shift, pause_s=0.5):
    """An app that takes its time."""
    app = ClientApp()

    @app.train
    async def train(model, task):
        await asyncio.sleep(pause_s)
        return Update({"w": model["w"] + np.float32(shift)}, weight=1.0, metrics={"loss": shift})

    @app.evaluate
    def evaluate(model, task):
        return Evaluation(weight=1.0, metrics={"first": float(model["w"][0])})

    return app


def scene(test, *, finished=("one",), clients=("a", "b")):
    """Run a test with a whole federation, a gateway and some sessions of two rounds that have ended."""

    async def main():
        house = House()
        house.coordinator()
        house.combiner()
        async with gateway_in(house) as gateway, house.federation() as federation:
            for number, name in enumerate(clients, 1):
                house.client(name, app_of(float(number)), site=name)
            for name in finished:
                config = SessionConfig(rounds=2, clients_min=len(clients))
                await (await federation.start_session(config, model=MODEL, name=name)).wait()
            await asyncio.sleep(3)
            await test(gateway, federation)
        house.check()

    run_virtual(main())


async def get(gateway, path):
    """What stands there."""
    answer = await ask(gateway, "GET", f"{API}{path}")
    assert answer.status == 200, answer.body
    return answer.json


async def pages_of(gateway, path, limit):
    """All items of a list, page by page."""
    items, cursor = [], ""
    while True:
        page = await get(gateway, f"{path}{'&' if '?' in path else '?'}limit={limit}{cursor}")
        items += page["items"]
        assert len(page["items"]) <= limit
        if page["next"] is None:
            return items, page["total"]
        cursor = f"&cursor={page['next']}"


def test_a_session_is_told_whole():
    """Its settings, its rounds with their clients, its curves and evaluations agree with what clients did."""

    async def test(gateway, federation):
        detail = await get(gateway, "/sessions/one")
        assert (detail["status"], detail["rounds_closed"], detail["config"]["clients_min"]) == ("completed", 2, 2)
        assert detail["metrics"] == {"first": 3.0} and detail["left_s"] is None and detail["sequence"] > 0
        rounds = (await get(gateway, "/sessions/one/rounds"))["items"]
        assert [(one["round"], one["state"], one["counted"], one["asked"]) for one in rounds] == [
            (1, "closed", 2, 2), (2, "closed", 2, 2),
        ]  # fmt: skip
        newest = await get(gateway, "/sessions/one/rounds/newest")
        assert newest == await get(gateway, "/sessions/one/rounds/2")
        assert {one["client"]: (one["outcome"], one["metrics"]) for one in newest["clients"]} == {
            "a": ("counted", {"loss": 1.0}), "b": ("counted", {"loss": 2.0}),
        }  # fmt: skip
        assert all(one["train_s"] >= 0.5 for one in newest["clients"])
        assert {key: newest[key] for key in rounds[1]} == rounds[1], "a round is the same in the list and by itself"
        curves = (await get(gateway, "/sessions/one/curves"))["items"]
        assert [(one["of"], one["metric"], one["values"]) for one in curves] == [
            ("evaluate", "first", [1.5, 3.0]), ("train", "loss", [1.5, 1.5]),
        ]  # fmt: skip
        evaluations, total = await pages_of(gateway, "/sessions/one/evaluations", 1)
        assert [(one["round"], one["metrics"], one["answered"]) for one in evaluations] == [
            (1, {"first": 1.5}, 2), (2, {"first": 3.0}, 2),
        ]  # fmt: skip
        assert total == 2
        for path in (
            "/sessions/no",
            "/sessions/one/rounds/3",
            "/sessions/no/rounds",
            "/sessions/no/events",
            "/clients/no",
        ):
            assert (await ask(gateway, "GET", f"{API}{path}")).status == 404, path

    scene(test)


def test_a_round_is_the_same_read_by_its_place_as_from_the_whole_journal(monkeypatch):
    """Of sessions whose rounds are at hand and of those that are not; as Python's report of the round has it."""

    async def test(gateway, federation):
        for round_ in (1, 2):
            by_place = await get(gateway, f"/sessions/one/rounds/{round_}")
            report = await federation.session("one").report(round_)
            assert (by_place["why"], by_place["opened_at"], by_place["closed_at"]) == (
                report.why, report.opened_at, report.ended_at,
            )  # fmt: skip
            assert [one["client"] for one in by_place["clients"]] == [one.client for one in report.clients]
        assert gateway.sessions.folded.info("one") is None, "no rounds of it are at hand"

    monkeypatch.setattr(folded, "ROUNDS_MAX", 0)
    monkeypatch.setattr(folded.Books.__init__, "__kwdefaults__", {"rounds_max": 0})
    scene(test)


def test_sessions_are_listed_by_filters_and_pages():
    """Newest first, or oldest; by status, strategy and text; pages have each once, and the count of all."""

    async def test(gateway, federation):
        names = ["one", "two", "three", "four"]
        for limit in (1, 3, 10):
            found, total = await pages_of(gateway, "/sessions?order=oldest", limit)
            assert ([one["session"] for one in found], total) == (names, 4)
            found, _ = await pages_of(gateway, "/sessions", limit)
            assert [one["session"] for one in found] == names[::-1]
        assert [one["session"] for one in (await get(gateway, "/sessions?text=T"))["items"]] == ["three", "two"]
        assert (await get(gateway, "/sessions?status=running"))["total"] == 0
        assert (await get(gateway, "/sessions?status=completed&strategy=fedavg"))["total"] == 4
        assert (await get(gateway, "/sessions?strategy=fedadam"))["total"] == 0
        answer = await ask(gateway, "GET", f"{API}/sessions?cursor=abc")
        assert answer.status == 404, "no page of this list"

    scene(test, finished=("one", "two", "three", "four"), clients=("a",))


def test_a_session_is_started_once_under_its_key():
    """The repeat of a request finds what the first has started; another body under the key is refused."""

    async def test(gateway, federation):
        body = {"model": "one-2", "config": {"rounds": 2, "clients_min": 2}}
        key = {"Idempotency-Key": "k1"}
        first = await ask(gateway, "POST", f"{API}/sessions", json=body, headers=key)
        again = await ask(gateway, "POST", f"{API}/sessions", json=body, headers=key)
        assert (first.status, again.status) == (201, 201)
        assert first.json["session"] == again.json["session"] and first.json["base"] == "one-2"
        assert first.json["by"] == "gateway/gw" and (await get(gateway, "/sessions/one"))["by"] == "eve"
        assert first.headers["Location"] == f"{API}/sessions/{first.json['session']}"
        other = await ask(gateway, "POST", f"{API}/sessions", json={**body, "model": "one-1"}, headers=key)
        changed = await ask(gateway, "POST", f"{API}/sessions", json={"model": "one-2"}, headers=key)
        assert (other.status, changed.status) == (422, 422)
        assert (await get(gateway, f"/sessions/{first.json['session']}"))["rounds"] == 2, "it is found at once"
        named = await ask(gateway, "POST", f"{API}/sessions", json={**body, "session": "mine"})
        twice = await ask(gateway, "POST", f"{API}/sessions", json={**body, "session": "mine"})
        assert (named.status, twice.status, twice.json["state"]) == (201, 409, "running")
        gone = await ask(gateway, "POST", f"{API}/sessions", json={**body, "model": "none-1"})
        assert gone.status == 404
        wrong = await ask(gateway, "POST", f"{API}/sessions", json={"model": "one-2", "config": {"rounds": -1}})
        assert (wrong.status, wrong.json["errors"][0]["where"]) == (422, "body.config.rounds")
        adam = {"strategy": "fedadam", "strategy_options": {"server_learning_rate": -1}}
        wrong = await ask(gateway, "POST", f"{API}/sessions", json={"model": "one-2", "config": adam})
        where = "body.config.strategy_options.server_learning_rate"
        assert (wrong.status, wrong.json["errors"][0]["where"], wrong.json["errors"][0]["got"]) == (422, where, "-1")
        assert len(await federation.sessions()) == 3, "what was refused has started nothing"

    scene(test)


def test_a_session_is_stopped_and_only_while_it_runs():
    """It has ended when the answer comes; a second time it is a conflict that says how it stands."""

    async def test(gateway, federation):
        started = await federation.start_session(SessionConfig(rounds=1000, clients_min=2), model=MODEL, name="long")
        await asyncio.sleep(1)
        assert (await get(gateway, "/sessions/long"))["status"] == "running"
        answer = await ask(gateway, "POST", f"{API}/sessions/long/stop", json={"reason": "enough"})
        assert (answer.status, answer.json["status"]) == (200, "stopped")
        assert answer.json["reason"] == "enough (gateway/gw)" and (await started.info()).ended
        again = await ask(gateway, "POST", f"{API}/sessions/long/stop")
        assert (again.status, again.json["state"]) == (409, "stopped")
        assert (await ask(gateway, "POST", f"{API}/sessions/no/stop")).status == 404

    scene(test)


def test_a_clone_differs_as_it_is_told_and_is_made_once():
    """From the version that its session began with, or another one; compared with it, they differ in that setting."""

    async def test(gateway, federation):
        path = f"{API}/sessions/one/clone"
        key = {"Idempotency-Key": "k"}
        first = await ask(gateway, "POST", path, json={"config": {"rounds": 1}, "session": "clone"}, headers=key)
        again = await ask(gateway, "POST", path, json={"config": {"rounds": 1}, "session": "clone"}, headers=key)
        assert (first.status, again.status, first.json["base"], first.json["rounds"]) == (201, 201, "one-0", 1)
        other = await ask(gateway, "POST", path, json={"model": "one-2", "session": "from-two"})
        assert (other.status, other.json["base"]) == (201, "one-2")
        wrong = await ask(gateway, "POST", path, json={"config": {"rounds": -1}})
        assert (wrong.status, wrong.json["errors"][0]["where"]) == (422, "body.config.rounds")
        assert (await ask(gateway, "POST", f"{API}/sessions/no/clone", json={})).status == 404
        await federation.session("clone").wait()
        await asyncio.sleep(1)
        found = await get(gateway, "/compare?session=one&session=clone")
        assert found["settings"] == [{"setting": "rounds", "values": [2, 1]}]
        assert [one["session"] for one in found["sessions"]] == ["one", "clone"]
        assert {(one["session"], one["metric"]) for one in found["curves"]} == {
            (name, metric) for name in ("one", "clone") for metric in ("loss", "first")
        }
        for query in ("session=one", "session=one&session=one"):
            assert (await ask(gateway, "GET", f"{API}/compare?{query}")).status == 422
        assert (await ask(gateway, "GET", f"{API}/compare?session=one&session=no")).status == 404

    scene(test)


def test_events_are_found_by_filters_in_both_directions():
    """Whatever the size of a page: each once; a text is looked for in the records themselves."""

    async def test(gateway, federation):
        whole = [event.id async for event in federation.events()]
        for limit in (3, 100):
            found, total = await pages_of(gateway, "/events", limit)
            assert ([one["id"] for one in found], total) == (whole, len(whole))
            found, _ = await pages_of(gateway, "/events?order=newest", limit)
            assert [one["id"] for one in found] == whole[::-1]
        closed, total = await pages_of(gateway, "/events?kind=RoundClosed&kind=SessionEnded", 2)
        assert [one["kind"] for one in closed] == ["RoundClosed", "RoundClosed", "SessionEnded"] * 2 and total == 6
        of_two, _ = await pages_of(gateway, "/events?session=two&kind=ModelPublished", 10)
        assert [one["data"]["version"] for one in of_two] == ["two-1", "two-2"]
        same, _ = await pages_of(gateway, "/sessions/two/events?kind=ModelPublished", 1)
        assert same == of_two
        since, _ = await pages_of(gateway, f"/events?since={of_two[1]['at']}", 10)
        assert since and all(one["at"] >= of_two[1]["at"] for one in since)
        for limit in (1, 10):
            found, _ = await pages_of(gateway, "/events?text=ROUNDS%20done", limit)
            assert [(one["session"], one["kind"]) for one in found] == [
                ("one", "SessionEnded"),
                ("two", "SessionEnded"),
            ]
        assert (await get(gateway, "/events?session=no"))["items"] == []
        assert (await ask(gateway, "GET", f"{API}/events?kind=Nothing")).status == 422

    scene(test, finished=("one", "two"))


def test_a_report_read_in_part_is_that_of_the_whole_journal():
    """Of each round, also the first, which may stand in the entry that begins the session."""

    async def test(gateway, federation):
        session = federation.session("one")
        info = await session.info()
        for number in (1, 2):
            assert await report_of(gateway, info, number) == await session.report(number)

    scene(test)


def test_a_stream_of_some_kinds_of_a_session_ends_with_it():
    """Whoever asks for rounds only is told as well that nothing follows."""

    async def test(gateway, federation):
        headers = {"Accept": "text/event-stream"}
        async with asyncio.timeout(10):
            path = f"{API}/sessions/one/events?kind=RoundClosed&from=beginning"
            told = (await ask(gateway, "GET", path, headers=headers)).body.decode()
        assert [line for line in told.splitlines() if line.startswith("event: ")] == [
            "event: RoundClosed", "event: RoundClosed", "event: end",
        ]  # fmt: skip
        last = [line for line in told.splitlines() if line.startswith("id: ")][-1].removeprefix("id: ")
        assert (await ask(gateway, "GET", path, headers={**headers, "Last-Event-ID": last})).status == 204

    scene(test)


def test_a_page_of_large_events_ends_earlier(monkeypatch):
    """Pages are bounded in bytes: one that is full has fewer events than asked for, and a `next`; none is missing."""
    monkeypatch.setattr(events, "PAGE_BYTES_MAX", 1)
    monkeypatch.setattr(events, "AT_ONCE", 2)

    async def test(gateway, federation):
        whole = [event.id async for event in federation.events()]
        assert len((await get(gateway, "/events?limit=100"))["items"]) == 2
        assert len((await get(gateway, "/events?limit=100&text=one"))["items"]) == 1
        for query in ("/events", "/events?text=one"):
            found, _ = await pages_of(gateway, query, 5)
            assert [one["id"] for one in found] == whole

    scene(test)


def test_clients_are_told_with_what_they_gave():
    """Those that are there, by attribute and text; sums over all sessions, and round by round."""

    async def test(gateway, federation):
        found, total = await pages_of(gateway, "/clients", 1)
        assert ([one["client"] for one in found], total) == (["a", "b"], 2)
        assert all(one["online"] and one["rounds_counted"] == 4 and one["sessions"] == 2 for one in found)
        one = await get(gateway, "/clients/a")
        assert [(item["session"], item["round"], item["outcome"]) for item in one["history"]] == [
            ("two", 2, "counted"), ("two", 1, "counted"), ("one", 2, "counted"), ("one", 1, "counted"),
        ]  # fmt: skip
        assert one["history"][0]["metrics"] == {"loss": 1.0} and one["attributes"] == {"site": "a"}
        known = await federation.client("a")
        assert (known.tally.bytes_up, known.tally.weight) == (one["bytes_up"], one["weight"])
        by = {query: (await get(gateway, f"/clients?{query}"))["total"] for query in (
            "attribute=site:b", "attribute=site:c", "text=A", "online=true", "online=false",
        )}  # fmt: skip
        assert by == {"attribute=site:b": 1, "attribute=site:c": 0, "text=A": 1, "online=true": 2, "online=false": 0}
        assert (await ask(gateway, "GET", f"{API}/clients?attribute=site")).status == 422
        overview = await get(gateway, "/overview")
        assert overview["sessions"] == {"completed": 2}

    scene(test, finished=("one", "two"))


def test_a_session_is_downloaded_as_python_exports_it():
    """JSON and each kind of CSV, with a name to be kept under."""

    async def test(gateway, federation):
        for query, how, name in (
            ("", (), "one.json"), ("?format=csv", ("csv", "rounds"), "one-rounds.csv"),
            ("?format=csv&what=clients", ("csv", "clients"), "one-clients.csv"),
            ("?format=csv&what=curves", ("csv", "curves"), "one-curves.csv"),
        ):  # fmt: skip
            answer = await ask(gateway, "GET", f"{API}/sessions/one/export{query}")
            expected = "".join([part async for part in federation.session("one").export(*how)])
            assert (answer.status, answer.body.decode()) == (200, expected)
            assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'
        assert (await ask(gateway, "GET", f"{API}/sessions/no/export")).status == 404

    scene(test)
