"""The table of metrics: what is counted, how it is called, and that the page says so."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedbus import telemetry
from fedbus.errors import ConfigError
from fedbus.telemetry import Wanted, metrics, setup
from fedbus.telemetry.meters import OFF, READ_TRIES
from fedbus.telemetry.metrics import ALL

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "telemetry.md").read_text()
UNITS = {"s", "By", "1"}


@pytest.fixture
def counting():
    """A role that counts, and what Prometheus reads of it."""
    tracing = setup("combiner", "k-1", {}, Wanted(workspace="lab", scrape=True))
    yield tracing.telemetry.meters, lambda: families(tracing.scrape.text())
    assert tracing.shutdown()


def families(text):
    """The families of an exposition, by name."""
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def values(family):
    """Samples as {(name, the labels that are ours): value}."""
    return {(one.name, *sorted(one.labels.items())): one.value for one in family.samples}


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_metric_is_declared_as_the_conventions_want(metric):
    """A dotted name, a unit of UCUM, a sentence, buckets where it is a histogram, no attribute without bound."""
    assert re.fullmatch(r"(fedbus|http\.server)(\.[a-z]+)+", metric.name)
    assert metric.unit in UNITS or re.fullmatch(r"\{[a-z]+\}", metric.unit)
    assert (metric.about.endswith(".") and metric.about[0].isupper()) or metric.about.startswith("1 ")
    assert bool(metric.buckets) == (metric.shape == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert not {telemetry.CLIENT, telemetry.SESSION, telemetry.ROUND, telemetry.MODEL_VERSION} & set(metric.attributes)
    assert metric.reads or metric.shape != "gauge"


def test_the_page_has_every_metric_and_no_other():
    """Each row of the page's table is a metric of the code, with shape, unit, roles and attributes as they are."""
    rows = re.findall(r"^\| `([a-z.]+)` \| `(\w+)` \| (\w+) \| `([^`]+)` \| ([^|]*) \| ([^|]*) \|", PAGE, re.MULTILINE)
    written = {
        name: (exposed, shape, unit, tuple(roles.split(", ")), tuple(re.findall(r"`([^`]+)`", attributes)))
        for name, exposed, shape, unit, roles, attributes in rows
    }
    told = {one.name: (exposed(one), one.shape, one.unit, one.roles, one.attributes) for one in ALL}
    assert written == told
    for one in ALL:
        assert one.about in PAGE, one.name


def exposed(metric):
    """The name that Prometheus has for it."""
    unit = {"s": "_seconds", "By": "_bytes"}.get(metric.unit, "")
    return metric.name.replace(".", "_") + unit + ("_total" if metric.shape == "counter" else "")


def test_the_exposition_is_what_prometheus_reads(counting):
    """Every metric of the table arrives, in Prometheus's names, with unit, type, help and our labels alone."""
    meters, read = counting
    for metric in ALL:
        about = dict.fromkeys(metric.attributes, "x")
        if metric.reads:
            meters.watch(metric, lambda about=about: [(3, about)])
        elif metric.shape == "counter":
            meters.add(metric, 2, about)
        else:
            meters.record(metric, 0.3, about)
    found = read()
    for metric in ALL:
        family = found[exposed(metric).removesuffix("_total")]
        assert family.type == metric.shape and family.documentation == metric.about
        labels = {key.replace(".", "_") for key in metric.attributes} | {"le"}
        assert all(set(sample.labels) <= labels for sample in family.samples), metric.name
    assert values(found["fedbus_leads"]) == {("fedbus_leads",): 3}
    buckets = [one for one in found["fedbus_round_duration_seconds"].samples if one.name.endswith("_bucket")]
    assert [one.labels["le"] for one in buckets] == [*map(str, metrics.LONG), "+Inf"]
    assert [one.value for one in buckets[:4]] == [0, 0, 1, 1], "0.3 s lies between 0.25 and 0.5"


def test_two_of_one_kind_are_added_and_one_that_is_forgotten_is_not(counting):
    """Several clients of one process are one number; a run that is over takes its queue with it."""
    meters, read = counting
    queues = [lambda: [(2, {telemetry.QUEUE: "inbox"})], lambda: [(5, {telemetry.QUEUE: "inbox"})]]
    for queue in queues:
        meters.watch(metrics.QUEUE_LENGTH, queue)
    key = ("fedbus_queue_length", ("fedbus_queue", "inbox"))
    assert values(read()["fedbus_queue_length"]) == {key: 7}
    meters.forget(queues[0])
    assert values(read()["fedbus_queue_length"]) == {key: 5}


