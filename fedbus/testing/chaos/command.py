"""`fedbus chaos`: a federation in processes on this machine is disturbed for real, and has to give the same bits."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedbus.cli.running import run
from fedbus.errors import FedbusError

if TYPE_CHECKING:
    from fedbus.testing.chaos.run import Result, Settings

FAULTS = 50


def chaos(
    *,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.1, help="For so long.")] = None,
    count: Annotated[int | None, typer.Option("--faults", min=1, help="So many faults (50).")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is done to whom, and when.")] = 0,
    clients: Annotated[int, typer.Option("--clients", min=1, help="Processes that train.")] = 4,
    combiners: Annotated[int, typer.Option("--combiners", min=1, help="Processes that fold.")] = 2,
    coordinators: Annotated[int, typer.Option("--coordinators", min=1, help="One leads, the others stand by.")] = 2,
    brokers: Annotated[int, typer.Option("--brokers", help="1, or a cluster of 3.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter pauses and standstills, as the tests have.")] = False,
    netns: Annotated[
        bool, typer.Option("--netns", help="Partitions by network namespaces in place of proxies; needs root.")
    ] = False,
    secured: Annotated[
        bool, typer.Option("--secured", help="Every member has credentials; what is sent twice is not counted.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="The last line is one JSON object.")] = False,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write a page in Markdown.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave logs and stores where they are, and say where.")] = False,
) -> None:
    """Kill, stop, cut off and slow down a federation at random: the models must be those of the undisturbed run."""
    from fedbus.testing.chaos.plan import QUICK, Cast, Pace
    from fedbus.testing.chaos.report import to_markdown
    from fedbus.testing.chaos.run import Settings

    if minutes is not None and count is not None:
        raise typer.BadParameter("--minutes or --faults, not both")
    if minutes is None and count is None:
        count = FAULTS
    cast = Cast(clients=clients, combiners=combiners, coordinators=coordinators, brokers=brokers)
    pace = QUICK if quick else Pace()
    settings = Settings(seed=seed, count=count, minutes=minutes, cast=cast, pace=pace, netns=netns, secured=secured)
    result = run(_chaos(settings, keep=keep))
    if report is not None:
        report.write_text(to_markdown(result, _command(settings, quick=quick)))
    _tell(result, json=json)
    if result.violations:
        raise FedbusError(f"{len(result.violations)} violations; seed {seed} makes the same plan")


async def _chaos(settings: Settings, *, keep: bool) -> Result:
    from fedbus.testing.chaos.run import Chaos

    directory = Path(tempfile.mkdtemp(prefix="fedbus-chaos-"))
    try:
        return await Chaos(settings, directory, lambda line: print(line, file=sys.stderr, flush=True)).run()
    finally:
        if keep:
            print(f"logs and stores: {directory}", file=sys.stderr)
        else:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _command(settings: Settings, *, quick: bool) -> str:
    cast = settings.cast
    length = f"--faults {settings.count}" if settings.count is not None else f"--minutes {settings.minutes:g}"
    parts = ["fedbus chaos", length, f"--seed {settings.seed}", f"--clients {cast.clients}"]
    parts += [f"--combiners {cast.combiners}", f"--coordinators {cast.coordinators}", f"--brokers {cast.brokers}"]
    words = (("--quick", quick), ("--netns", settings.netns), ("--secured", settings.secured))
    parts += [word for word, wanted in words if wanted]
    return " ".join(parts)


def _tell(result: Result, *, json: bool) -> None:
    for story in result.stories:
        print(story, file=sys.stderr)
    tally = result.tally
    print(
        f"{len(result.done)} faults, {result.sessions} sessions, {result.versions} versions compared, "
        f"{tally.uploads} uploads ({len(tally.twice)} sent twice), {len(result.violations)} violations "
        f"in {result.seconds:.0f} s"
    )
    if json:
        from fedbus.testing.chaos.report import dumps

        print(dumps(result))
