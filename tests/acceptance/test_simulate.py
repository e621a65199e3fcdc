from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedbus.coordinator.selection import draw, select

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

APP = """
import time
import numpy as np
import fedbus

app = fedbus.ClientApp()

@app.initial
def initial(seed):
    return {"w": np.random.default_rng(seed).standard_normal((20, 50), dtype=np.float32), "b": np.zeros(3, np.float32)}

@app.train
def train(model, task):
    if "sleep_s" in task.config:
        open("training", "w").close()
        time.sleep(task.config["sleep_s"])
    if task.config.get("fails"):
        raise ValueError("nothing to learn from")
    number = int(task.client.rpartition("-")[2])
    rng = np.random.default_rng(task.seed)
    arrays = {k: v + rng.standard_normal(v.shape, dtype=v.dtype) + np.float32(number / 16) for k, v in model.items()}
    return fedbus.Update(arrays, weight=1 + number % 7, metrics={"number": number})

@app.evaluate
def evaluate(model, task):
    return fedbus.Evaluation(1, {"mean": float(model["b"].mean())})
"""

FIGURES = {
    "rounds", "round_s", "metrics", "model_digest", "clients", "per_round", "workers", "wall_s", "cpu_s", "peak_rss_mb",
}  # fmt: skip


@pytest.fixture
def lab(shell, tmp_path):
    """A command line beside an app with a first model; temporary places are looked at after the test."""
    (tmp_path / "lab.py").write_text(APP)
    (tmp_path / "tmp").mkdir()
    shell.env["TMPDIR"] = str(tmp_path / "tmp")
    yield shell
    assert list((tmp_path / "tmp").glob("fedbus-*")) == []


def workers_of(process):
    """The process ids of a simulation's workers."""
    pids = []
    for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
        for pid in path.read_text().split():
            with suppress(OSError):
                if b"fedbus.cli.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    pids.append(int(pid))
    return sorted(pids)


