"""Versions, stages and what is kept: what the commands print, as tables for people or JSON for programs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedbus.cli.listing import federation_of
from fedbus.cli.output import metrics_text, moment, print_json, print_table, size
from fedbus.cli.roles import Place
from fedbus.errors import ConfigError
from fedbus.federation.details import Detail
from fedbus.federation.registered import ModelInfo, StageInfo

NOTE_CHARS = 40
"""Of a note, in a table."""

METRICS_SHOWN = 2


# --- versions ---


async def list_models(place: Place, asked: Mapping[str, str], *, every: bool, json: bool) -> None:
    """Print versions, oldest first; those whose arrays are removed only where that is asked for."""
    async with federation_of(place) as federation:
        found = await federation.registry.versions(**asked)
    shown = found if every or asked["kept"] else [info for info in found if info.kept != "removed"]
    if json:
        print_json([asdict(info) for info in shown])
        return
    columns = ("version", "session", "round", "size", "digest", "published", "stages", "kept", "metrics", "note")
    rows = [
        (
            info.version,
            info.session or "-",
            info.round,
            size(info.nbytes),
            info.digest[:16],
            moment(info.at),
            ", ".join(info.stages) or "-",
            info.kept,
            _metrics(info.metrics),
            _line(info.note),
        )
        for info in shown
    ]
    print_table(columns, rows, empty="no models are published yet" if not any(asked.values()) else "no version fits")
    if len(shown) < len(found):
        print(f"{len(found) - len(shown)} more versions have no arrays any longer: --all", file=sys.stderr)


def _metrics(metrics: Mapping[str, float]) -> str:
    return metrics_text(dict(sorted(metrics.items())[:METRICS_SHOWN])) or "-"


def _line(text: str) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return f"{line[: NOTE_CHARS - 1]}…" if len(line) > NOTE_CHARS else line or "-"


async def show_model(place: Place, version: str, *, json: bool) -> None:
    """Print a version's origin, what was measured, and its arrays."""
    async with federation_of(place) as federation:
        detail = await federation.registry.describe(await federation.registry.resolve(version))
    if json:
        print_json(_detail(detail))
        return
    info = detail.info
    elements = sum(array.elements for array in detail.arrays)
    lines = (
        ("version", info.version),
        ("session", info.session or "- (it was imported)"),
        ("round", str(info.round)),
        ("made from", info.parent or "-"),
        ("made into", ", ".join(detail.children) or "-"),
        ("published", moment(info.at)),
        ("size", f"{size(info.nbytes)} in {len(detail.arrays)} arrays, {elements:,} numbers"),
        ("digest", info.digest),
        ("stages", ", ".join(info.stages) or "-"),
        ("arrays", info.kept if not info.removed_at else f"{info.kept} {moment(info.removed_at)}: {info.removed_why}"),
        ("updates", str(info.participants) if info.participants else "-"),
        ("clients", ", ".join(detail.clients) or "-"),
        ("metrics", metrics_text(info.metrics) or "-"),
        ("note", _printable(info.note) or "-"),
    )
    for name, value in lines:
        print(f"{name:10s} {value}")
    print()
    rows = [(a.name, a.dtype, "x".join(map(str, a.shape)) or "scalar") for a in detail.arrays]
    print_table(("array", "dtype", "shape"), rows, empty="it has no arrays")


def _detail(detail: Detail) -> dict[str, Any]:
    arrays = [{"name": a.name, "dtype": a.dtype, "shape": list(a.shape)} for a in detail.arrays]
    config = detail.config.model_dump(mode="json") if detail.config is not None else None
    return {
        **asdict(detail.info),
        "arrays": arrays,
        "config": config,
        "clients": detail.clients,
        "children": detail.children,
    }


def _printable(text: str) -> str:
    """Return a text as a terminal may have it: lines, and nothing that moves its cursor."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


async def import_model(place: Place, file: Path, version: str, note: str, *, json: bool) -> None:
    """Bring a file in as a version."""
    async with federation_of(place) as federation:
        info = await federation.registry.import_model(file, version, note)
    _print_model(info, f"{info.version}: {size(info.nbytes)}, digest {info.digest}", json=json)


async def annotate(place: Place, version: str, note: str, *, json: bool) -> None:
    """Note something beside a version."""
    async with federation_of(place) as federation:
        info = await federation.registry.annotate(await federation.registry.resolve(version), note)
    _print_model(info, f"{info.version}: {_line(info.note)}", json=json)


async def remove_model(place: Place, version: str, reason: str, grace_s: float, *, json: bool) -> None:
    """Remove a version's arrays."""
    async with federation_of(place) as federation:
        info = await federation.registry.remove(version, reason, grace_s=grace_s)
    when = "its arrays are removed" if info.kept == "removed" else f"its arrays are removed in {grace_s:g} s"
    _print_model(info, f"{info.version}: {when}", json=json)


def _print_model(info: ModelInfo, line: str, *, json: bool) -> None:
    if json:
        print_json(asdict(info))
    else:
        print(line)


