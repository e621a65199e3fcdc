"""`fedbus bench echo|aggregate|transfer|clients|flood|control|profile`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from enum import Enum
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from fedbus.cli.environment import setup_log
from fedbus.cli.running import run
from fedbus.errors import ConfigError

if TYPE_CHECKING:
    from fedbus.cli.benches.case import Case
    from fedbus.cli.benches.report import Column

app = typer.Typer(help="Measure.", no_args_is_help=True)

RUNS_MAX = 64
"""Of one command: options that may be given several times multiply."""

Asked = TypeVar("Asked")


class Workload(Enum):
    """Shortcuts for the work that the pages compare by."""

    W1 = "W1"
    W2 = "W2"
    W3 = "W3"
    W4 = "W4"


class Sharding(Enum):
    """What combiners share out among themselves."""

    CLIENTS = "clients"
    CHUNKS = "chunks"


class Access(Enum):
    """Who is let in."""

    OPEN = "open"
    SECURED = "secured"


Json = Annotated[bool, typer.Option("--json", help="The last line is one JSON object.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")]
Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, max=256, help="Processes that share the clients (2).", show_default=False),
]


@app.callback()
def bench() -> None:
    """Measure a federation on this machine."""


@app.command("echo")
def echo(
    *,
    clients: Annotated[
        list[int] | None, typer.Option("--clients", min=1, max=100_000, help="How many (10); repeatable.")
    ] = None,
    model_mb: Annotated[
        float | None,
        typer.Option("--model-mb", min=0.0, max=100_000, metavar="MB", help="Size of the model, 10^6 bytes (45)."),
    ] = None,
    arrays: Annotated[
        int | None, typer.Option("--arrays", min=1, max=100_000, help="Arrays of the model (62).")
    ] = None,
    workload: Annotated[
        list[Workload] | None, typer.Option("--workload", help="In place of the three above; repeatable.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100_000, help="Rounds to run.")] = 5,
    processes: Processes = None,
    combiners: Annotated[
        list[int] | None, typer.Option("--combiners", min=1, max=64, help="How many (1); repeatable.")
    ] = None,
    sharding: Annotated[
        list[Sharding] | None,
        typer.Option("--sharding", help="What several combiners share out (clients); repeatable."),
    ] = None,
    crowd: Annotated[
        bool | None,
        typer.Option("--crowd/--no-crowd", help="Clients share connections (above 100).", show_default=False),
    ] = None,
    access: Annotated[
        list[Access] | None,
        typer.Option("--access", help="Everybody, or members with signatures and seals (open); repeatable."),
    ] = None,
    markdown: Markdown = False,
    json: Json = False,
) -> None:
    """Send a model round: clients that compute nothing, every role in processes of its own, and check the result."""
    from fedbus.cli.benches import case as known
    from fedbus.cli.benches import echo

    if workload and (clients or model_mb is not None or arrays is not None):
        raise ConfigError("--workload says clients, size and arrays: give either it or these")
    own = known.Case()
    own = replace(own, model_mb=own.model_mb if model_mb is None else model_mb, arrays=arrays or own.arrays)
    works = [replace(known.WORKLOADS[w.name], workload=w.name) for w in workload or ()]
    works = works or [replace(own, clients=count) for count in clients or [own.clients]]
    cases: list[Case] = [
        replace(
            work,
            rounds=rounds,
            processes=processes,
            combiners=count,
            sharding=shards.value,
            crowd=crowd,
            access=who.value,
        )
        for work, count in product(works, combiners or [1])
        for shards in (sharding or [Sharding.CLIENTS])[: None if count > 1 else 1]  # one combiner shares nothing out
        for who in access or [Access.OPEN]
    ]
    quiet = markdown or json
    _bench(cases, lambda case: echo.run(case, quiet=quiet), echo.COLUMNS, markdown=markdown, json=json)


@app.command("aggregate")
def aggregate(
    *,
    model_mb: Annotated[
        list[float] | None,
        typer.Option("--model-mb", min=0.0, max=4000, metavar="MB", help="Size, 10^6 bytes (45); repeatable."),
    ] = None,
    arrays: Annotated[
        int | None, typer.Option("--arrays", min=1, max=100_000, help="Arrays of the model (62).")
    ] = None,
    clients: Annotated[
        list[str] | None,
        typer.Option("--clients", help="Measure robust strategies with so many updates instead: 10,100; repeatable."),
    ] = None,
    parts: Annotated[
        int | None,
        typer.Option("--parts", min=1, max=100_000_000, help="With --clients: numbers of the model (524,288)."),
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option("--dtype", help="numpy's name for the numbers (float32); repeatable.")
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, max=1000, help="Measurements; their median counts.")] = 5,
    markdown: Markdown = False,
    json: Json = False,
) -> None:
    """Fold updates in this process, without a bus, beside copying and plain summing of the same bytes.

    With --clients: median, trimmed mean, Krum and geometric median of updates on disk, beside numpy's in memory.
    """
    import asyncio

    from fedbus.cli.benches import aggregate

    dtypes = dtype or ["float32"]
    if clients is None:
        if parts is not None:
            raise ConfigError("--parts goes with --clients")
        folds = [aggregate.Case(size, arrays or 62, kind, runs) for size, kind in product(model_mb or [45.0], dtypes)]
        _bench(
            folds, lambda case: asyncio.to_thread(aggregate.run, case), aggregate.COLUMNS, markdown=markdown, json=json
        )
        return
    from fedbus.cli.benches import cohort

    if model_mb or arrays:
        raise ConfigError("--model-mb and --arrays do not go with --clients: give --parts")
    cases = [cohort.Case(count, parts or cohort.PARTS, kind, runs) for count, kind in product(_counts(clients), dtypes)]
    _bench(cases, lambda case: asyncio.to_thread(cohort.run, case), cohort.COLUMNS, markdown=markdown, json=json)


def _counts(texts: Iterable[str]) -> list[int]:
    """Numbers of clients: several in one text, with commas, or in several."""
    words = [word for text in texts for word in text.split(",")]
    try:
        return [int(word) for word in words]
    except ValueError:
        raise ConfigError(f"--clients: expected whole numbers with commas between them, got {words}") from None


@app.command("transfer")
def transfer(
    *,
    clients: Annotated[
        list[int] | None, typer.Option("--clients", min=1, max=1000, help="How many (1, 4, 16); repeatable.")
    ] = None,
    model_mb: Annotated[
        float, typer.Option("--model-mb", min=0.0, max=100_000, metavar="MB", help="Size of the model, 10^6 bytes.")
    ] = 45,
    arrays: Annotated[int, typer.Option("--arrays", min=1, max=100_000, help="Arrays of the model.")] = 62,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="Rounds to run.")] = 4,
    processes: Processes = None,
    markdown: Markdown = False,
    json: Json = False,
) -> None:
    """Measure the model's way down, the updates' way up and the publication apart, beside plain transfers."""
    from fedbus.cli.benches import transfer

    cases = [transfer.Case(count, model_mb, arrays, rounds, processes) for count in clients or [1, 4, 16]]
    _bench(cases, transfer.run, transfer.COLUMNS, markdown=markdown, json=json)


@app.command("clients")
def clients(
    *,
    clients: Annotated[
        list[int] | None, typer.Option("--clients", min=1, max=100_000, help="How many (1,000); repeatable.")
    ] = None,
    model_mb: Annotated[
        float, typer.Option("--model-mb", min=0.0, max=1000, metavar="MB", help="Size of the model, 10^6 bytes.")
    ] = 0.01,
    arrays: Annotated[int, typer.Option("--arrays", min=1, max=100_000, help="Arrays of the model.")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100_000, help="Rounds to run.")] = 5,
    processes: Processes = None,
    combiners: Annotated[int, typer.Option("--combiners", min=1, max=64, help="How many.")] = 1,
    crowd: Annotated[bool, typer.Option("--crowd/--no-crowd", help="Clients of a process share a connection.")] = True,
    idle_s: Annotated[
        float, typer.Option("--idle-s", min=0.1, max=3600, metavar="SECONDS", help="How long idling is measured.")
    ] = 10,
    markdown: Markdown = False,
    json: Json = False,
) -> None:
    """Measure what many clients cost, idle and in rounds of a small model."""
    from fedbus.cli.benches import clients as bench

    cases = [
        bench.Case(count, model_mb, arrays, rounds, combiners, processes, crowd, idle_s) for count in clients or [1000]
    ]
    _bench(cases, bench.run, bench.COLUMNS, markdown=markdown, json=json)


@app.command("flood")
def flood(
    *,
    clients: Annotated[int, typer.Option("--clients", min=1, max=100, help="How many.")] = 4,
    model_mb: Annotated[
        float, typer.Option("--model-mb", min=0.0, max=1000, metavar="MB", help="Size of the model, 10^6 bytes.")
    ] = 45,
    rounds: Annotated[int, typer.Option("--rounds", min=2, max=10_000, help="Rounds; half are flooded.")] = 12,
    rate: Annotated[int, typer.Option("--rate", min=1, max=100_000, help="Bad messages a second.")] = 1000,
    markdown: Markdown = False,
    json: Json = False,
) -> None:
    """Measure what a flood of bad messages costs a round; exit code 1 where it takes more than 1.2 times as long."""
    from fedbus.cli.benches import flood as bench

    _bench([bench.Case(clients, model_mb, rounds, rate)], bench.run, bench.COLUMNS, markdown=markdown, json=json)


@app.command("control")
def control(
    *,
    sessions: Annotated[
        int, typer.Option("--sessions", min=1, max=1_000_000, help="Sessions in the journal, of 10 events each.")
    ] = 10_000,
    requests: Annotated[int, typer.Option("--requests", min=2, max=10_000, help="Of each page.")] = 50,
    markdown: Markdown = False,
    json: Json = False,
) -> None:
    """Measure how soon a gateway knows a long journal, and how soon its pages come."""
    from fedbus.cli.benches import control as bench

    _bench([bench.Case(sessions, requests)], bench.run, bench.COLUMNS, markdown=markdown, json=json)


@app.command("profile")
def profile(
    *,
    workload: Annotated[list[Workload] | None, typer.Option("--workload", help="W1; repeatable.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100_000, help="Rounds to run.")] = 10,
    processes: Processes = None,
    combiners: Annotated[int, typer.Option("--combiners", min=1, max=64, help="How many.")] = 1,
    markdown: Markdown = False,
    json: Json = False,
) -> None:
    """Show where the processor time of each role goes, by py-spy, which has to be installed."""
    from fedbus.cli.benches import case as known
    from fedbus.cli.benches import profile as bench

    names = [found.name for found in workload or [Workload.W1]]
    cases = [
        replace(known.WORKLOADS[n], workload=n, rounds=rounds, processes=processes, combiners=combiners) for n in names
    ]

    async def measure(case: Case) -> dict[str, Any]:
        lines = await bench.run(case)
        return {"correct": all(line["correct"] for line in lines), "lines": lines}

    _bench(cases, measure, bench.COLUMNS, markdown=markdown, json=json)


def _bench(
    cases: Iterable[Asked],
    measure: Callable[[Asked], Awaitable[dict[str, Any]]],
    columns: Sequence[Column],
    *,
    markdown: bool,
    json: bool,
) -> None:
    """Measure one case after the other and show all; exit code 1 where a result is wrong."""
    from fedbus.cli.benches.report import present

    cases = list(cases)
    if len(cases) > RUNS_MAX:
        raise ConfigError(f"{len(cases)} runs were asked for: at most {RUNS_MAX} at once")
    setup_log("error", "bench")

    async def all_of_them() -> list[dict[str, Any]]:
        return [await measure(case) for case in cases]

    found = run(all_of_them())
    correct = all(figures["correct"] for figures in found)
    by_line = any("lines" in figures for figures in found)
    shown = [line for figures in found for line in figures["lines"]] if by_line else found
    present(shown, columns, markdown=markdown, json=json, by_line=by_line)
    if not correct:
        raise typer.Exit(1)
