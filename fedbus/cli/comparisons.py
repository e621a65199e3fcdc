"""Sessions beside each other, sessions as files, sessions like another one."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from fedbus.cli.listing import federation_of
from fedbus.cli.output import metrics_text, print_json, print_table, size
from fedbus.cli.roles import Place
from fedbus.cli.sessions import summary
from fedbus.federation.comparing import Comparison, Curve
from fedbus.federation.exporting import Format, What


async def compare_sessions(place: Place, names: list[str], *, json: bool) -> None:
    """Print in what sessions differ, and what came of each."""
    async with federation_of(place) as federation:
        found = await federation.compare(*names)
    if json:
        print_json(as_json(found))
        return
    columns = ("", *(info.session for info in found.sessions))
    rows = [(one.setting, *map(_text, one.values)) for one in found.settings]
    print_table(columns, rows, empty="their settings are the same")
    print()
    facts = [
        ("state", *(info.state for info in found.sessions)),
        ("rounds", *(f"{info.rounds_closed}/{info.config.rounds}" for info in found.sessions)),
        ("up", *(size(info.bytes_up) for info in found.sessions)),
        ("down", *(size(info.bytes_down) for info in found.sessions)),
        ("metrics", *(metrics_text(info.metrics) or "-" for info in found.sessions)),
        ("best", *(info.best_version or "-" for info in found.sessions)),
    ]
    print_table(columns, facts, empty="")


def as_json(found: Comparison) -> dict[str, Any]:
    """Return a comparison as REST has it."""
    return {
        "sessions": [summary(info, []) for info in found.sessions],
        "settings": [{"setting": one.setting, "values": one.values} for one in found.settings],
        "curves": [{name: getattr(one, name) for name in Curve.__slots__} for one in found.curves],
    }


def _text(value: object) -> str:
    return "-" if value is None else str(value)


async def export_session(
    place: Place, name: str, format_: Format, what: What, output: Path | None, *, json: bool
) -> None:
    """Write a session to a file, or to stdout; a file that is not whole does not get its name."""
    async with federation_of(place) as federation:
        parts = federation.session(name).export(format_, what)
        if output is None:
            async for part in parts:
                sys.stdout.write(part)
            sys.stdout.flush()
            return
        partly = output.with_name(f"{output.name}.part")
        try:
            with partly.open("w", encoding="utf-8", newline="") as file:
                async for part in parts:
                    await asyncio.to_thread(file.write, part)
            partly.replace(output)
        finally:
            partly.unlink(missing_ok=True)
    nbytes = (await asyncio.to_thread(output.stat)).st_size
    if json:
        print_json({"session": name, "file": str(output), "nbytes": nbytes})
    else:
        print(f"{output}: {size(nbytes)}")


async def clone_session(
    place: Place, name: str, changes: dict[str, Any], model: str | None, new: str | None, *, json: bool
) -> None:
    """Start a session like another one."""
    async with federation_of(place) as federation:
        session = await federation.clone_session(name, config=changes, model=model, name=new)
    if json:
        print_json({"session": session.name})
    else:
        print(f"{session.name} is started; see it with: fedbus session watch {session.name}")
