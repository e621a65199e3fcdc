from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


ECHO = ("bench", "echo", "--clients", "5", "--model-mb", "3", "--arrays", "4", "--rounds", "4")


def test_the_echo_is_correct_and_measured(shell):
    """Every figure is there, possible, and agrees with the others."""
    figures = shell.json(*ECHO, "--processes", "2")
    assert figures["correct"]
    assert 0 < figures["error_max"] <= figures["error_bound"]
    assert (figures["clients"], figures["processes"], figures["crowd"]) == (5, 2, False)
    assert len(figures["round_s"]) == len(figures["publish_s"]) == figures["rounds"] == 4
    assert min(figures["round_s"][1:]) <= figures["round_s_median"] <= max(figures["round_s"][1:])
    assert 0 < figures["publish_s_median"] < figures["round_s_median"]
    assert figures["publish_share"] == figures["publish_s_median"] / figures["round_s_median"]
    assert 0 < figures["rounds_per_s"] < 1 / min(figures["round_s"][1:])
    assert figures["bytes_up"] == 4 * 5 * 3_000_000
    assert figures["bytes_down"] >= 4 * 5 * 3_000_000
    assert len(figures["raw_mb_s_before"]) == len(figures["raw_mb_s_after"]) == 3
    rates = [*figures["raw_mb_s_before"], *figures["raw_mb_s_after"]]
    assert 1 < min(rates) <= figures["nats_raw_mb_s"] <= max(rates)
    assert figures["ratio_to_raw"] == pytest.approx(figures["moved_mb_s"] / figures["nats_raw_mb_s"])
    assert set(figures["server_cpu_s_by_role"]) == {"broker", "coordinator", "combiner-1"}
    assert figures["server_cpu_s"] == pytest.approx(sum(figures["server_cpu_s_by_role"].values()))
    per_gb = figures["cpu_s_per_gb_by_role"]
    assert set(per_gb) == {"broker", "coordinator", "combiner", "clients"}
    assert figures["server_cpu_s_per_gb"] == pytest.approx(sum(per_gb.values()) - per_gb["clients"])
    assert figures["server_cpu_s"] > figures["server_cpu_s_per_gb"] * 3 * 2 * 15e6 / 1e9 > 0
    peaks = figures["peak_mb_by_role"]
    assert figures["broker_rss_peak_mb"] == peaks["broker"] > 10
    assert figures["server_rss_peak_mb"] == pytest.approx(peaks["coordinator"] + peaks["combiner"])
    assert figures["server_rss_peak_mb"] > 30
    assert figures["server_peak_mb"] == pytest.approx(sum(peaks.values()) - peaks["clients"])
    assert 30 < figures["rss_first_mb"] <= figures["server_peak_mb"]
    assert 30 < figures["rss_last_mb"] <= figures["server_peak_mb"]


def test_several_runs_are_one_table(shell):
    """An option given twice makes two runs, here one of members: a line of a table and an object each, of one model."""
    done = shell.run(*ECHO, "--combiners", "2", "--access", "open", "--access", "secured", "--markdown", "--json")
    *table, last = done.stdout.splitlines()
    runs = json.loads(last)["runs"]
    assert [run["access"] for run in runs] == ["open", "secured"]
    assert all(run["correct"] for run in runs)
    assert len({run["model_digest"] for run in runs}) == 1
    assert "combiner-2" in runs[1]["server_cpu_s_by_role"]
    assert len(table) == 4
    assert {line.count("|") for line in table} == {table[0].count("|")}


def test_people_see_rounds_and_figures(shell):
    """Without --json there is a line for each round, then one for each figure."""
    lines = shell.run(*ECHO[:-1], "2").stdout.splitlines()
    assert sum(line.startswith("round ") and "5 clients" in line for line in lines) == 2
    assert any(line.startswith("result") and "correct" in line for line in lines)


def test_a_workload_says_all(shell):
    """--workload beside what it says is a usage error in one line."""
    done = shell.run("bench", "echo", "--workload", "W3", "--clients", "7", code=2)
    assert "--workload" in done.stderr
    assert done.stderr.count("\n") == 1


def test_one_client_with_an_empty_share_of_arrays(shell):
    """A model smaller than its number of arrays still runs: each array has one number."""
    figures = shell.json("bench", "echo", "--clients", "1", "--model-mb", "0", "--arrays", "7", "--rounds", "1")
    assert figures["correct"]
    assert figures["bytes_up"] == 7 * 4


def test_the_fold_alone(shell):
    """Each dtype that is asked for is a run of its own, right and with its ceilings."""
    asked = ("bench", "aggregate", "--model-mb", "2", "--arrays", "3", "--runs", "2")
    runs = shell.json(*asked, "--dtype", "float32", "--dtype", "int8")["runs"]
    assert [run["dtype"] for run in runs] == ["float32", "int8"]
    assert all(run["correct"] and run["add_gb_s"] > 0 and run["memcpy_gb_s"] > 0 for run in runs)
    assert "float16" in shell.run(*asked, "--dtype", "text", code=2).stderr


