"""The document of REST, OpenAPI 3.1, made of the table of operations and the models that they name.

Nothing is written twice: an operation's text is its handler's docstring, parameters are the fields of its query, bodies
and answers are JSON Schema as pydantic makes it, problems come with every operation that can have them.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from fedbus.gateway import problems
from fedbus.gateway.asking import is_optional
from fedbus.gateway.auth import CSRF, SAFE
from fedbus.gateway.cookies import SECURE
from fedbus.gateway.operations import API, NAMES, Operation
from fedbus.gateway.paging import Paged
from fedbus.gateway.views import Problem
from fedbus.version import __version__

JSON = "application/json"
REF = "#/components/schemas/{model}"

Json = dict[str, Any]

EVERYWHERE: dict[int, str] = {
    400: "The request is not HTTP or JSON as it should be.",
    401: "Nobody has said who she is, or what she said is no good (any more); `WWW-Authenticate` says how to.",
    404: "There is nothing of that name.",
    405: "That cannot be done with it; `Allow` says what can.",
    413: "The body is larger than the gateway takes.",
    421: "The name that was asked for, in `Host`, is none of this gateway.",
    422: "The request is well formed and cannot be meant so: `errors` names each field with its bound.",
    429: "Too many requests from one address; `Retry-After` says when to ask again.",
    500: "An error that nobody has foreseen; the gateway's log tells more under the id in `instance`.",
    503: "The broker or the coordinator does not answer; `Retry-After` says when to ask again.",
}
"""Problems by status: what each means."""

MORE: dict[int, str] = {
    403: "Whoever asks lacks the `permission` (the roles of `permitted_to` have it), has to show anew who she is "
    "(`again`), or asks from a page that may not.",
    408: "Nothing came of the body for a minute.",
    409: "It is in a state in which that cannot be done: `state` says in which.",
    410: "It was there, and was removed.",
    412: "It has changed since.",
    415: "The body has another media type than is expected.",
    416: "There are no such bytes.",
    507: "There is no room for it.",
}

HEADERS: Mapping[str, str] = {
    "X-Request-Id": "The request's id, its own where it brought one; it stands in the gateway's log.",
    "ETag": "Of this answer: sent as `If-None-Match`, it is told whether anything has changed (304).",
    "Retry-After": "After how many seconds to ask again.",
    "Allow": "What can be done with this address.",
    "WWW-Authenticate": "`Bearer`; with `error` where a token came that is no good.",
}


SECURITY: Mapping[str, Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API token, `fba_...`."},
    "cookie": {"type": "apiKey", "in": "cookie", "name": SECURE, "description": "Of a page, after `logIn`."},
    "csrf": {"type": "apiKey", "in": "header", "name": CSRF, "description": "With a cookie: `csrf` of `getMe`."},
}
"""How one says who one is. Over plain HTTP on this machine the cookie is called `fedbus_session`."""


def document(operations: Iterable[Operation], *, is_open: bool = False) -> Json:
    """Return the document of some operations; ``is_open``: of a gateway that asks nobody who she is."""
    found = tuple(operations)
    schemas, references = _schemas(found)
    paths: dict[str, Json] = {}
    for operation in found:
        told = _operation(operation, references)
        if not is_open:
            told["security"] = _security(operation)
        paths.setdefault(operation.path, {})[operation.method.lower()] = told
    _link(found, paths)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "fedbus",
            "version": __version__,
            "summary": "Federations over REST: sessions, models, clients, and what waits.",
            "description": _about(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This gateway."}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            **({} if is_open else {"securitySchemes": SECURITY}),
            "schemas": schemas,
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()},
            "responses": {f"Problem{status}": _problem(status, text) for status, text in (EVERYWHERE | MORE).items()},
        },
    }


EXAMPLES: Mapping[str, str] = {
    "session": "digits",
    "round": "newest",
    "client": "site-1",
    "version": "digits-10",
    "stage": "production",
    "token": "k3v9x2",
    "role": "client",
    "member": "site-1",
    "sign_in": "9f86d081884c7d65",
    "person": "ana@hospital.example",
    "name": "norm_clipping+fedadam",
}
"""Of each name in a path."""

TAGS: Mapping[str, str] = {
    "overview": "What is there, and what it waits for.",
    "sessions": "Sessions, their rounds, curves and events.",
    "clients": "Who takes part, and what each has given.",
    "models": "Versions, their arrays, stages, and what is kept.",
    "strategies": "What sessions can be made of.",
    "access": "Who may take part and do what, and what was done by whom.",
    "gateway": "The gateway itself.",
}
"""Headings, and what stands below them."""

_TAG_OF = {
    **dict.fromkeys(("overview", "waits", "combiners", "coordinators"), "overview"),
    **dict.fromkeys(("sessions", "events", "compare"), "sessions"),
    **dict.fromkeys(("models", "stages", "retention"), "models"),
    **dict.fromkeys(("strategies", "settings"), "strategies"),
    **dict.fromkeys(("members", "tokens", "people", "workspace", "audit", "roles"), "access"),
    "clients": "clients",
    **dict.fromkeys(("login", "logout", "me"), "access"),
}


def tag_of(operation: Operation) -> str:
    """Return under which heading an operation stands."""
    first = operation.path.removeprefix(API).strip("/").split("/")[0]
    return _TAG_OF[first] if operation.path.startswith(API) else "gateway"


def about(operation: Operation) -> str:
    """Return what an operation does: its handler's docstring."""
    return " ".join((inspect.getdoc(operation.handler) or operation.summary).split())


