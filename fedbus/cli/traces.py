"""`fedbus session trace`: the spans of a round as a waterfall of text, or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from shutil import get_terminal_size

from fedbus.cli.listing import federation_of
from fedbus.cli.output import duration, print_json
from fedbus.cli.roles import Place
from fedbus.federation.traces import RoundTrace, TraceSpan

BAR_CHARS_MIN = 20
"""Of the line of time, however narrow the terminal is."""

NAME_CHARS_MAX = 44
"""Of what stands before it: depth, name of the span, of its role's instance or client."""


async def show_trace(place: Place, name: str, round_: int | None, *, json: bool) -> None:
    """Print the spans of a round; the newest where ``round_`` is None."""
    async with federation_of(place) as federation:
        trace = await federation.session(name).trace(round_)
    if json:
        print_json(asdict(trace) | {"complete": trace.complete})
        return
    width = get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 120
    for line in waterfall(trace, width):
        print(line)


def waterfall(trace: RoundTrace, width: int) -> Iterator[str]:
    """Yield the lines: a heading, then each span with its bar, children below their parents."""
    start = min(span.start_at for span in trace.spans)
    whole_s = max(max(span.end_at for span in trace.spans) - start, 1e-9)
    open_ = "" if trace.complete else "; its end is not known yet"
    count = len(trace.spans)
    yield (
        f"{trace.session}, round {trace.round}: {count} span{'s' if count > 1 else ''} in {duration(whole_s)}{open_}; "
        f"trace {trace.trace_id}"
    )
    texts = [("  " * depth + _label(span), span) for depth, span in trace.tree()]
    names = min(NAME_CHARS_MAX, max(len(text) for text, _ in texts))
    bars = max(BAR_CHARS_MIN, width - names - 12)
    for text, span in texts:
        first = int((span.start_at - start) / whole_s * bars)
        chars = max(1, round(span.seconds / whole_s * bars))
        bar = (" " * min(first, bars - 1) + "#" * chars)[:bars]
        failed = f"  failed: {span.error.splitlines()[0]}" if span.error else ""
        yield f"{text[:names]:{names}s} {duration(span.seconds):>9s} {bar:{bars}s}{failed}".rstrip()


def _label(span: TraceSpan) -> str:
    """Say what it is, and whose: a client's name stands in its attributes, as a crowd speaks for many."""
    who = span.attributes.get("fedbus.client") if span.role == "client" else None
    whose = f" of {span.attributes.get('fedbus.client', '?')}" if span.name == "fold update" else ""
    return f"{span.name}{whose}  {who or span.instance}"
