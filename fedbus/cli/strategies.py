"""Strategies, codecs and selections by name, with their options, from the registries: what is installed is shown."""

from __future__ import annotations

import sys
from typing import Any

from fedbus.cli.output import print_json, print_table
from fedbus.config.session import SessionConfig
from fedbus.errors import ConfigError, NotFound
from fedbus.federation.catalogue import SETTINGS, Entry, Option, entries, find, options_of


def list_all(*, json: bool) -> None:
    """Print all names; one that cannot be loaded is shown with the reason."""
    rows = [_row(entry) for entry in entries()]
    if json:
        print_json(rows)
        return
    columns = ("kind", "name", "family", "options", "paper")
    print_table(columns, [[row[column] or "-" for column in columns] for row in rows], empty="nothing is installed")


def _row(entry: Entry) -> dict[str, str]:
    options = ", ".join(option.name for option in entry.options)
    return {
        "kind": entry.kind,
        "name": entry.name,
        "family": entry.family,
        "options": options,
        "paper": entry.broken or entry.paper,
    }


def show(name: str, *, json: bool) -> None:
    """Print everything of this name; `ConfigError` where there is nothing, or it cannot be loaded."""
    try:
        shown = find(name)
    except NotFound as error:
        raise ConfigError(str(error)) from error  # an argument that has to be corrected
    for entry in shown:
        if entry.broken:
            raise ConfigError(f"{name}: {entry.broken}")
    if json:
        print_json([_told(entry) for entry in shown])
        return
    for index, entry in enumerate(shown):
        if index:
            print()
        _print(entry)


def _told(entry: Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "setting": SETTINGS[entry.kind],
        "about": entry.about,
        "family": entry.family,
        "needs": list(entry.needs),
        "paper": entry.paper,
        "options": [_option(option) for option in entry.options],
    }


def _option(option: Option) -> dict[str, Any]:
    told = {
        "name": option.name,
        "default": "required" if option.required else option.default,
        "range": option.allowed,
        "about": option.about,
    }
    return told | ({"member": option.member} if option.member else {})


def _print(entry: Entry) -> None:
    about = [("about", entry.about)] if entry.about else []
    family = [("family", entry.family)] if entry.family else []
    needs = [("needs", "; ".join(entry.needs))] if entry.needs else []
    for label, value in ((entry.kind, entry.name), *about, *family, *needs, ("paper", entry.paper or "-")):
        print(f"{label:10s} {value}")
    print()
    print_options(entry.options, SETTINGS[entry.kind])


def print_options(options: tuple[Option, ...], title: str) -> None:
    """Print options, or settings, with their defaults, what is allowed, and what they are."""
    rows = [
        (
            f"{option.member}.{option.name}" if option.member else option.name,
            "required" if option.required else "-" if option.default is None else option.default,
            option.allowed or "-",
            option.about,
        )
        for option in options
    ]
    if rows:
        print_table((title, "default", "allowed", ""), rows, empty="")
    else:
        print("no options", file=sys.stderr)


def show_settings(*, json: bool) -> None:
    """Print every setting of a session; as JSON its JSON Schema, as the gateway gives it."""
    if json:
        print_json(SessionConfig.model_json_schema())
    else:
        print_options(options_of(SessionConfig), "setting")