def statuses(operation: Operation) -> tuple[int, ...]:
    """Return the statuses of the problems that an operation may answer with."""
    found = {400, 421, 422, 429, 500, 503, *operation.problems}
    if "{" in operation.path or (operation.query is not None and issubclass(operation.query, Paged)):
        found.add(404)  # there is no such page
    if operation.needs is not None:
        found |= {401, 403}
    if operation.method != "GET":
        found |= {403, 413}
    if operation.body is not None or operation.body_media != JSON:
        found.add(415)
    return tuple(sorted(found))


# --- schemas ---


def _schemas(operations: tuple[Operation, ...]) -> tuple[Json, dict[tuple[str, str], Json]]:
    """Return all schemas, and a reference for each operation's answer and body."""
    inputs: list[tuple[tuple[str, str], JsonSchemaMode, Any]] = [(("", "problem"), "serialization", Problem)]
    for operation in operations:
        if operation.answer is not None:
            inputs.append(((operation.id, "answer"), "serialization", operation.answer))
        if operation.body is not None:
            inputs.append(((operation.id, "body"), "validation", operation.body))
    generator = GenerateJsonSchema(by_alias=True, ref_template=REF)
    references, schemas = generator.generate_definitions(
        [(key, mode, TypeAdapter(kind).core_schema) for key, mode, kind in inputs]
    )
    names = {name: _plain(name) for name in schemas}
    text = json.dumps([schemas, [[list(key), value] for (key, _), value in references.items()]])
    for name, plain in names.items():
        text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/{plain}"')
    found, pairs = json.loads(text)
    return (
        {names[name]: schema for name, schema in sorted(found.items())},
        {(key[0], key[1]): value for key, value in pairs},
    )


def _plain(name: str) -> str:
    """Return ``SessionViewPage`` for ``Page_SessionView_``: names in a document are read by people and generators."""
    if name.startswith("Page_"):
        return f"{name.removeprefix('Page_').rstrip('_')}Page"
    return name


# --- operations ---


