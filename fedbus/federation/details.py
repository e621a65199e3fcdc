"""A version in detail: its arrays, and what its session's journal says of how it was made and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedbus.config.session import SessionConfig
from fedbus.errors import NotFound
from fedbus.federation.info import SessionInfo
from fedbus.federation.registered import ModelInfo
from fedbus.messages import records
from fedbus.tensors.spec import ArraySpec

if TYPE_CHECKING:
    from fedbus.federation.service import Federation


@dataclass(frozen=True, slots=True)
class Detail:
    """A version; ``told``: its session up to and beyond it, None where it was brought in, or its journal is gone.

    ``arrays``: empty where its arrays are removed. ``clients``: whose updates it was made of, where the session tells.
    ``spread``: each client's own metrics of its evaluation, where the session reveals them. ``children``: versions made
    from it.
    """

    info: ModelInfo
    arrays: tuple[ArraySpec, ...]
    children: tuple[str, ...]
    told: SessionInfo | None = None
    clients: tuple[str, ...] = ()
    spread: tuple[Mapping[str, float], ...] = ()
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def config(self) -> SessionConfig | None:
        """The settings of its session."""
        return self.told.config if self.told is not None else None


@dataclass(slots=True)
class _Told:
    """What a journal says, with what `SessionInfo` does not keep."""

    version: str
    info: SessionInfo
    closing: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    spread: tuple[Mapping[str, float], ...] = ()
    metrics: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def take(self, record: records.Record, at: float) -> None:
        self.info.apply(record, at)
        match record:
            case records.RoundClosing():
                self.closing = record.counted
            case records.ModelPublished() if record.version == self.version:
                self.clients = self.closing
            case records.RoundEvaluated():
                self.metrics[record.version] = record.metrics
                if record.version == self.version:
                    self.spread = tuple(measured.metrics for measured in record.clients)
            case _:
                pass


async def detail_of(federation: Federation, info: ModelInfo, children: tuple[str, ...]) -> Detail:
    """Return a version in detail."""
    try:
        arrays = (await federation.models.spec(info.version)).arrays
    except NotFound:
        arrays = ()
    if not info.session:
        return Detail(info, arrays, children)
    told = _Told(info.version, SessionInfo(info.session))
    async for journalled in federation.journal.entries(info.session):
        for record in journalled.entry.unpack():
            told.take(record, journalled.entry.at)
    known = told.info if told.info.started_at else None
    clients = tuple(sorted(told.clients))
    return Detail(info, arrays, children, known, clients, told.spread, told.metrics)