def test_strategies_beside_numpy(shell):
    """Each number of clients is a run, right, in as many passes as it should take, and memory does not grow."""
    asked = ("bench", "aggregate", "--clients", "10,12", "--parts", "20000", "--runs", "1")
    runs = shell.json(*asked)["runs"]
    assert [run["clients"] for run in runs] == [10, 12]
    for run in runs:
        assert run["correct"] and run["median_speedup"] > 0 and run["geometric_median_passes"] == 2
        assert run["peak_mb"] <= 1.25 * run["peak_quarter_mb"]
    assert "10 to 1000" in shell.run("bench", "aggregate", "--clients", "5", code=2).stderr
    assert "--parts" in shell.run("bench", "aggregate", "--clients", "10", "--arrays", "5", code=2).stderr


def test_the_ways_of_a_round_apart(shell):
    """Each way has a time for each steady round, a rate with its ratios, and processor time of those who take part."""
    asked = ("bench", "transfer", "--clients", "3", "--model-mb", "3", "--arrays", "2", "--rounds", "3")
    run = shell.json(*asked)
    assert run["correct"]
    assert (run["clients"], run["processes"], run["rounds"]) == (3, 2, 3)
    assert run["tcp_mb_s"] > 0
    for way in ("download", "upload", "publish"):
        assert len(run[f"{way}_s"]) == 2
        assert all(seconds > 0 for seconds in run[f"{way}_s"])
        assert run[f"{way}_to_raw"] == pytest.approx(run[f"{way}_mb_s"] / run["nats_raw_mb_s"])
        assert run[f"{way}_to_tcp"] == pytest.approx(run[f"{way}_mb_s"] / run["tcp_mb_s"])
        assert set(run[f"{way}_cpu_s_per_gb"]) == {"broker", "coordinator", "combiner", "clients"}
    assert run["upload_mb_s"] == pytest.approx(sum(9 / s for s in run["upload_s"]) / 2)
    assert run["broker_rss_peak_mb"] == run["peak_mb_by_role"]["broker"] > 10


def test_one_client_fetches_what_it_changed(shell):
    """A federation of one has a way down too, every round."""
    run = shell.json("bench", "transfer", "--clients", "1", "--model-mb", "2", "--arrays", "2", "--rounds", "3")
    assert run["correct"]
    assert run["download_mb_s"] > 0


@pytest.mark.parametrize("connections", ["--crowd", "--no-crowd"])
def test_many_clients_idle_and_at_work(shell, connections):
    """Idle and active costs are there for clients of both kinds, and agree with each other."""
    asked = ("--clients", "20", "--processes", "2", "--rounds", "3", "--idle-s", "0.5", connections)
    run = shell.json("bench", "clients", *asked)
    assert run["correct"]
    assert run["crowd"] is (connections == "--crowd")
    assert len(run["round_s"]) == run["rounds"] == 3
    assert run["idle_s"] >= 0.5
    idle = run["idle_cpu_percent_by_role"]
    assert set(idle) == {"broker", "coordinator", "combiner", "clients"}
    assert run["idle_cpu_percent_per_1000"] == pytest.approx(sum(idle.values()) * 50)
    assert run["clients_rss_mb_per_1000"] > 50 * 20
    assert 0 < run["idle_clients_per_gb"] < 20 / 0.02
    cost = run["cpu_ms_per_client_round_by_role"]
    assert run["cpu_ms_per_client_round"] == pytest.approx(sum(cost.values()))
    assert run["active_clients_per_core_s"] == pytest.approx(1000 / sum(cost.values()))
    assert run["ratio_to_raw"] == pytest.approx(20 / run["round_s_median"] / run["raw_messages_s"])
    assert run["peak_mb_by_role"]["clients"] > 50


def children(pid):
    """The processes that a process has started and that live."""
    return [int(text) for path in Path(f"/proc/{pid}/task").glob("*/children") for text in path.read_text().split()]


def test_a_role_that_falls_ends_the_run(shell):
    """A combiner that is killed would be started again, and its figures be half: the run ends and names it."""
    running = shell.start(*ECHO[:-1], "100000")
    shell.until("rounds", lambda: "round   3" in shell.said())
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in children(running.pid)}
    (combiner,) = [pid for pid, words in commands.items() if "combiner" in words]
    os.kill(combiner, signal.SIGKILL)
    assert running.wait(30) == 1
    assert "combiner-1 ended before the benchmark did" in shell.said()
    assert "Traceback" not in shell.said()


def test_rounds_in_a_flood(shell):
    """Rounds are flooded in turn, the flood is as strong as it says, and the model is right all the same.

    How much longer they take depends on who else is at work here: the exit code, which says that, may be either.
    """
    run = shell.json("bench", "flood", "--clients", "2", "--model-mb", "2", "--rounds", "4", code=None)
    assert run["model_correct"]
    assert len(run["undisturbed_s"]) == len(run["flooded_s"]) == 2
    assert run["ratio"] == run["flooded_s_median"] / run["undisturbed_s_median"] > 0
    assert run["messages"] > 0 and run["messages_s"] <= 1.01 * run["rate"] == 1010
    assert run["correct"] == (run["ratio"] <= run["ratio_max"] and run["messages_s"] >= 0.8 * run["rate"])
