"""A model's card: one page of Markdown that says what a version is, how it was made, and how to load it.

Made anew each time, of what is known then. Names of arrays and metrics come from clients, notes from people: all of
them are escaped, so that nothing in a card is a link, a tag or a heading but what is written here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence

from fedbus.config.session import SessionConfig
from fedbus.federation.details import Detail
from fedbus.federation.registered import ModelInfo

ROUNDS_MAX = 50
"""Rounds in the table, the last ones."""

ARRAYS_MAX = 50
METRICS_MAX = 12
LINE_MAX = 20
"""Versions that are named where it comes from."""

_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]()#+-.!|~>"} | {"<": "&lt;", "&": "&amp;"})


def escaped(text: str, chars_max: int = 200) -> str:
    """Return a text as Markdown that shows it and nothing else, in one line."""
    plain = "".join(char if char.isprintable() else " " for char in text[:chars_max])
    return plain.translate(_SPECIAL) + ("…" if len(text) > chars_max else "")


def card_of(detail: Detail, line: Sequence[ModelInfo], workspace: str) -> str:
    """Return the card of a version; ``line``: its lineage."""
    info = detail.info
    parts = [
        f"# {info.version}",
        _about(detail, workspace),
        _table(("what", "value"), _facts(detail)),
        *_section("Where it comes from", _line(info, line)),
        *_section("What is noted", "\n".join(f"> {escaped(text, 2000)}" for text in info.note.splitlines())),
        *_section("Measured", _measured(detail)),
        *_section("Rounds", _rounds(detail)),
        *_section("Settings", _settings(detail.config) if detail.config else ""),
        *_section("Arrays", _arrays(detail)),
        *_section("How to load it", _how(info)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(detail: Detail, workspace: str) -> str:
    info, told = detail.info, detail.told
    if told is None:
        return f"A model that was brought into workspace {workspace}."
    began = "the model that session began with" if not info.round else f"made in round {info.round} of session"
    text = f"A model of workspace {workspace}, {began} {told.session}"
    return f"{text}, of {info.participants} clients' updates." if info.participants else f"{text}."


def _facts(detail: Detail) -> Iterable[tuple[str, str]]:
    info, told = detail.info, detail.told
    yield "digest (BLAKE3 of its bytes)", f"`{info.digest}`"
    yield "bytes", f"{info.nbytes:,}"
    yield "published", _moment(info.at)
    if info.kept != "kept":
        why = f", {_moment(info.removed_at)}: {escaped(info.removed_why, 300)}" if info.removed_at else ""
        yield "its arrays", f"{info.kept}{why}"
    if info.stages:
        yield "stages", ", ".join(info.stages)
    if told is not None:
        yield "strategy", escaped(told.config.strategy)
        found = next((one for one in told.rounds if one.version == info.version), None)
        if found is not None:
            yield "updates that count", str(found.counted)
            yield "bytes from clients", f"{found.bytes_up:,}"
            yield "bytes to clients", f"{found.bytes_down:,}"
        if detail.clients:
            named = ", ".join(detail.clients[:LINE_MAX])
            more = f" and {len(detail.clients) - LINE_MAX} more" if len(detail.clients) > LINE_MAX else ""
            yield "clients", f"{named}{more}"


def _line(info: ModelInfo, line: Sequence[ModelInfo]) -> str:
    known = {one.version: one for one in line}
    found: list[str] = []
    version = info.parent
    while version and len(found) < LINE_MAX:
        one = known.get(version)
        what = f" ({_origin(one)})" if one is not None else ""
        found.append(f"- {version}{what}")
        version = one.parent if one is not None else ""
    return "\n".join(found)


def _origin(one: ModelInfo) -> str:
    if not one.session:
        return "brought in"
    return f"session {one.session}, round {one.round}" if one.round else f"session {one.session} began with it"


def _measured(detail: Detail) -> str:
    names = sorted(detail.info.metrics)[:METRICS_MAX]
    rows = []
    for name in names:
        own = [metrics[name] for metrics in detail.spread if name in metrics]
        spread = f"{min(own):.4g} / {statistics.median(own):.4g} / {max(own):.4g}" if own else ""
        rows.append((escaped(name), f"{detail.info.metrics[name]:.6g}", spread, str(len(own)) if own else ""))
    if not rows:
        return ""
    return _table(("metric", "over all", "clients: least / median / most", "clients"), rows)


def _rounds(detail: Detail) -> str:
    if detail.told is None or not detail.info.round:
        return ""
    rounds = [one for one in detail.told.rounds if one.round <= detail.info.round][-ROUNDS_MAX:]
    found = {name for one in rounds for name in (detail.metrics.get(one.version) or one.train_metrics)}
    names = sorted(found)[:METRICS_MAX]
    rows = []
    for one in rounds:
        metrics = detail.metrics.get(one.version) or one.train_metrics
        values = (f"{metrics[name]:.6g}" if name in metrics else "" for name in names)
        rows.append((str(one.round), str(one.counted), f"{one.seconds:.1f}", *values))
    columns = ("round", "updates", "seconds", *map(escaped, names))
    return _table(columns, rows) if rows else ""


def _settings(config: SessionConfig) -> str:
    default = SessionConfig()
    rows = [
        (escaped(name), escaped(str(getattr(config, name))))
        for name in SessionConfig.model_fields
        if getattr(config, name) != getattr(default, name) or name in ("rounds", "strategy")
    ]
    return _table(("setting", "value"), rows)


def _arrays(detail: Detail) -> str:
    rows = [
        (escaped(array.name), str(array.numpy), " x ".join(map(str, array.shape)) or "one number")
        for array in detail.arrays[:ARRAYS_MAX]
    ]
    more = len(detail.arrays) - ARRAYS_MAX
    text = _table(("array", "dtype", "shape"), rows) if rows else ""
    return f"{text}\n\n… and {more} more" if more > 0 else text


def _how(info: ModelInfo) -> str:
    return (
        f"```python\nasync with fedbus.connect(url) as federation:\n"
        f'    arrays = await federation.models.get("{info.version}")\n```\n\n'
        f"or `fedbus model download {info.version}`, which writes a safetensors file and checks the digest."
    )


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}", text] if text else []


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
