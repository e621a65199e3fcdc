"""What a user names on the command line, as values: `MODULE:APP`, ``key=value``, models, settings of a session."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

import numpy as np
from pydantic import ValidationError

from fedbus.client.app import ClientApp
from fedbus.config.session import SessionConfig
from fedbus.errors import ConfigError
from fedbus.tensors import files

MAPPINGS = tuple(name for name, field in SessionConfig.model_fields.items() if get_origin(field.annotation) is dict)
"""Settings that a command takes one ``KEY=VALUE`` at a time."""

SUFFIXES = (".safetensors", ".npz")
"""How files with models end."""


def load_app(target: str) -> ClientApp:
    """Import ``MODULE:APP`` with the current directory in reach; `ConfigError` says which half of it is wrong."""
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise ConfigError(f"expected MODULE:APP, for example client:app, got {target!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{module_name} imports {error.name}, which is not installed here") from error
        raise ConfigError(f"no module {error.name!r} in {here} nor among what is installed") from error
    except Exception as error:
        raise ConfigError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            apps = [name for name, value in vars(found).items() if isinstance(value, ClientApp)]
            hint = f"; it has {', '.join(f'{module_name}:{name}' for name in apps)}" if apps else ""
            raise ConfigError(f"{module_name} has no {path!r}{hint}")
        found = getattr(found, part)
    if not isinstance(found, ClientApp):
        raise ConfigError(f"{target}: expected a fedbus.ClientApp, got {type(found).__name__}")
    return found


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Return ``key=value`` texts as a dictionary."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option}: expected KEY=VALUE, got {text!r}")
        found[key] = value
    return found


def values(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return ``key=value`` texts whose values are JSON; what is not JSON is a text: ``lr=0.1``, ``name=adam``."""
    return {key: _value(text) for key, text in pairs(option, texts).items()}


def _value(text: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(text)
    except ValueError:
        return text


def load_config(file: Path | None, given: Mapping[str, Any]) -> SessionConfig:
    """Return a session's settings: those of a JSON file, over them what a command was given (not None).

    ``given``: by the name of the command's parameter; what is no setting is passed over. Settings that are mappings are
    given as ``KEY=VALUE`` texts, and merged with those of the file.
    """
    settings = _read_json(file) if file is not None else {}
    for name in SessionConfig.model_fields:
        value = given.get(parameter_of(name))
        if value is None:
            continue
        if name in MAPPINGS:
            settings[name] = {**settings.get(name, {}), **_mapping(name, value)}
        else:
            settings[name] = value
    try:
        return SessionConfig(**settings)
    except ValidationError as error:
        raise ConfigError("; ".join(_complaint(found) for found in error.errors())) from error


def parameter_of(setting: str) -> str:
    """Return the parameter of a command that is a setting's: ``codec_option``, repeatable, of ``codec_options``."""
    return setting.removesuffix("s") if setting in MAPPINGS else setting


def _mapping(setting: str, texts: Sequence[str]) -> dict[str, Any]:
    option = f"--{parameter_of(setting).replace('_', '-')}"
    return filters(option, texts) if setting == "client_filter" else values(option, texts)


def filters(option: str, texts: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
    """Return ``KEY=VALUE`` texts as attributes of clients, which are texts: ``site=7``, ``site=a,b`` for one of two."""
    return {key: tuple(text.split(",")) if "," in text else text for key, text in pairs(option, texts).items()}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{file}: expected JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{file}: expected one JSON object with settings of a session")
    return settings


def _complaint(error: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"]) or "settings"
    if error["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{name}: {message[0].lower()}{message[1:]}, got {error['input']!r}" if error["loc"] else message


def model_of(name: str) -> Mapping[str, np.ndarray[Any, Any]] | str:
    """Return what a word on the command line names: a file's arrays, or a version; `ConfigError` where it is neither.

    A version has no dot in its name, a file ends in one of two ways.
    """
    file = Path(name)
    if file.suffix in SUFFIXES:
        return load_model(file)
    if file.exists() or file.suffix or len(file.parts) > 1:
        raise ConfigError(f"{name}: expected a .safetensors or .npz file, a published version, or @STAGE")
    return name


def load_model(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read a model's first version from a ``.safetensors`` or ``.npz`` file."""
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"{file}: expected a .safetensors or .npz file")
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file")
    arrays = files.read(file)
    if not arrays:
        raise ConfigError(f"{file}: expected arrays, got none")
    return arrays
