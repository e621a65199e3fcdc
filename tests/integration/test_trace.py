"""One round is one trace across the roles: seen from a collector that got it by OTLP over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.nats import connect
from fedbus.telemetry import setup

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "telemetry.md"
CLIENTS, COMBINERS, ROUNDS = 3, 2, 2
MODEL = {"w": np.zeros((1200, 1000), np.float32)}
CHUNKS = 10
"""4.8 MB in chunks of 512 KiB."""


class Traced:
    """What a session left in the collector, and the headers that were seen on the bus."""

    def __init__(self, spans, headers):
        self.spans = spans
        self.headers = headers
        self.by_id = {span.span_id: span for _, span in spans}

    def named(self, name):
        """Every (role, instance, span) of a name."""
        return [
            (about["service.name"].removeprefix("fedbus-"), about["service.instance.id"], span)
            for about, span in self.spans
            if span.name == name
        ]

    def ancestors(self, span):
        """The spans above one, its parent first."""
        found = []
        while span.parent_span_id:
            span = self.by_id[span.parent_span_id]
            found.append(span)
        return found


def attributes(span):
    """A span's attributes as a dictionary."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


@contextlib.asynccontextmanager
async def hearing(url):
    """Collect (subject, headers) of all that is said in the workspace."""
    said = []

    async def listen(subscription):
        async for message in subscription:
            said.append((message.subject, dict(message.headers)))  # noqa: PERF401 - read while it grows

    async with await connect(url, name="ear") as bus:
        listening = asyncio.create_task(listen(await bus.subscribe("fb.default.>")))
        try:
            yield said
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening


@pytest.fixture(scope="module")
def traced(tmp_path_factory, make_collector, make_house, make_app):
    """A whole session, each role with a provider and an exporter of its own; once for all that is asked of it."""

    async def session(collector):
        tracings = []

        def telemetry(role, name):
            tracings.append(setup(role, name, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}))
            return tracings[-1].telemetry

        async with (
            EmbeddedBroker(tmp_path_factory.mktemp("store")) as broker,
            hearing(broker.url) as headers,
            contextlib.aclosing(make_house(broker.url)) as house,
        ):
            await house.coordinator("coordinator-1", traces=telemetry("coordinator", "coordinator-1"))
            for name in ("combiner-1", "combiner-2"):
                await house.combiner(name, traces=telemetry("combiner", name))
            await house.present(COMBINERS, "combiners")
            for number in range(1, CLIENTS + 1):
                name = f"site-{number}"
                await house.client(name, make_app(number), traces=telemetry("client", name))
            await house.run(MODEL, rounds=ROUNDS, clients_min=CLIENTS)
        for tracing in tracings:
            assert tracing.shutdown()
        return headers

    collector = make_collector()
    headers = asyncio.run(session(collector))
    return Traced(collector.spans(), headers)


def test_a_round_is_one_trace_of_all_roles(traced):
    """Every span of the session is, by its parents, under the coordinator's span of its own round."""
    rounds = traced.named("round")
    assert [attributes(span)["fedbus.round"] for _, _, span in rounds] == [1, 2]
    assert len({span.trace_id for _, span in traced.spans}) == ROUNDS
    for _, span in traced.spans:
        if span.name == "round":
            assert span.parent_span_id == b""
            continue
        top = traced.ancestors(span)[-1]
        assert top.name == "round", span.name
        assert span.trace_id == top.trace_id
        assert attributes(span)["fedbus.round"] == attributes(top)["fedbus.round"], span.name
        assert top.start_time_unix_nano <= span.start_time_unix_nano, f"{span.name} began before its round"
        assert span.end_time_unix_nano <= top.end_time_unix_nano, f"{span.name} ended behind its round"


def test_every_client_trains_and_uploads_under_the_coordinators_round(traced):
    """In each round, of each client, one training and one upload whose parent is the coordinator's own span."""
    for name in ("train", "upload"):
        found = set()
        for _, _, span in traced.named(name):
            (above,) = traced.ancestors(span)
            assert above.name == "round" and above.span_id in {one.span_id for _, _, one in traced.named("round")}
            found.add((attributes(span)["fedbus.client"], attributes(above)["fedbus.round"]))
        assert found == {(f"site-{number}", round_) for number in range(1, CLIENTS + 1) for round_ in (1, 2)}