def test_what_changes_while_it_is_read_is_read_again(counting):
    """A reader in another thread meets a dictionary that the loop changes; one that always does is left out."""
    meters, read = counting
    tries = []

    def unsteady():
        tries.append(1)
        if len(tries) < READ_TRIES:
            raise RuntimeError("dictionary changed size during iteration")
        return [(1, {})]

    def hopeless():
        raise RuntimeError("dictionary changed size during iteration")

    meters.watch(metrics.LEADS, unsteady)
    meters.watch(metrics.CONNECTED, hopeless)
    found = read()
    assert values(found["fedbus_leads"]) == {("fedbus_leads",): 1}
    assert "fedbus_bus_connected" not in found


def test_a_port_answers_prometheus():
    """`--metrics-port 0` takes a free one; the numbers carry their resource once; closed, nobody listens."""
    tracing = setup("client", "site-1", {}, Wanted(workspace="lab", metrics_port=0))
    tracing.telemetry.meters.add(metrics.WORK, 3, {telemetry.STAGE: "train", telemetry.OUTCOME: "done"})
    with urllib.request.urlopen(f"http://127.0.0.1:{tracing.metrics_port}/metrics", timeout=5) as answer:
        found = families(answer.read())
    (target,) = found["target_info"].samples
    assert target.labels["service_instance_id"] == "site-1" and target.labels["fedbus_workspace"] == "lab"
    assert found["fedbus_work"].samples[0].value == 3
    with pytest.raises(ConfigError, match="cannot listen"):
        setup("client", "b", {}, Wanted(metrics_port=tracing.metrics_port))
    with pytest.raises(ConfigError, match="port 65536: bind"):
        setup("client", "b", {}, Wanted(metrics_port=65536))
    assert tracing.shutdown()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{tracing.metrics_port}/metrics", timeout=1)


def test_many_may_ask_at_once(counting):
    """Two who collect at the same time get whole answers, each with all of it."""
    meters, read = counting
    meters.add(metrics.UPDATES, 4)
    found = []
    threads = [threading.Thread(target=lambda: found.append(read())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [values(one["fedbus_updates"]) for one in found] == [{("fedbus_updates_total",): 4}] * 8


def test_nobody_counts_for_nothing():
    """Off, all of it may be called, and nothing is kept; nor is anything of OpenTelemetry or Prometheus loaded."""
    assert not OFF.enabled
    OFF.add(metrics.UPDATES)
    OFF.record(metrics.ROUND_DURATION, 1.0)
    OFF.watch(metrics.LEADS, lambda: pytest.fail("nobody asks"))
    code = """
import sys, fedbus
from fedbus.telemetry import metrics, setup
tracing = setup("client", "site-1", {})
tracing.telemetry.meters.add(metrics.WORK)
loaded = [name for name in sys.modules if name.startswith(("opentelemetry", "prometheus_client"))]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_a_disabled_sdk_counts_nothing():
    """OTEL_SDK_DISABLED turns everything off, whatever the command line wants."""
    tracing = setup("client", "c", {"OTEL_SDK_DISABLED": "true"}, Wanted(scrape=True, spans_on_bus=True))
    assert not tracing.telemetry.meters.enabled and tracing.scrape is None and tracing.telemetry.outlet is None


def test_what_is_missing_is_named(monkeypatch):
    """Without Prometheus's packages the error says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.prometheus", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedbus\[server\]'"):
        setup("client", "c", {}, Wanted(metrics_port=0))
    with pytest.raises(ConfigError, match="--metrics-port"):
        setup("client", "c", {"OTEL_METRICS_EXPORTER": "prometheus"})


def test_several_may_ask_at_once():
    """Each gets all of the numbers once, over the port and as text: who asks second waits for the first."""
    tracing = setup("client", "site-1", {}, Wanted(metrics_port=0))
    scrape, asking, most = tracing.scrape, [], []
    collect = scrape.reader.collect

    def slowly(*args, **kwargs):
        asking.append(1)
        time.sleep(0.02)
        most.append(len(asking))
        collect(*args, **kwargs)
        asking.pop()

    scrape.reader._collector._callback = slowly
    tracing.telemetry.meters.add(metrics.WORK, 3, {telemetry.STAGE: "train", telemetry.OUTCOME: "done"})

    def ask(number):
        if number % 2:
            return scrape.text()
        with urllib.request.urlopen(f"http://127.0.0.1:{tracing.metrics_port}/metrics", timeout=5) as answer:
            return answer.read()

    with ThreadPoolExecutor(6) as threads:
        answers = [families(text) for text in threads.map(ask, range(6))]
    assert most == [1] * 6
    assert all(len(found["fedbus_work"].samples) == 1 for found in answers)
    tracing.shutdown()
