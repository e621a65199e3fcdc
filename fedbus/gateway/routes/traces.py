"""The trace of a round."""

from __future__ import annotations

from fedbus.access.actions import Action
from fedbus.errors import NotFound
from fedbus.federation.traces import RoundTrace, TraceSpan, why_not
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.views import SpanView, TraceView


async def get_trace(call: Call) -> Reply:
    """What every role did for a round, and when: the spans of it that are on the bus, by their start.

    They are kept there in memory, the newest, of roles that run with `--spans bus`, which is what the command line
    does. Of a round that is under way, and of a client that is still training, they come as they end.
    """
    gateway, name, asked = call.gateway, call.path["session"], call.path["round"]
    await gateway.sessions.wait()
    info = await gateway.sessions.info(name)
    rounds = {one.round: one for one in info.rounds}
    if info.current is not None:
        rounds[info.current.round] = info.current
    wanted = max(rounds, default=0) if asked == "newest" else int(asked)
    if wanted not in rounds:
        opened = f"rounds 1 to {max(rounds)} were opened" if rounds else "no round was opened yet"
        raise NotFound(f"session {name}: no round {asked}; {opened}")
    trace_id = rounds[wanted].trace_id
    spans = await gateway.spans.of(trace_id) if trace_id else ()
    if not spans:
        raise NotFound(why_not(name, wanted, traced=bool(trace_id)))
    return _view(RoundTrace(trace_id, name, wanted, spans))


def _view(trace: RoundTrace) -> TraceView:
    return TraceView(
        trace_id=trace.trace_id,
        session=trace.session,
        round=trace.round,
        complete=trace.complete,
        spans=tuple(map(_span, trace.spans)),
    )


def _span(span: TraceSpan) -> SpanView:
    return SpanView(
        span_id=span.span_id,
        parent_id=span.parent_id,
        name=span.name,
        role=span.role,
        instance=span.instance,
        start_at=span.start_at,
        end_at=span.end_at,
        error=span.error,
        attributes=span.attributes,
        events=tuple({"name": one.name, "at": one.at, "attributes": one.attributes} for one in span.events),
        links=span.links,
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "getTrace",
        "GET",
        f"{API}/sessions/{{session}}/rounds/{{round}}/trace",
        "The spans of a round",
        get_trace,
        command="fedbus session trace SESSION --json",
        python="Session.trace",
        answer=TraceView,
        problems=(404,),
        needs=Action.SESSION_INSPECT,
    ),
)
