"""What `fedbus top` shows, as lines that fit: cut to the width, and to the height by what can be left out.

At the top is what is always shown: broker, coordinators, clients. Below are tables that share the rest of the height;
the longest gives way first, and says how many of its lines are not shown.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from fedbus.cli.output import duration, metrics_text, size

if TYPE_CHECKING:
    from rich.text import Text

    from fedbus.cli.top import Glance, SessionLine
    from fedbus.gateway.views import OverviewView, WaitView

ROWS_MIN = 2
"""Lines that a table keeps when there is no room: its head, and one that says how many there are."""

BAR = 12
"""Characters of a session's progress."""

STYLES = {
    "running": "green",
    "waiting": "yellow",
    "failed": "red",
    "refused": "red",
    "stopped": "dim",
    "completed": "dim",
}


def lines(glance: Glance, width: int, height: int) -> list[Text]:
    """Return what is known as at most ``height`` lines (0: as many as there are) of at most ``width`` cells."""
    top = list(_head(glance.overview, width))
    tables = [table for table in (_combiners(glance), _sessions(glance), _waits(glance), _streams(glance)) if table]
    if height:
        tables = fit(tables, height - len(top))
    for table in tables:
        top += [_text(""), *table]
    for line in top:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return top[:height] if height else top


def fit(tables: Sequence[list[Text]], height: int) -> list[list[Text]]:
    """Return tables that take at most ``height`` lines together, with an empty line above each.

    The longest gives way until all have room; where even two lines for each are too many, the last are left out.
    """
    kept, height = [list(table) for table in tables], max(0, height)
    while len(kept) * (1 + ROWS_MIN) > height:
        kept.pop()
    rows = [len(table) for table in kept]
    while sum(rows) + len(rows) > height:
        rows[rows.index(max(rows))] -= 1
    for table, count in zip(kept, rows, strict=True):
        if count < len(table):
            hidden = len(table) - count + 1
            table[count - 1 :] = [_text(f"  and {hidden} more", "dim")]
    return kept


def _head(seen: OverviewView, width: int) -> Iterator[Text]:
    clock = time.strftime("%H:%M:%S", time.localtime(seen.at))
    title = f"fedbus {seen.version}, workspace {seen.workspace}"
    yield _text(f"{title}{clock:>{max(1, width - len(title))}}", "bold")
    broker = seen.broker
    if not broker.connected:
        yield _text("broker        is away; connecting again", "red")
    else:
        away = f", {1000 * broker.round_trip_s:.1f} ms away" if broker.round_trip_s is not None else ""
        held = sum(stream.nbytes for stream in broker.streams)
        named = f"{broker.server} {broker.version}".strip()
        yield _text(f"broker        {named}{away}; {len(broker.streams)} streams, {size(held)}; {seen.models} models")
    if not seen.coordinator_answers:
        yield _text("coordinators  none answers: what is known of others is old", "red")
    else:
        names = [f"{peer.name} leads" if peer.leads else peer.name for peer in seen.coordinators]
        yield _text(f"coordinators  {', '.join(names) or 'one answers'}")
    yield _text(f"gateways      {', '.join(peer.name for peer in seen.gateways) or 'none'}")
    yield from _archive(seen)
    doing = ", ".join(f"{count} {what}" for what, count in sorted(seen.clients_doing.items(), key=lambda of: -of[1]))
    yield _text(f"clients       {seen.clients}{f': {doing}' if doing else ''}")


def _archive(seen: OverviewView) -> Iterator[Text]:
    store = seen.archive
    if store is None:
        return
    waiting = f", {store.waiting} to come ({size(store.waiting_bytes)})" if store.waiting else ""
    if store.waiting and store.since_at is not None:
        waiting += f", the first for {duration(seen.at - store.since_at)}"
    lost = f", {len(store.refused)} cannot be" if store.refused else ""
    failing = f"; fails: {store.error}" if store.error else ""
    style = "red" if store.error else ""
    yield _text(f"store         {store.store}: {store.archived} archived{waiting}{lost}{failing}", style)


def _combiners(glance: Glance) -> list[Text]:
    peers = glance.overview.combiners
    rows = [(p.name, str(p.clients), str(p.updates), size(p.nbytes), _pairs(p.attributes), p.doing) for p in peers]
    if not rows:
        return [_text("no combiner is there", "yellow")]
    return _table(("combiner", "clients", "updates", "bytes", "attributes", "doing"), rows, right=(1, 2, 3))


def _sessions(glance: Glance) -> list[Text]:
    rows = [
        (
            line.session,
            line.status,
            f"{line.rounds_closed}/{line.rounds}",
            _bar(line),
            duration(line.left_s) if line.left_s is not None else "",
            metrics_text(line.metrics) or (line.reason if line.status in ("failed", "refused") else ""),
        )
        for line in glance.sessions
    ]
    if not rows:
        return [_text("no sessions yet", "dim")]
    styles = ["", *(STYLES.get(line.status, "") for line in glance.sessions)]
    return _table(("session", "status", "rounds", "", "left", "metrics"), rows, right=(2, 4), styles=styles)


def _bar(line: SessionLine) -> str:
    done = min(1.0, line.rounds_closed / line.rounds) if line.rounds else 0.0
    filled = int(BAR * done)
    return "#" * filled + "." * (BAR - filled)


def _waits(glance: Glance) -> list[Text]:
    now = glance.overview.at
    found = [_text(wait_line(wait, now)) for wait in glance.overview.waits]
    return [_text("waits", "bold"), *found] if found else []


def wait_line(wait: WaitView, now: float) -> str:
    """Return a wait with its count-down first, for that is what is looked at."""
    left = wait.until_at - now
    count_down = duration(left) if left > 0 else "over"
    on = f" ({', '.join(wait.on[:3])}{', ...' if len(wait.on) > 3 else ''})" if wait.on else ""
    return f"  {count_down:>8s}  {wait.session} round {wait.round}: {wait.what}{on}, then {wait.then}"


def _streams(glance: Glance) -> list[Text]:
    rows = []
    for stream in glance.overview.broker.streams:
        share = (
            f"{stream.nbytes / stream.bytes_max:.0%} of {size(stream.bytes_max)}" if stream.bytes_max else "no bound"
        )
        rows.append((stream.name, stream.storage, str(stream.messages), size(stream.nbytes), share))
    return _table(("stream", "on", "messages", "bytes", "full"), rows, right=(2, 3)) if rows else []


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int], styles: Sequence[str] = ()
) -> list[Text]:
    cells = [list(columns), *([_printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    found = []
    for index, line in enumerate(cells):
        texts = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(line)]
        style = "bold" if index == 0 else styles[index] if index < len(styles) else ""
        found.append(_text("  ".join(texts).rstrip(), style))
    return found


def _pairs(attributes: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(attributes.items()))


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(_printable(text), style=style)


def _printable(text: str) -> str:
    """Return a text that moves no cursor: names, reasons and metrics are others' words."""
    return "".join(c if c.isprintable() else "?" for c in text)
