"""The pages made of the table are current, and what is done over REST is done by a command and a method too."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import typer

from fedbus.cli import tree
from fedbus.federation.models import Models
from fedbus.federation.registry import Registry
from fedbus.federation.service import Federation, Session
from fedbus.gateway.reference import COMMAND_ONLY, HTTP_ONLY, parity_page, rest_page, roles_page
from fedbus.gateway.table import OPERATIONS

DOCS = Path(__file__).parents[3] / "docs" / "reference"
GROUPS = ("session", "model", "stage", "client", "event", "retention")
HOW = "run: python -m fedbus.gateway.reference docs/reference"
OWNERS = {"Federation": Federation, "Session": Session, "Models": Models, "Registry": Registry}


def commands():
    """Every command of the tree, by name, with its options."""

    def of(command, path):
        children = getattr(command, "commands", None)
        if children is None:
            return {path: {option for one in command.params for option in (*one.opts, *one.secondary_opts)}}
        return {
            name: found for child, inner in children.items() for name, found in of(inner, f"{path} {child}").items()
        }

    return of(typer.main.get_command(tree.app), "fedbus")


COMMANDS = commands()


def command_of(text):
    """The command that a line calls: its longest beginning that is one."""
    words = text.split()
    for count in range(len(words), 0, -1):
        if " ".join(words[:count]) in COMMANDS:
            return " ".join(words[:count])
    return None


def find(name):
    """What a dotted name means: a method of a class, or something of a module."""
    owner, _, rest = name.partition(".")
    if owner in OWNERS:
        return getattr(OWNERS[owner], rest)
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def test_the_pages_are_current():
    """All are what the table makes of them now."""
    assert (DOCS / "rest.md").read_text() == rest_page(OPERATIONS), HOW
    assert (DOCS / "parity.md").read_text() == parity_page(OPERATIONS), HOW
    assert (DOCS / "roles.md").read_text() == roles_page(), HOW


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_every_operation_has_a_command_and_a_method(operation):
    """They exist, with the options that are named; an operation without has a reason."""
    if not operation.command:
        assert operation.id in HTTP_ONLY and not operation.python
        return
    assert operation.id not in HTTP_ONLY
    command = command_of(operation.command)
    assert command, f"there is no command {operation.command}"
    assert set(re.findall(r"(?<=\s)--[a-z-]+", operation.command)) <= COMMANDS[command]
    assert callable(find(operation.python))


def test_every_command_has_an_operation_or_a_reason():
    """What is done to sessions, models, stages, clients and events on the command line is done over REST as well."""
    done = {command_of(operation.command) for operation in OPERATIONS}
    ours = {name for name in COMMANDS if name.split()[1] in GROUPS}
    assert ours - done - COMMAND_ONLY.keys() == set()
    assert COMMAND_ONLY.keys() - ours == set() and COMMAND_ONLY.keys() & done == set()
    assert all(len(why) > 15 for why in (*COMMAND_ONLY.values(), *HTTP_ONLY.values()))
