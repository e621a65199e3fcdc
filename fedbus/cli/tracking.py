"""Sessions on their way to sinks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

from fedbus.cli.listing import federation_of
from fedbus.cli.roles import Place
from fedbus.errors import ConfigError
from fedbus.federation.service import Federation
from fedbus.sinks import Sink, open_sink
from fedbus.sinks.tracking import track as track_one
from fedbus.sinks.tracking import track_all
from fedbus.together import together


async def track(place: Place, session: str | None, sinks: Sequence[str], *, everything: bool, follow: bool) -> None:
    """Tell sinks of a session, or of all; each goes at its own pace."""
    if (session is None) != everything:
        raise ConfigError("expected a session or --all, one of the two")
    # MLflow reports its use to its makers unless told otherwise; who runs a federation did not ask for that.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with ExitStack() as stack:
        opened: list[Sink] = []
        for text in sinks:
            opened.append(open_sink(text))
            stack.callback(opened[-1].close)
        async with federation_of(place) as federation, together() as group:
            for sink in opened:
                group.create_task(_tell(federation, session, sink, follow=follow))


async def _tell(federation: Federation, session: str | None, sink: Sink, *, follow: bool) -> None:
    if session is None:
        await track_all(federation, sink, follow=follow)
    else:
        await track_one(federation, session, sink, follow=follow)
