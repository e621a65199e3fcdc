"""Requests checked before a handler sees them: the names in the path, the query, the body, the key.

Nothing is guessed: a parameter that an operation does not have is refused, as is one that is given twice and taken
once; in a body, a text is no number. What is refused is told by field and bound (`fedbus.gateway.problems.invalid`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn, get_origin

from aiohttp import web
from multidict import MultiMapping
from pydantic import BaseModel, ValidationError

from fedbus.gateway.operations import NAMES, Operation
from fedbus.gateway.problems import Refused, invalid, shown
from fedbus.gateway.views import FieldProblem

KEY = re.compile(r"[\x21-\x7e]{1,255}")
"""An `Idempotency-Key`: visible characters."""

DEPTH_MAX = 64
"""Deepest nesting of a body: nothing that is taken goes deeper, and what reads it goes down recursively."""

_FORMS = {name: re.compile(form) for name, (form, _) in NAMES.items()}


def names_in(operation: Operation, given: Mapping[str, str]) -> Mapping[str, str]:
    """Return the names of a path; `Refused` with 404 where one cannot be."""
    for name, value in given.items():
        if not _FORMS[name].fullmatch(value) or value.endswith("\n"):
            raise Refused(404, f"{name} {shown(value)!r}: there is none; expected {NAMES[name][0]}")
    return dict(given)


def query_of(kind: type[BaseModel] | None, given: MultiMapping[str]) -> BaseModel | None:
    """Return the query as the operation declares it; `Refused` with 422 where it is not so."""
    fields = {one.alias or name: one for name, one in kind.model_fields.items()} if kind is not None else {}
    found: dict[str, Any] = {}
    for name in dict.fromkeys(given):
        field = fields.get(name)
        if field is None and kind is not None and kind.model_config.get("extra") == "ignore":
            continue  # a stranger's page leads here, which adds what it likes
        if field is None:
            expected = f"expected {', '.join(fields)}" if fields else "expected none"
            raise _one_field(f"query.{name[:64]}", f"there is no such parameter; {expected}", given[name])
        values = given.getall(name)
        if is_many(field.annotation):
            found[name] = tuple(values)
        elif len(values) > 1:
            raise _one_field(f"query.{name}", f"expected one value, got {len(values)}", values[1])
        else:
            found[name] = values[0]
    if kind is None:
        return None
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise invalid(error, "query") from error


def is_many(annotation: Any) -> bool:  # noqa: ANN401 - whatever a field may be annotated with
    """Whether a parameter may be given several times."""
    return get_origin(annotation) in (tuple, list)


def _one_field(where: str, problem: str, got: object) -> Refused:
    where = shown(where)  # a name may be halves of characters, which no answer can hold
    return Refused(422, f"{where}: {problem}", errors=[FieldProblem(where=where, problem=problem, got=shown(got))])


async def body_of(operation: Operation, request: web.Request) -> BaseModel | None:
    """Return the body as the operation declares it; a body that is a stream is left to the handler."""
    kind = operation.body
    if kind is not None or operation.body_media != "application/json":
        _check_plain(request)
    if kind is None:
        if operation.body_media == "application/json" and request.can_read_body:
            await request.read()  # not asked for: taken off the line, within the bound
        return None
    data = await request.read()
    if not data and is_optional(kind):
        return kind()
    if request.content_type != operation.body_media or (request.charset or "utf-8").lower() != "utf-8":
        got = request.headers.get("Content-Type", "none")
        raise Refused(415, f"expected Content-Type: {operation.body_media} (UTF-8), got {shown(got)}")
    _check_json(data)
    try:
        return kind.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise invalid(error, "body") from error


def _check_plain(request: web.Request) -> None:
    """Raise `Refused` with 415 where the body is packed: of what is unpacked no bound would be known before."""
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() not in ("identity", ""):
        refused = f"expected a body as it is, got Content-Encoding: {shown(coding)}"
        raise Refused(415, refused, headers={"Accept-Encoding": "identity"})


def is_optional(kind: type[BaseModel]) -> bool:
    """Whether a body may be left out: every field of it has a default."""
    return not any(field.is_required() for field in kind.model_fields.values())


def _check_json(data: bytes) -> None:
    """Raise `Refused` with 400 where it is not JSON, or nests so deep that reading it would be an attack."""
    try:
        value = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {shown(str(error))}") from error
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise Refused(400, f"the body nests deeper than {DEPTH_MAX} lists and maps")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _inside(value: Any) -> list[Any]:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def key_of(operation: Operation, request: web.Request) -> str:
    """Return the request's `Idempotency-Key`, '' where it has none; `Refused` with 400 where it cannot be one."""
    if not operation.idempotent or "Idempotency-Key" not in request.headers:
        return ""
    key = request.headers["Idempotency-Key"]
    if not KEY.fullmatch(key):
        raise Refused(400, "Idempotency-Key: expected 1 to 255 visible ASCII characters")
    return key