def test_a_merge_names_the_folds_that_it_is_made_of(traced):
    """Batched work has one parent; what else it is about are links, within its own trace."""
    folds = {span.span_id: span for _, _, span in traced.named("fold update")}
    for _, _, span in traced.named("merge"):
        assert span.links and {link.span_id for link in span.links} <= folds.keys()
        assert {link.trace_id for link in span.links} == {span.trace_id}


def test_resources_follow_the_conventions(traced):
    """Each role says who, where and which process it is."""
    for about, _ in traced.spans:
        assert {
            "service.name",
            "service.namespace",
            "service.instance.id",
            "service.version",
            "host.name",
        } <= about.keys()


def test_spans_are_of_updates_not_of_chunks(traced):
    """Ten chunks an update, and of everything as many spans as there are updates, partials and models."""
    everybody = {f"site-{number}" for number in range(1, CLIENTS + 1)}
    for name in ("fetch model", "train", "upload", "evaluate"):
        spans = Counter((instance, attributes(span)["fedbus.round"]) for _, instance, span in traced.named(name))
        assert {instance for instance, _ in spans} == everybody, name
        each = 2 if name == "fetch model" else 1  # one to train on, one to evaluate
        assert spans == {(client, number): each for client in everybody for number in (1, 2)}, name
    folds = Counter((attributes(span)["fedbus.client"], span.trace_id) for _, _, span in traced.named("fold update"))
    assert folds == {(client, span.trace_id): 1 for client in everybody for _, _, span in traced.named("round")}
    assert {role for role, _, _ in traced.named("fold update")} == {"combiner"}
    for name in ("send partial", "fold partial", "merge"):
        assert len(traced.named(name)) == ROUNDS, name
    for _, _, span in [*traced.named("upload"), *traced.named("fold update")]:
        assert attributes(span)["messaging.batch.message_count"] == CHUNKS


def test_what_a_combiner_does_is_below_what_was_sent_to_it(traced):
    """Each update's fold is the child of the client's upload, each partial's of the other combiner's sending."""
    for name, parent, kind in (("fold update", "upload", "client"), ("fold partial", "send partial", "combiner")):
        for _, _, span in traced.named(name):
            above = traced.ancestors(span)[0]
            assert above.name == parent
            assert attributes(span)[f"fedbus.{kind}"] == attributes(above)[f"fedbus.{kind}"]
            assert attributes(span)["messaging.destination.name"] == attributes(above)["messaging.destination.name"]


def test_messages_carry_the_conventions(traced):
    """Spans that send, receive or process messages have the kinds and attributes that OpenTelemetry asks for."""
    kinds = {
        "upload": ("send", WireSpan.SPAN_KIND_PRODUCER),
        "send partial": ("send", WireSpan.SPAN_KIND_PRODUCER),
        "fetch model": ("receive", WireSpan.SPAN_KIND_CLIENT),
        "fold update": ("process", WireSpan.SPAN_KIND_CONSUMER),
        "fold partial": ("process", WireSpan.SPAN_KIND_CONSUMER),
    }
    for name, (operation, kind) in kinds.items():
        for _, instance, span in traced.named(name):
            found = attributes(span)
            assert span.kind == kind, name
            assert found["messaging.system"] == "nats", name
            assert found["messaging.operation.type"] == operation, name
            assert name.startswith(found["messaging.operation.name"]), "a span's name begins with its operation"
            assert found["messaging.destination.name"].startswith("fb.default."), name
            assert found["messaging.client.id"] == instance, name
    for name in ("round", "train", "evaluate", "merge"):
        for _, _, span in traced.named(name):
            assert span.kind == WireSpan.SPAN_KIND_INTERNAL, name
            assert not [key for key in attributes(span) if key.startswith("messaging.")], name


