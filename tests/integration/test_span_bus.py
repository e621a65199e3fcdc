"""A round's trace without a collector: spans over the bus, shown by Python, REST and the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter

import aiohttp
import numpy as np
import pytest

import fedbus
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.cli.traces import waterfall
from fedbus.errors import NotFound
from fedbus.telemetry import Wanted, setup

CLIENTS = 3
MODEL = {"w": np.zeros((400, 1000), np.float32)}


def on_bus(role, name):
    """The telemetry of a role that puts its spans on the bus, and imports nothing else."""
    return setup(role, name, {}, Wanted(workspace="default", spans_on_bus=True)).telemetry


class Seen:
    """What a session left on the bus, as everybody shows it."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory, make_house, make_app):
    """A session of two rounds whose roles have spans on the bus; once for all that is asked of it."""

    async def session():
        found = Seen()
        async with (
            EmbeddedBroker(tmp_path_factory.mktemp("store")) as broker,
            contextlib.aclosing(make_house(broker.url)) as house,
        ):
            await house.coordinator("coordinator-1", traces=on_bus("coordinator", "coordinator-1"))
            for name in ("combiner-1", "combiner-2"):
                await house.combiner(name, traces=on_bus("combiner", name))
            await house.present(2, "combiners")
            await house.client("site-1", make_app(1), traces=on_bus("client", "site-1"))
            await house.crowd("many", make_app(2), CLIENTS - 1, traces=on_bus("client", "many"))
            await house.run(MODEL, name="s", rounds=2, clients_min=CLIENTS)
            url = await house.gateway()
            async with fedbus.connect(broker.url) as federation, aiohttp.ClientSession(url) as http:
                found.trace = await whole_trace(federation, "s")
                found.first = await federation.session("s").trace(1)
                async with http.get("/api/v1/sessions/s/rounds/newest/trace") as answer:
                    found.status, found.view = answer.status, await answer.json()
                async with http.get("/api/v1/sessions/s/rounds/7/trace") as answer:
                    found.missing = answer.status
                with pytest.raises(NotFound):
                    await federation.session("s").trace(7)
                found.printed = await printed(broker.url, "--json"), await printed(broker.url)
        return found

    return asyncio.run(session())


async def whole_trace(federation, name):
    """The newest round's trace, when all of it is there: each role's spans come some tenths of a second behind."""
    wanted = {"evaluate": CLIENTS, "upload": CLIENTS, "fold update": CLIENTS, "merge": 1, "round": 1, "fold partial": 1}
    for _ in range(100):
        with contextlib.suppress(NotFound):
            trace = await federation.session(name).trace()
            names = Counter(span.name for span in trace.spans)
            if all(names[name] == count for name, count in wanted.items()):
                return trace
        await asyncio.sleep(0.1)
    raise AssertionError("the spans of the round did not come")


async def printed(url, *options):
    """What `fedbus session trace` prints."""
    command = [sys.executable, "-m", "fedbus", "session", "trace", "s", "--nats", url, *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


def test_every_client_stands_under_the_coordinators_round(seen):
    """Each client's training and upload, also those of a crowd, and each fold, has the round's span above it."""
    spans = {span.span_id: span for span in seen.trace.spans}
    (top,) = [span for span in spans.values() if not span.parent_id]
    assert (top.name, top.role, top.instance) == ("round", "coordinator", "coordinator-1")
    everybody = {"site-1", "many-0", "many-1"}
    for name, above in (("train", "round"), ("upload", "round"), ("evaluate", "round"), ("fold update", "upload")):
        of = [span for span in spans.values() if span.name == name]
        assert {span.attributes["fedbus.client"] for span in of} == everybody, name
        assert {spans[span.parent_id].name for span in of} == {above}, name
    assert {span.role for span in spans.values()} == {"coordinator", "combiner", "client"}
    assert seen.first.trace_id != seen.trace.trace_id, "a trace a round"
    assert all(top.start_at <= span.start_at <= span.end_at for span in spans.values())


def test_a_merge_is_linked_to_the_folds_that_it_is_made_of(seen):
    """Batched work has one parent; what else it is about it names by links, here of the root's own folds."""
    folds = {f"{seen.trace.trace_id}-{span.span_id}" for span in seen.trace.spans if span.name == "fold update"}
    (merge,) = [span for span in seen.trace.spans if span.name == "merge"]
    assert merge.links and set(merge.links) <= folds


def test_rest_and_the_command_line_show_the_same(seen):
    """The page's waterfall and `fedbus session trace --json` have the spans that Python has; unknown rounds are 404."""
    assert (seen.status, seen.missing) == (200, 404)
    ids = [span.span_id for span in seen.trace.spans]
    assert [span["span_id"] for span in seen.view["spans"]] == ids
    assert seen.view["complete"] and seen.view["round"] == 2
    told = json.loads(seen.printed[0])
    assert [span["span_id"] for span in told["spans"]] == ids and told["complete"]
    lines = seen.printed[1].splitlines()
    assert len(lines) == 1 + len(ids) and lines[0].startswith(f"s, round 2: {len(ids)} spans in ")
    assert lines[1].startswith("round") and "####" in lines[1]
    assert any(line.startswith("  train  many-1") for line in lines)
    assert list(waterfall(seen.trace, 120)) == lines