def _operation(operation: Operation, references: Mapping[tuple[str, str], Json]) -> Json:
    found: Json = {
        "operationId": operation.id,
        "summary": operation.summary,
        "description": about(operation),
        "tags": [tag_of(operation)],
        "parameters": [*_names(operation), *_query(operation), *_headers(operation)],
        "responses": {str(operation.status): _answer(operation, references)},
    }
    found |= _extensions(operation)
    if not found["parameters"]:
        del found["parameters"]
    if operation.body is not None:
        content = {"schema": references[operation.id, "body"]}
        found["requestBody"] = {"required": not is_optional(operation.body), "content": {JSON: content}}
    elif operation.body_media != JSON:
        binary = {"schema": {"type": "string", "contentMediaType": operation.body_media}}
        found["requestBody"] = {"required": True, "content": {operation.body_media: binary}}
    if operation.method == "GET" and operation.answer is not None:
        found["responses"]["304"] = {
            "description": "Nothing has changed since the answer whose ETag was sent.",
            "headers": _refs("ETag", "X-Request-Id"),
        }
    for status, text in operation.also.items():
        found["responses"][str(status)] = {"description": text, "headers": _refs("X-Request-Id")}
        if operation.media != JSON and status != 304:
            found["responses"][str(status)]["content"] = {operation.media: {"schema": {}}}
    for status in statuses(operation):
        found["responses"][str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    found["responses"] = dict(sorted(found["responses"].items()))
    return found


def _extensions(operation: Operation) -> Json:
    """Return who does the same elsewhere, and what is needed for it."""
    found = {
        "x-fedbus-command": operation.command,
        "x-fedbus-python": operation.python,
        "x-fedbus-needs": operation.needs.value if operation.needs is not None else "",
        "x-fedbus-asks-again": operation.asks_again,
    }
    return {name: value for name, value in found.items() if value}


def _security(operation: Operation) -> list[Json]:
    """Return with what one may come: any of the list, with all of its entry; nothing: anybody may."""
    if operation.needs is None:
        return []
    return [{"bearer": []}, {"cookie": []} if operation.method in SAFE else {"cookie": [], "csrf": []}]


def _answer(operation: Operation, references: Mapping[tuple[str, str], Json]) -> Json:
    headers: Json = _refs("X-Request-Id")
    if operation.method == "GET":
        headers |= _refs("ETag")
    for name, text in operation.headers.items():
        headers[name] = {"description": text, "schema": {"type": "string"}}
    found: Json = {"description": operation.summary + ".", "headers": headers}
    if operation.answer is not None:
        found["content"] = {JSON: {"schema": references[operation.id, "answer"]}}
    if operation.media != JSON:
        found.setdefault("content", {})[operation.media] = {"schema": {}}
    if operation.status == 204:
        found.pop("content", None)
    return found


def _link(operations: tuple[Operation, ...], paths: Mapping[str, Json]) -> None:
    """Say of what is made, or listed, which operations take its name: what is in the answer stands in their paths."""
    for operation in operations:
        (fields, where), own = _told_by(operation), set(names_of(operation))
        links: Json = {}
        for other in operations:
            names = set(names_of(other))
            if other is operation or not names & fields or not names <= fields | own:
                continue
            if "name" in names and tag_of(other) != tag_of(operation):
                continue  # a combiner's name is no strategy's
            parameters = {
                name: f"$response.body#/{where}{name}" if name in fields else f"$request.path.{name}" for name in names
            }
            links[other.id] = {"operationId": other.id, "parameters": parameters}
        if links:
            paths[operation.path][operation.method.lower()]["responses"][str(operation.status)]["links"] = links


def _told_by(operation: Operation) -> tuple[set[str], str]:
    """Return the names that are told by what is made, or by what is listed first, and where they are in the answer."""
    fields: Mapping[str, Any] = getattr(operation.answer, "model_fields", {})
    if "items" in fields:
        (item,) = operation.answer.__pydantic_generic_metadata__["args"]
        return set(item.model_fields) - set(names_of(operation)), "items/0/"
    return (set(fields), "") if operation.method in ("POST", "PUT", "PATCH") else (set(), "")


def names_of(operation: Operation) -> tuple[str, ...]:
    """Return the names in an operation's path."""
    return tuple(part.strip("{}") for part in operation.path.split("/") if part.startswith("{"))


def _problem(status: int, text: str) -> Json:
    headers = ["X-Request-Id"]
    headers += ["Retry-After"] if status in (429, 503) else []
    headers += ["Allow"] if status == 405 else []
    headers += ["WWW-Authenticate"] if status == 401 else []
    schema = {"$ref": REF.format(model="Problem")}
    return {"description": text, "headers": _refs(*headers), "content": {problems.MEDIA: {"schema": schema}}}


def _refs(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _names(operation: Operation) -> Iterable[Json]:
    for name in names_of(operation):
        form, text = NAMES[name]
        schema = {"type": "string", "pattern": form}
        one = {"name": name, "in": "path", "required": True, "description": text, "schema": schema}
        yield one | {"example": EXAMPLES[name]}


def _query(operation: Operation) -> Iterable[Json]:
    if operation.query is None:
        return
    schema = operation.query.model_json_schema()
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        given = _resolved(field, schema.get("$defs", {}))
        text = " ".join(str(given.pop("description", "")).split())
        given.pop("title", None)
        given = _without_null(given)
        one: Json = {"name": name, "in": "query", "required": name in required, "schema": given}
        if text:
            one["description"] = text
        if given.get("type") == "array":
            one |= {"style": "form", "explode": True}
        yield one


def _resolved(schema: Any, defs: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return a schema with what it refers to put in its place."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            return {**_resolved(defs[schema["$ref"].rpartition("/")[2]], defs), **rest}
        return {key: _resolved(value, defs) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_resolved(value, defs) for value in schema]
    return schema


def _without_null(schema: Json) -> Json:
    """Return a parameter's schema: one that may be left out is None in Python, and nothing in an address."""
    if "anyOf" not in schema:
        return schema
    kinds = [kind for kind in schema["anyOf"] if kind != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**kinds[0], **rest} if len(kinds) == 1 else {"anyOf": kinds, **rest}


def _headers(operation: Operation) -> Iterable[Json]:
    if operation.idempotent:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "Of a request that may be sent again: under the same key the same is made once.",
            "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
        }


@cache
def _about() -> str:
    return (
        "Every operation has its command and its method of Python (`x-fedbus-command`, `x-fedbus-python`), "
        "and says which permission it needs (`x-fedbus-needs`): who has it is told by `getRoles`. Errors are "
        "`application/problem+json` (RFC 9457). Lists come by pages: `next` of one is the `cursor` of the one behind "
        "it. Times are seconds since the epoch, spans of time seconds, sizes bytes."
    )