def test_the_page_lists_what_is_seen(traced):
    """docs/reference/telemetry.md has exactly the spans of a session, with role, parent and attributes as they are."""
    written = {}
    for line in PAGE.read_text().split("\n## Spans\n")[1].split("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].startswith("`"):
            name, role, parent, kind, keys = cells
            written[name.strip("`")] = (role, parent.strip("`"), kind, set(re.findall(r"`([^`]+)`", keys)))
    seen = {}
    for about, span in traced.spans:
        role = about["service.name"].removeprefix("fedbus-")
        above = traced.ancestors(span)
        kind = WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower()
        facts = (role, above[0].name if above else "", kind)
        known = seen.setdefault(span.name, (*facts, set()))
        assert known[:3] == facts, span.name
        known[3].update(key for key in attributes(span) if key.startswith("fedbus."))
    assert seen == written


def test_headers_are_valid_trace_context(traced):
    """What travels is `traceparent` of W3C level 1: version 00, sampled and nothing else, of a span that exists."""
    carried = [headers["traceparent"] for _, headers in traced.headers if "traceparent" in headers]
    assert carried
    ids = {(span.trace_id.hex(), span.span_id.hex()) for _, span in traced.spans}
    for traceparent in set(carried):
        version, trace, span, flags = traceparent.split("-")
        assert (version, flags) == ("00", "01")
        assert (trace, span) in ids
    families = {subject.split(".")[2] for subject, headers in traced.headers if "traceparent" in headers}
    assert families == {"task", "order", "up", "report"}, "chunks and heartbeats carry none"


QUIET = """
import asyncio, secrets, sys, tempfile
import numpy as np
import fedbus
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.nats import connect
from fedbus.clock import SystemClock
from fedbus.combiner.service import Combiner
from fedbus.coordinator.service import Coordinator
from fedbus.store.spool import Memory
from fedbus.telemetry import setup
from fedbus.workers import Threads

app = fedbus.ClientApp()

@app.train
def train(model, task):
    return fedbus.Update({"w": model["w"] + 1})

@app.evaluate
def evaluate(model, task):
    return fedbus.Evaluation(1.0, {"w": float(model["w"][0])})

async def main(store):
    said = []
    async with EmbeddedBroker(store) as broker, await connect(broker.url, name="roles") as bus:
        async def listen(subscription):
            async for message in subscription:
                said.append((message.subject.split(".")[2], dict(message.headers)))
        ear = asyncio.create_task(listen(await bus.subscribe("fb.>")))
        def common(role):
            return dict(name=role, incarnation=secrets.token_hex(8), workspace="default", clock=SystemClock(),
                        workers=workers, traces=setup(role, role, {}).telemetry)
        workers = Threads(2, "roles")
        roles = [asyncio.create_task(Coordinator(bus, **common("coordinator")).run()),
                 asyncio.create_task(Combiner(bus, make_spool=lambda session: Memory(), **common("combiner")).run())]
        async with fedbus.Client(broker.url, app, name="site-1") as client, fedbus.connect(broker.url) as federation:
            roles.append(asyncio.create_task(client.run()))
            await asyncio.sleep(0.5)
            session = await federation.start_session(fedbus.SessionConfig(rounds=1), model={"w": np.zeros(3)})
            result = await session.wait()
            assert result.metrics == {"w": 1.0}, result
            for role in [*roles, ear]:
                role.cancel()
            await asyncio.gather(*roles, ear, return_exceptions=True)
        workers.close()
    assert {"task", "order", "up", "report", "journal"} <= {family for family, _ in said}
    assert not [one for one in said if one[1]], [one for one in said if one[1]]

with tempfile.TemporaryDirectory() as store:
    asyncio.run(main(store))
loaded = [name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "google", "requests")]
assert not loaded, loaded
"""


def test_a_session_without_traces_imports_and_says_nothing():
    """With no provider anywhere a whole session runs without OpenTelemetry, and no message has a header."""
    subprocess.run([sys.executable, "-W", "error", "-c", QUIET], check=True, timeout=60)


def test_the_page_lists_every_attribute(traced):
    """Attributes of spans and of their events that are seen, and those in the page's tables of attributes, agree."""
    tables = PAGE.read_text().split("\n## Attributes\n")[1]
    written = {line.split("`")[1] for line in tables.splitlines() if line.startswith("| `")}
    seen = {"error.type"}  # of a failure; there was none
    for _, span in traced.spans:
        seen |= attributes(span).keys()
        for event in span.events:
            seen |= attributes(event).keys()
    assert seen == written


def test_a_round_tells_what_it_waited_for(traced):
    """Events in the round's span say what became true, and what was waited for from then on."""
    for _, _, span in traced.named("round"):
        told = [(event.name, attributes(event).get("fedbus.wait", "")) for event in span.events]
        assert told[0] == ("RoundOpened", "waiting for updates of 3 of 3 clients")
        assert ("RoundClosing", "waiting for combiner-1 to merge and store the model") in told
