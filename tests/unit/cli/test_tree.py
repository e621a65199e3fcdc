from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fedbus.cli import tree
from fedbus.cli.loading import parameter_of
from fedbus.config.session import SessionConfig
from fedbus.errors import BusUnavailable, ConfigError
from fedbus.testing.commands import add_to

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "command-line.md"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+|(?<=`)-[a-z]\b")


def whole():
    """The tree as `__main__` puts it together, with the commands that stand above the command line."""
    app = copy.copy(tree.app)
    app.registered_commands = [*tree.app.registered_commands]
    add_to(app)
    return app


def leaves(command=None, path="fedbus"):
    """Every command of the tree with its options, by name."""
    command = command or typer.main.get_command(whole())
    children = getattr(command, "commands", None)
    if children is None:
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
        return {path: options}
    return {name: found for child, of in children.items() for name, found in leaves(of, f"{path} {child}").items()}


def sections():
    """Every section of the page that is about a command, by the command's name."""
    parts = re.split(r"^## (fedbus .*)$", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_is_documented_and_no_other():
    """The page has a section for each command of the tree, and for nothing else."""
    assert set(sections()) == set(leaves())


@pytest.mark.parametrize("command", sorted(leaves()))
def test_every_option_is_documented_and_no_other(command):
    """A command's section names all of its options, and none that it has not."""
    named = set(OPTION.findall(sections()[command]))
    own = leaves()[command] - {"--help", "-h"}
    assert own - named == set()
    assert named - own == set()


def test_every_setting_of_a_session_is_an_option():
    """`session start` offers each field of SessionConfig, and the page gives its default."""
    options = leaves()["fedbus session start"]
    # queries are asked by `fedbus analyze`, which says them shorter than JSON on a command line could
    for name, field in SessionConfig.model_fields.items():
        if name == "queries":
            continue
        option = f"--{parameter_of(name).replace('_', '-')}"
        assert option in options
        if isinstance(field.default, int | float | str):
            rows = [row.split("|") for row in sections()["fedbus session start"].splitlines()]
            (row,) = [row for row in rows if len(row) > 2 and re.match(rf" `{option}[ `]", row[1])]
            shown = row[2].strip(" `")
            default = f"--{'' if field.default else 'no-'}{name}" if isinstance(field.default, bool) else field.default
            assert type(default)(shown) == default


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/tutorial/first-federation.md",
        "docs/how-to/simulate.md",
        "docs/how-to/analyze.md",
        "docs/how-to/chaos.md",
        "docs/how-to/watch.md",
        "docs/how-to/export.md",
        "examples/quickstart/README.md",
    ],
)
def test_commands_in_pages_exist(page):
    """Each `fedbus ...` line of a shell block is a command of the tree with options that it has."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = [line.split("#")[0] for block in blocks for line in block.splitlines()]
    commands = [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("fedbus ")]
    assert commands
    known = leaves()
    for command in commands:
        (name,) = [name for name in known if f"{command} ".startswith(f"{name} ")]
        assert set(OPTION.findall(command.removeprefix(name))) - known[name] == set()


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("a\n b"), 2), (BusUnavailable("a\n b"), 1), (OSError("a\n b"), 1), (KeyboardInterrupt(), 130)],
)
def test_how_a_run_ends(monkeypatch, capsys, error, code):
    """An error is one line on stderr and a code that says whose fault it is."""

    def fail(**_):
        raise error

    monkeypatch.setattr(tree, "app", fail)
    assert tree.run([]) == code
    assert capsys.readouterr().err == ("" if code == 130 else "fedbus: a b\n")


def test_debug_shows_the_traceback(monkeypatch):
    """With --debug an error is raised as it is."""

    def fail(**_):
        raise ConfigError("x")

    monkeypatch.setattr(tree, "app", fail)
    with pytest.raises(ConfigError):
        tree.run(["--debug"])


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["--version"], 0), (["nonsense"], 2), (["session", "start"], 2), (["demo", "--clients", "0"], 2)],
)
def test_usage(argv, code, capsys):
    """What can't be asked for ends with 2."""
    assert tree.run(argv) == code


def test_a_client_needs_no_web_server():
    """Where only the extra `cli` is installed there is no aiohttp, and roles but the gateway run all the same.

    Nor does who asks for help wait for what only a command needs that does something.
    """
    code = (
        "import sys; sys.modules['aiohttp'] = None; import fedbus.cli.tree;"
        "print(*{'pydantic', 'numpy', 'nats', 'msgpack'} & {*sys.modules});"
        "import fedbus.cli.roles, fedbus.cli.up, fedbus.__main__"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "\n"


def test_a_gateway_says_what_it_needs():
    """Without the extra `server` it is one line that tells how to get it, and exit code 2."""
    code = "import sys; sys.modules['aiohttp'] = None; from fedbus.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "gateway", "--nats", "nats://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "fedbus: a gateway needs aiohttp, which is not installed: pip install 'fedbus[server]'\n"


@pytest.mark.parametrize("missing", ["typer", "rich", "orjson"])
def test_the_bare_install_says_what_to_install(missing):
    """Without the extra, `fedbus` is one line that tells how to get it, and exit code 2."""
    code = f"import sys; sys.modules[{missing!r}] = None; from fedbus.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "fedbus: the command line is not installed: pip install 'fedbus[cli]'\n"
