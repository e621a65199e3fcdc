"""`fedbus bench plan`: numbers worked out by hand, laws, and the page that shows them."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from fedbus.cli.capacity import Figures, Need, measured, plan, rows
from fedbus.cli.tree import run
from fedbus.errors import ConfigError

PAGE = (Path(__file__).parents[3] / "docs" / "explanation" / "scale.md").read_text()
ROUND = Figures(
    download_broker_s_per_gb=1.0,
    upload_broker_s_per_gb=2.0,
    upload_combiner_s_per_gb=3.0,
    publish_broker_s_per_gb=4.0,
    publish_combiner_s_per_gb=5.0,
    round_broker_ms=10.0,
    round_combiner_ms=20.0,
    round_coordinator_ms=30.0,
    idle_broker_percent=1.0,
    idle_coordinator_percent=2.0,
    server_kb_per_client=50.0,
)
"""Figures that are easy to calculate with."""

SMALL = Need(clients=1000, per_round=100, model_mb=100.0, round_s=100.0, replicas=1, busy=1.0)
SHOWN = {
    "1,000": Need(clients=1000),
    "10^5": Need(clients=100_000, per_round=10_000, regions=10),
    "10^7": Need(clients=10_000_000, per_round=100_000, regions=100),
}
"""What docs/explanation/scale.md shows."""


def test_a_hub_by_hand():
    """100 clients x 0.1 GB each way. Broker: 10 down + 20 up + 0.4 stored + 1 words + 1 idle of 100 s; combiner: 30 + 2
    + 0.5; coordinator: 2 % idle + 3 s of words.
    """
    found = plan(SMALL, ROUND)
    assert (found.up_gb, found.down_gb) == (10.0, 10.0)
    assert found.hub_cores == pytest.approx((10 + 20 + 0.4 + 1 + 1) / 100)
    assert found.combiner_cores == pytest.approx((30 + 2 + 0.5) / 100)
    assert found.coordinator_cores == pytest.approx(0.02 + 0.03)
    assert found.broker_memory_gb == pytest.approx(0.05)
    assert found.combiner_memory_gb == pytest.approx(0.33)
    assert (found.hub_servers, found.leaf_servers, found.combiners) == (1, 0, 1)
    # the line: 0.2 GB at 20 Mbit/s; then the model is published
    assert found.round_s_least == pytest.approx(80 + 0.5)
    assert found.limits == ()


def test_regions_by_hand():
    """The same behind two leaves: updates stay there, downloads cost a hop more, two sums of 0.2 GB cross."""
    found = plan(replace(SMALL, regions=2), ROUND)
    assert found.hub_cores == pytest.approx((10 + 0.8 + 0.4 + 1 + 1) / 100)
    assert found.leaf_cores == pytest.approx((20 + 20 + 1 + 1 + 0.8) / 100)
    assert found.combiner_cores == pytest.approx((30 + 1.2 + 2 + 0.5) / 100)
    assert (found.region_down_gb, found.region_up_gb) == (5.0, 0.2)
    assert (found.leaf_servers, found.combiners) == (2, 2)


def test_replicas_cost_a_store_each_and_a_hop_by_chance():
    """Three replicas: the model is stored three times, and two of three updates meet their combiner at another node."""
    found = plan(replace(SMALL, replicas=3), ROUND)
    assert found.hub_cores == pytest.approx((10 + 20 * 5 / 3 + 1.2 + 1 + 1) / 100)
    assert found.hub_servers == 3


@pytest.mark.parametrize("regions", [0, 4])
def test_twice_the_time_and_half_the_clients_need_half(regions):
    """Laws: bytes follow clients, cores follow bytes and messages and run against time, and idling is per second."""
    figures = replace(ROUND, publish_broker_s_per_gb=0, publish_combiner_s_per_gb=0)
    one = plan(replace(SMALL, regions=regions), figures)
    slow = plan(replace(SMALL, regions=regions, round_s=200.0), figures)
    busy = plan(replace(SMALL, regions=regions, busy=0.5), figures)
    assert slow.up_gb == one.up_gb
    assert slow.combiner_cores == pytest.approx(one.combiner_cores / 2)
    assert slow.hub_cores - 0.01 == pytest.approx((one.hub_cores - 0.01) / 2)
    assert busy.hub_cores == pytest.approx(2 * one.hub_cores)
    assert busy.coordinator_cores == pytest.approx(2 * one.coordinator_cores)
    half = plan(replace(SMALL, regions=0, clients=500, per_round=50), figures)
    assert half.hub_cores == pytest.approx(plan(SMALL, figures).hub_cores / 2)


def test_servers_follow_what_runs_out_first():
    """Cores, connections and the line each ask for servers; the most wins."""
    assert plan(replace(SMALL, clients=60_000, busy=0.9), ROUND).hub_servers == 3
    assert plan(replace(SMALL, server_gbit=0.5), ROUND).hub_servers == 4  # 20 GB in 100 s
    assert plan(replace(SMALL, per_round=1000, round_s=10.0, server_cores=8, server_gbit=1000), ROUND).hub_servers == 4


def test_what_machines_do_not_mend_is_said():
    """A coordinator that would need two cores, a line that is too slow, regions without clients: each is a sentence."""
    (one,) = plan(replace(SMALL, clients=100_000), ROUND).limits
    assert "50,000 clients" in one
    (two,) = plan(replace(SMALL, round_s=70.0), ROUND).limits
    assert "80 s" in two or "81 s" in two
    (three,) = plan(replace(SMALL, regions=101), ROUND).limits
    assert "fewer clients" in three
    (four,) = plan(replace(SMALL, server_gbit=0.4), ROUND).limits
    assert "1 servers" in four
    assert "carry 5 GB in a round, not 10" in four


@pytest.mark.parametrize(
    "wrong", [{"clients": 0}, {"per_round": 2000}, {"busy": 1.5}, {"model_mb": 0}, {"regions": -1}, {"replicas": 0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    """A plan for what cannot be is a ConfigError."""
    with pytest.raises(ConfigError):
        plan(replace(SMALL, **wrong), ROUND)


TRANSFER = {
    "download_cpu_s_per_gb": {"broker": 1.5, "clients": 9.0, "combiner": 0.0, "coordinator": 0.0},
    "upload_cpu_s_per_gb": {"broker": 2.5, "clients": 9.0, "combiner": 3.5, "coordinator": 0.0},
    "publish_cpu_s_per_gb": {"broker": 4.5, "clients": 0.0, "combiner": 5.5, "coordinator": 0.0},
}
CLIENTS = {
    "clients": 500,
    "cpu_ms_per_client_round_by_role": {"broker": 0.1, "clients": 9.0, "combiner": 0.2, "coordinator": 0.3},
    "idle_cpu_percent_by_role": {"broker": 1.0, "clients": 9.0, "combiner": 9.0, "coordinator": 2.0},
    "server_rss_growth_mb_per_1000": 40.0,
}


@pytest.mark.parametrize("runs", [(TRANSFER, CLIENTS), (CLIENTS, TRANSFER)])
def test_own_measurements_replace_every_figure(runs):
    """What the two benches print becomes the figures, idling for 1,000 clients; none of the defaults is left."""
    found = measured(runs)
    assert found == Figures(1.5, 2.5, 3.5, 4.5, 5.5, 0.1, 0.2, 0.3, 2.0, 4.0, 40.0)
    assert all(getattr(found, f.name) != getattr(Figures(), f.name) for f in fields(Figures))


@pytest.mark.parametrize("run", [{}, {"upload_cpu_s_per_gb": {}}, {**CLIENTS, "clients": None}])
def test_what_no_bench_printed_is_refused(run):
    """Another JSON object, or half of one, is a ConfigError."""
    with pytest.raises(ConfigError):
        measured([run])


def test_the_command_reads_files_and_prints_json(tmp_path, capsys):
    """Figures from files, what was asked for, and the plan come out as one object; a file that is none is usage."""
    path = tmp_path / "run.json"
    path.write_text("a line for people\n" + json.dumps(TRANSFER) + "\n")
    assert run(["bench", "plan", "--clients", "10", "--measured", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figures"]["upload_combiner_s_per_gb"] == 3.5
    assert told["need"]["clients"] == 10
    assert told["plan"]["up_gb"] == pytest.approx(0.45)
    path.write_text("[1]")
    assert run(["bench", "plan", "--measured", str(path)]) == 2
    assert "one JSON object" in capsys.readouterr().err


def test_the_page_shows_what_is_computed():
    """docs/explanation/scale.md: each figure with its default, and each row of the three plans."""
    for field in fields(Figures):
        (row,) = re.findall(rf"^\| `{field.name}` \| ([^|]*) \|", PAGE, re.MULTILINE)
        assert row == f"{getattr(Figures(), field.name)}"
    plans = [dict(rows(plan(need, Figures()))) for need in SHOWN.values()]
    for label in plans[0]:
        assert f"| {label} | " + " | ".join(found[label] for found in plans) + " |" in PAGE
