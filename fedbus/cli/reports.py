"""The report of a round on the command line: who was waited for, how long, and why."""

from __future__ import annotations

from collections.abc import Iterator

from fedbus.cli.listing import federation_of
from fedbus.cli.output import duration, moment, print_json, print_table
from fedbus.cli.roles import Place
from fedbus.federation.report import ClientReport, RoundReport

CLIENTS_SHOWN = 100
"""Clients that are worth a line each, the slowest; ``--json`` names them all."""

COLUMNS = ("client", "outcome", "after", "of that", "combiner", "what")


async def report_round(place: Place, name: str, round_: int | None, *, json: bool) -> None:
    """Print the report of a round, None: of the newest."""
    async with federation_of(place) as federation:
        report = await federation.session(name).report(round_)
    if json:
        print_json(as_json(report))
        return
    for line in head(report):
        print(line)
    print()
    print_table(COLUMNS, [row(one) for one in report.clients[:CLIENTS_SHOWN]], empty="nobody was asked")
    left = len(report.clients) - CLIENTS_SHOWN
    if left > 0:
        print(f"and {left} more, who were faster; --json names them all")


def head(report: RoundReport) -> Iterator[str]:
    """Yield what there is to say of the round as a whole."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.outcomes.items()))
    end = report.ended_at or report.fixed_at
    took = f", {duration(end - report.opened_at)}" if end else ""
    yield f"round {report.round} of {report.session}: {report.why}"
    yield f"opened {moment(report.opened_at)}{took}; deadline after {duration(report.deadline_at - report.opened_at)}"
    yield f"asked {report.asked}, enough {report.target}, quorum {report.quorum}: {counts}"
    if report.fixed_at and report.ended_at:
        fixed, ended = report.fixed_at - report.opened_at, report.ended_at - report.fixed_at
        yield f"waited {duration(fixed)} for updates, {duration(ended)} for the model"
    for number, reason in enumerate(report.earlier, 1):
        yield f"attempt {number} failed: {reason}"


def row(one: ClientReport) -> tuple[str, ...]:
    """Return a client's line of the table."""
    what = [one.what] if one.what else []
    if one.by and one.by != one.client:
        what.append(f"found by {one.by}")
    if one.stale:
        what.append(f"made {one.stale} rounds before" if one.stale > 1 else "made one round before")
    if one.moves:
        what.append(f"moved {one.moves} times" if one.moves > 1 else "moved once")
    after = "-" if one.seconds is None else duration(one.seconds)
    return one.client, one.outcome, after, spent_text(one), one.combiner, "; ".join(what)


def spent_text(one: ClientReport) -> str:
    """Return where a client's time went, the parts that are worth a word: ``fetch 0.21 s, train 3.40 s``."""
    parts = one.spent._asdict().items() if one.spent else ()
    return ", ".join(f"{name.removesuffix('_s')} {duration(seconds)}" for name, seconds in parts if seconds >= 0.005)


def as_json(report: RoundReport) -> dict[str, object]:
    """Return all of a report, for JSON."""
    fields: dict[str, object] = {name: getattr(report, name) for name in RoundReport.__slots__}
    clients = [
        {name: getattr(one, name) for name in ClientReport.__slots__} | {"spent": one.spent and one.spent._asdict()}
        for one in report.clients
    ]
    return fields | {"outcomes": report.outcomes, "clients": clients}