def descendants(pid):
    """All processes below one."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def expected_model(clients, per_round, rounds, seed):
    """What the rounds come to, computed in a loop without any federation, in float64."""
    rng = np.random.default_rng(seed)
    model = {"w": rng.standard_normal((20, 50), dtype=np.float32).astype(np.float64), "b": np.zeros(3)}
    for round_ in range(1, rounds + 1):
        chosen, _ = select([f"sim-{n}" for n in range(clients)], per_round, 1.0, seed, round_)
        sums, total = {k: np.zeros_like(v) for k, v in model.items()}, 0
        for name in chosen:
            number = int(name.rpartition("-")[2])
            noise = np.random.default_rng(draw(seed, "task", round_, name))
            weight = 1 + number % 7
            total += weight
            for k, v in model.items():
                sums[k] += weight * (v + noise.standard_normal(v.shape, dtype=np.float32) + number / 16)
        model = {k: value / total for k, value in sums.items()}
    return model


def test_two_hundred_clients_learn_what_a_plain_loop_learns(lab, tmp_path):
    """Of 200 clients 20 are asked in each of 3 rounds; the model is the weighted mean of exactly their updates."""
    figures = lab.json(
        "simulate", "lab:app", "--clients", "200", "--per-round", "20", "--rounds", "3", "--workers", "2",
        "--seed", "3", "--out", "m.safetensors",
    )  # fmt: skip
    assert set(figures) >= FIGURES
    assert figures["counted"] == [20] * 3
    assert (figures["clients"], figures["per_round"], figures["workers"], figures["rounds"]) == (200, 20, 2, 3)
    model, expected = load_file(tmp_path / "m.safetensors"), expected_model(200, 20, 3, 3)
    for name, array in expected.items():
        np.testing.assert_allclose(model[name], array, rtol=1e-5, atol=1e-5)
    assert [set(found) for found in figures["metrics"]] == [{"mean"}] * 3
    assert figures["metrics"][-1]["mean"] == pytest.approx(float(model["b"].mean()))
    assert len(figures["round_s"]) == 3
    assert figures["bytes_up"] == 3 * 20 * 1003 * 4
    assert set(figures["peak_rss_mb_by_process"]) >= {"simulate", "worker-1", "worker-2", "broker", "combiner-1"}
    assert min(figures["peak_rss_mb_by_process"].values()) > 5
    assert figures["cpu_s"] > 0


def test_the_seed_alone_decides(lab):
    """1, 2 or 3 workers, combiners with a part each, six real processes of the same names: one model, bit for bit,
    whether all are asked in a round or some. Another seed gives another one.
    """
    lab.up()
    for number in range(6):
        lab.start("client", "run", "lab:app", "--name", f"sim-{number}")
    layouts = (
        ("--clients", "6", "--workers", "1"),
        ("--clients", "6", "--workers", "3"),
        ("--clients", "6", "--workers", "2", "--combiners", "2", "--sharding", "chunks"),
        ("--workers", "0", "--nats", lab.env["FEDBUS_URL"], "--expect-clients", "6"),
    )
    digests = set()
    for some in ((), ("--per-round", "4")):
        runs = [lab.json("simulate", "lab:app", "--rounds", "3", "--seed", "5", *some, *how) for how in layouts]
        assert {run["model_digest"] for run in runs} == {runs[0]["model_digest"]}
        assert all(run["metrics"] == runs[0]["metrics"] for run in runs)
        assert [run["workers"] for run in runs] == [1, 3, 2, 0]
        digests.add(runs[0]["model_digest"])
    other = lab.json("simulate", "lab:app", "--clients", "6", "--rounds", "3", "--seed", "6", "--workers", "1")
    assert len(digests | {other["model_digest"]}) == 3


def test_crowds_elsewhere_serve_one_simulation_after_the_other(lab):
    """Two crowds of a series, and one of ours with the rest, give the model of a single worker, seed after seed."""
    lab.up()
    for first in (2, 4):
        crowd = ["client", "run", "lab:app", "--name", "sim", "--count", "2"]
        lab.start(*crowd, "--first", str(first))
    common = ["simulate", "lab:app", "--rounds", "2", "--per-round", "5"]
    there = ["--nats", lab.env["FEDBUS_URL"], "--workers", "1", "--clients", "2", "--expect-clients", "6"]
    for seed in ("1", "2"):
        here = lab.json(*common, "--seed", seed, "--workers", "1", "--clients", "6")
        assert lab.json(*common, "--seed", seed, *there)["model_digest"] == here["model_digest"]


def test_a_worker_that_dies_comes_back_once(lab):
    """Killed in a round, it is started again, and the model is that of a run that nobody disturbed."""
    common = ["simulate", "lab:app", "--clients", "4", "--workers", "2", "--rounds", "3", "--json"]
    calm = json.loads(lab.run(*common).stdout.splitlines()[-1])
    process = lab.start(*common, "--train-config", "sleep_s=0.5")
    lab.until("a round", lambda: "round   1" in lab.said())
    os.kill(workers_of(process)[0], signal.SIGKILL)
    assert process.wait(60) == 0, lab.said()
    assert "(killed by SIGKILL); starting it again, once" in lab.said()
    assert json.loads(lab.said().splitlines()[-1])["model_digest"] == calm["model_digest"]


def test_a_worker_that_dies_twice_ends_the_simulation(lab):
    """The error names the worker, its clients and how it ended; everybody else is stopped."""
    process = lab.start("simulate", "lab:app", "--clients", "4", "--workers", "2", "--train-config", "sleep_s=600")
    first, other = lab.until("two workers", lambda: pids if len(pids := workers_of(process)) == 2 else None)
    os.kill(first, signal.SIGKILL)
    (second,) = lab.until("its second life", lambda: set(workers_of(process)) - {first, other})
    os.kill(second, signal.SIGKILL)
    others = descendants(process.pid)
    assert process.wait(30) == 1, lab.said()
    assert ") ended for the second time (killed by SIGKILL)" in lab.said()
    assert not any(lab.alive(pid) for pid in others)


def test_ctrl_c_leaves_nothing_behind(lab):
    """In the middle of a training that takes ten minutes: 130 within seconds, no traceback, no process, no file."""
    process = lab.start("simulate", "lab:app", "--clients", "4", "--workers", "2", "--train-config", "sleep_s=600")
    lab.until("a training", (lab.place / "training").exists)
    processes = descendants(process.pid)
    assert len(processes) >= 5
    assert lab.end(process, signal.SIGINT) == 130
    assert "Traceback" not in lab.said()
    assert not any(lab.alive(pid) for pid in processes)


def test_a_simulation_that_is_killed_takes_its_processes_along(lab, tmp_path):
    """Killed with -9, nobody can clean up: broker, roles and workers end all the same."""
    process = lab.start("simulate", "lab:app", "--clients", "4", "--workers", "2", "--train-config", "sleep_s=600")
    lab.until("two workers", lambda: len(workers_of(process)) == 2)
    processes = descendants(process.pid)
    assert len(processes) >= 5
    process.kill()
    process.wait()
    lab.until("their end", lambda: not any(lab.alive(pid) for pid in processes))
    for left in (tmp_path / "tmp").glob("fedbus-*"):
        shutil.rmtree(left)


def test_a_module_that_cannot_be_imported_is_said_once(lab, tmp_path):
    """One line and exit code 2, before anything is started."""
    (tmp_path / "broken.py").write_text("import no_such_thing")
    done = lab.run("simulate", "broken:app", code=2)
    assert done.stderr == "fedbus: broken imports no_such_thing, which is not installed here\n"
    assert done.stdout == ""
    assert "no module 'nowhere'" in lab.run("simulate", "nowhere:app", code=2).stderr


def test_an_app_that_raises_shows_where(lab):
    """Exit code 1; the worker's first traceback is shown, once, and the reason stands in the last line."""
    process = lab.start("simulate", "lab:app", "--clients", "20", "--workers", "1", "--train-config", "fails=true")
    assert process.wait(60) == 1
    said = lab.said()
    assert said.count("Traceback") == 1
    assert 'raise ValueError("nothing to learn from")' in said
    assert said.splitlines()[-1].startswith("fedbus: the simulation failed: round 1 failed 1 times")
    assert "ValueError: nothing to learn from" in said.splitlines()[-1]


