"""The tree of commands, and how each run of it ends.

Commands live in ``fedbus.cli.commands``, thin: options in, a call of what does the work. What only one command needs
is imported when it runs, so that ``fedbus --help`` is quick.

Exit codes: 0 done, 1 failed, 2 usage (a setting, an option or an argument has to be corrected), 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import orjson  # noqa: F401 - here, so that a missing extra is said before anything runs
import rich  # noqa: F401 - as above
import typer

from fedbus.cli.commands import (
    analyze,
    archive,
    audit,
    backup,
    bench,
    broker,
    certs,
    client,
    demo,
    doctor,
    evaluate,
    event,
    join,
    keys,
    member,
    model,
    owner,
    person,
    plan,
    retention,
    roles,
    session,
    sessions,
    simulate,
    stage,
    strategy,
    token,
    top,
    track,
    up,
    workspace,
)
from fedbus.cli.environment import HttpProxy, ProxyCa, TlsCa, TlsCert, TlsKey, Way, choose_home, choose_way
from fedbus.cli.running import INTERRUPTED
from fedbus.errors import ConfigError, FedbusError
from fedbus.version import __version__

FAILED = 1
USAGE = 2

app = typer.Typer(
    name="fedbus",
    help="Federated learning over a message bus.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fedbus {__version__}")
        raise typer.Exit


@app.callback()
def main(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
    ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    proxy: HttpProxy = None,
    proxy_ca: ProxyCa = None,
) -> None:
    """Federated learning over a message bus."""
    choose_home()
    choose_way(ctx, Way(ca, tls_cert, tls_key, proxy, proxy_ca))


app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("up")(up.up)
app.command("coordinator")(roles.coordinator)
app.command("combiner")(roles.combiner)
app.command("gateway")(roles.gateway)
app.command("join")(join.join)
app.add_typer(workspace.app, name="workspace")
app.add_typer(token.app, name="token")
app.add_typer(member.app, name="member")
app.add_typer(person.app, name="person")
app.add_typer(audit.app, name="audit")
app.add_typer(broker.app, name="broker")
app.add_typer(certs.app, name="certs")
owner.add_to(client.app)
app.add_typer(keys.app, name="keys")
app.add_typer(client.app, name="client")
session.app.command("track")(track.track)
app.add_typer(session.app, name="session")
sessions.add_to(session.app)
app.add_typer(event.app, name="event")
model.app.command("archive")(archive.archive)
app.add_typer(model.app, name="model")
app.add_typer(stage.app, name="stage")
app.add_typer(retention.app, name="retention")
app.command("evaluate")(evaluate.evaluate)
app.command("analyze")(analyze.analyze)
app.add_typer(strategy.app, name="strategy")
bench.app.command("plan")(plan.plan)
app.add_typer(bench.app, name="bench")
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("top")(top.top)
app.command("doctor")(doctor.doctor)


def run(argv: list[str]) -> int:
    """Run a command; returns the exit code. Errors become one line on stderr."""
    debug = argv[:1] == ["--debug"]
    try:
        app(args=argv, prog_name="fedbus")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read us has gone (`| head`): the flush at exit must not complain again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (FedbusError, OSError) as error:
        if debug:
            raise
        print(f"fedbus: {sentence(error)}", file=sys.stderr)
        return USAGE if isinstance(error, ConfigError) else FAILED
    return 0


def sentence(error: Exception) -> str:
    """Return an error in one line, whatever it carries."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
