"""What became true in a workspace, a line an event."""

from __future__ import annotations

import sys

from fedbus.cli.listing import federation_of
from fedbus.cli.output import metrics_text, moment, names_text, print_json, size
from fedbus.cli.roles import Place
from fedbus.federation.info import SessionEvent
from fedbus.federation.listing import EventFilter
from fedbus.messages import records


async def list_events(
    place: Place, wanted: EventFilter, *, follow: bool, after: str | None, limit: int | None, json: bool
) -> None:
    """Print events, the oldest first; with ``follow`` also those that come."""
    told = 0
    async with federation_of(place) as federation:
        found = federation.events(
            session=wanted.session,
            kind=wanted.kinds,
            since=wanted.since,
            until=wanted.until,
            text=wanted.text,
            follow=follow,
            after=after,
        )
        async for event in found:
            if json:
                print_json(as_json(event))
            else:
                print(f"{moment(event.at)}  {event.id:>8s}  {event.session}  {event_text(event)}", flush=True)
            told += 1
            if told == limit:
                break
    if not told and not json:
        print("no such events", file=sys.stderr)


def as_json(event: SessionEvent) -> dict[str, object]:
    """Return an event as REST has it."""
    return {
        "id": event.id,
        "sequence": event.sequence,
        "session": event.session,
        "kind": event.kind,
        "at": event.at,
        "data": event.data,
    }


def event_text(event: SessionEvent) -> str:  # noqa: C901, PLR0911 - one answer a record, nothing nested
    """Return an event in a few words."""
    match event.data:
        case records.SessionStarted() as started:
            return f"started by {started.by or '-'}: {started.config.strategy}, {started.config.rounds} rounds"
        case records.RoundOpened() as opened:
            again = f" again, attempt {opened.attempt}" if opened.attempt > 1 else ""
            asked, enough = len(opened.clients), opened.target
            return f"round {opened.round} opened{again}: {asked} clients are asked, {enough} are enough"
        case records.UpdatesRecorded() as updates:
            yes = [f"{names_text([one.client for one in updates.accepted])} accepted"] if updates.accepted else []
            no = [f"{one.client} {_how(one)}: {one.reason}" for one in updates.refused]
            no += [f"{one.client} withdrew: {one.reason}" for one in updates.withdrawn]
            return f"round {updates.round}: {'; '.join([*yes, *no])}"
        case records.ClientsMoved() as moved:
            return f"round {moved.round}: {len(moved.moves)} clients send to another combiner: {moved.reason}"
        case records.RoundClosing() as closing:
            return f"round {closing.round} closes with {len(closing.counted)} updates: {closing.reason}"
        case records.RoundFailed() as failed:
            return f"round {failed.round} failed: {failed.reason}"
        case records.ModelPublished() as model:
            return f"round {model.round}: model {model.version} is published, {size(model.nbytes)}"
        case records.RoundClosed() as closed:
            left_out = f", {len(closed.not_counted)} not counted" if closed.not_counted else ""
            text = f"round {closed.round} closed: {closed.counted} updates{left_out}"
            return f"{text}  {metrics_text(closed.metrics)}".rstrip()
        case records.EvaluationOpened() as opened:
            return f"round {opened.round}: {len(opened.clients)} clients evaluate {opened.version}"
        case records.RoundEvaluated() as found:
            text = f"round {found.round}: {found.version} evaluated by {found.answered}"
            return f"{text}  {metrics_text(found.metrics)}".rstrip()
        case records.SessionEnded() as ended:
            return f"{ended.outcome}: {ended.reason}"


def _how(refused: records.RefusedUpdate) -> str:
    return "declined" if refused.declined else "refused"