def test_who_is_not_simulated_is_not_counted_in_silence(lab):
    """In a workspace where others take part the simulation fails and names them; its session is stopped."""
    lab.up()
    lab.clients(1)
    common = [
        "simulate",
        "lab:app",
        "--clients",
        "2",
        "--workers",
        "1",
        "--rounds",
        "50",
        "--nats",
        lab.env["FEDBUS_URL"],
    ]
    assert "site-0 take part but are not simulated" in lab.run(*common, code=1).stderr
    (session,) = lab.until("its end", lambda: [s for s in lab.json("session", "list") if s["ended"]])
    assert session["state"] == "stopped"


def test_what_was_simulated_may_stay(lab, tmp_path):
    """With --data-dir the session and its models are there for `fedbus up` afterwards; people see a table."""
    done = lab.run("simulate", "lab:app", "--clients", "3", "--rounds", "2", "--workers", "1", "--data-dir", "kept")
    assert "3 clients (sim-0 .. sim-2), 3 of them here in 1 workers; 3 a round, 2 rounds, seed 0" in done.stdout
    assert "completed: 2 rounds done" in done.stdout
    lab.up("--data-dir", "kept")
    (session,) = lab.json("session", "list")
    assert (session["state"], session["rounds_done"]) == ("completed", 2)
    assert session["digest"] in done.stdout


def test_the_example_learns(lab):
    """The published example: 60 owners of digits, a few asked in a round, and the model is soon better than chance."""
    lab.env["OMP_NUM_THREADS"] = "1"
    (lab.place / "digits.py").write_bytes((ROOT / "examples" / "simulate" / "digits.py").read_bytes())
    common = [
        "simulate",
        "digits:app",
        "--clients",
        "60",
        "--per-round",
        "10",
        "--rounds",
        "12",
        "--evaluate-every",
        "6",
    ]
    figures = lab.json(*common, "--workers", "2")
    accuracies = [found["accuracy"] for found in figures["metrics"] if found]
    assert len(accuracies) == 2
    assert accuracies[-1] > max(0.5, accuracies[0])
    assert lab.json(*common, "--workers", "1")["model_digest"] == figures["model_digest"]