async def show_card(place: Place, version: str, output: Path | None, *, json: bool) -> None:
    """Print a version's card, or write it into a file."""
    async with federation_of(place) as federation:
        name = await federation.registry.resolve(version)
        text = await federation.registry.card(name)
    if output is not None:
        await asyncio.to_thread(output.write_text, text)
    if json:
        print_json({"version": name, "card": text, "file": str(output) if output else None})
    elif output is None:
        sys.stdout.write(text)
    else:
        print(f"{output}: the card of {name}")


async def show_lineage(place: Place, version: str, *, json: bool) -> None:
    """Print where a version comes from and what was made of it."""
    async with federation_of(place) as federation:
        name = await federation.registry.resolve(version)
        line = await federation.registry.lineage(name)
    if json:
        print_json([asdict(info) for info in line])
        return
    rows = [
        (
            f"{'> ' if info.version == name else '  '}{info.version}",
            info.parent or "-",
            info.session or "-",
            info.round,
            info.participants or "-",
            info.kept,
            ", ".join(info.stages) or "-",
            _metrics(info.metrics),
        )
        for info in line
    ]
    columns = ("  version", "made from", "session", "round", "updates", "kept", "stages", "metrics")
    print_table(columns, rows, empty="nothing is known of it")


# --- stages ---


async def promote(place: Place, version: str, stage: str, reason: str, *, json: bool) -> None:
    """Give a stage a version."""
    async with federation_of(place) as federation:
        name = await federation.registry.resolve(version)
        _print_stage(await federation.registry.promote(name, stage, reason), json=json)


async def rollback(place: Place, stage: str, reason: str, *, json: bool) -> None:
    """Give a stage the version before."""
    async with federation_of(place) as federation:
        _print_stage(await federation.registry.rollback(stage, reason), json=json)


async def list_stages(place: Place, *, json: bool) -> None:
    """Print all stages."""
    async with federation_of(place) as federation:
        stages = await federation.registry.stages()
    if json:
        print_json([asdict(stage) for stage in stages])
        return
    rows = [(s.stage, s.version, moment(s.at), s.by, _line(s.reason), s.before[0] if s.before else "-") for s in stages]
    columns = ("stage", "version", "since", "by", "reason", "before")
    print_table(columns, rows, empty="there are no stages yet; fedbus model promote VERSION STAGE makes one")


async def show_stage(place: Place, stage: str, *, json: bool) -> None:
    """Print a stage, and the versions before."""
    async with federation_of(place) as federation:
        _print_stage(await federation.registry.stage(stage), json=json)


async def clear_stage(place: Place, stage: str, reason: str, *, json: bool) -> None:
    """Take a stage away."""
    async with federation_of(place) as federation:
        was = await federation.registry.clear(stage, reason)
    if json:
        print_json(asdict(was))
    else:
        print(f"{was.stage} is no stage any more; it had {was.version}")


def _print_stage(stage: StageInfo, *, json: bool) -> None:
    if json:
        print_json(asdict(stage))
        return
    why = f": {_line(stage.reason)}" if stage.reason else ""
    print(f"{stage.stage} is {stage.version} since {moment(stage.at)}, by {stage.by}{why}")
    if stage.before:
        print(f"before: {_few(stage.before)}")


def _few(names: Sequence[str], names_max: int = 5) -> str:
    return ", ".join(names[:names_max]) + (f" and {len(names) - names_max} more" if len(names) > names_max else "")


# --- what is kept ---


async def show_retention(place: Place, *, json: bool) -> None:
    """Print which versions a collection keeps."""
    async with federation_of(place) as federation:
        _print_retention(await federation.registry.retention(), json=json)


async def set_retention(place: Place, keep_last: int | None, *, keep_all: bool, json: bool) -> None:
    """Say which versions a collection keeps."""
    if (keep_last is None) is not keep_all:
        raise ConfigError("expected either --keep-last N or --keep-all")
    async with federation_of(place) as federation:
        _print_retention(await federation.registry.set_retention(keep_last), json=json)


def _print_retention(keep_last: int | None, *, json: bool) -> None:
    if json:
        print_json({"keep_last": keep_last})
        return
    what = "all versions" if keep_last is None else f"the last {keep_last} versions of each session"
    print(f"a collection keeps {what}, and what is needed (fedbus model collect --dry-run)")


async def collect(place: Place, grace_s: float, *, dry_run: bool, json: bool) -> None:
    """Remove versions that are not kept, or print which these would be."""
    async with federation_of(place) as federation:
        found = await federation.registry.collect(dry_run=dry_run, grace_s=grace_s)
    if json:
        print_json(asdict(found))
        return
    for version, why in found.kept.items():
        print(f"{version} stays: {why}")
    verb = "would go" if dry_run else "removed"
    print(f"{len(found.removed)} versions {verb}, {size(found.nbytes)}: {_few(found.removed, 20) or '-'}")
    if found.retired:
        print(f"{len(found.retired)} versions go when {grace_s:g} s are over: {_few(found.retired, 20)}")
    if found.imports:
        print(f"cleared away what was left of imports: {_few(found.imports)}")
