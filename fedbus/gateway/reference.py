"""The pages of reference that are made of the table: REST, who does the same where, and who may do it.

    python -m fedbus.gateway.reference docs/reference

writes ``rest.md``, ``parity.md`` and ``roles.md`` there. A test says when they are not what this would write.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedbus.access.actions import ABOUT, ABOUT_ROLES, ROLES, Action, may, permitted_to
from fedbus.gateway.openapi import EVERYWHERE, MORE, TAGS, about, document, statuses, tag_of
from fedbus.gateway.operations import Operation

Json = dict[str, Any]

HTTP_ONLY: Mapping[str, str] = {
    "getHealth": "asked by supervisors; `fedbus doctor` looks at a whole federation",
    "getReadiness": "asked by supervisors and load balancers",
    "getMetrics": "asked by Prometheus; other roles have `--metrics-port`",
    "getDocument": "it describes HTTP alone",
    "getLogin": "how a browser signs in; other programs come with a token",
    "logIn": "makes a browser's cookie of a token; other programs send the token itself",
    "logInAgain": "a browser's cookie ages; the command line has credentials of its own",
    "stay": "a browser's cookie ends where nobody uses the page",
    "listSignIns": "of browsers; the command line has credentials of its own",
    "endSignIn": "of browsers; `fedbus person set NAME --state suspended` ends all of somebody's",
    "endOtherSignIns": "of browsers; `fedbus person set NAME --state suspended` ends all of somebody's",
    "logOut": "ends a browser's session; a token ends by `fedbus token revoke`",
    "getMe": "what a page shows to whom; the command line comes to the broker, with credentials of its own",
    "getRoles": "the same table is a page: [roles](roles.md)",
    "beginOidc": "sends a browser to the provider",
    "endOidc": "takes a browser back from the provider",
}
"""Operations without a command and a method, each with the reason."""

COMMAND_ONLY: Mapping[str, str] = {
    "fedbus client card": "what a data owner's policy makes of a session is asked where the policy stands",
    "fedbus client leave": "decided by a data owner, where the data are: never at a gateway",
    "fedbus client log": "what has left a machine is written down there, and shown there",
    "fedbus client pause": "decided by a data owner, where the data are: never at a gateway",
    "fedbus client resume": "decided by a data owner, where the data are: never at a gateway",
    "fedbus client run": "takes part: where the data are, never at a gateway",
    "fedbus client withdraw": "decided by a data owner, where the data are: never at a gateway",
    "fedbus model archive": "copies everything once; a gateway with `--store` does so all the time",
    "fedbus model verify": "checks with the keys of whoever runs it; a gateway's word would be no proof",
    "fedbus session track": "writes where experiments are kept, with the rights of whoever runs it",
}
"""Commands of sessions, models, stages, clients and events that no operation does, each with the reason."""

BEGIN = """\
<!-- Made by `python -m fedbus.gateway.reference docs/reference`; edit what it is made of: the routes and the views. -->
"""


def rest_page(operations: Iterable[Operation]) -> str:
    """Return ``rest.md``: every operation with what it takes, gives and refuses, then the shapes."""
    found = tuple(operations)
    doc = document(found)
    parts = [BEGIN, REST]
    for tag, text in TAGS.items():
        own = [operation for operation in found if tag_of(operation) == tag]
        if own:
            parts.append(f"## {tag.capitalize()}\n\n{text}\n")
            parts += [_operation(operation, doc) for operation in own]
    parts += ["## Problems\n", _problems(), "## Shapes\n", SHAPES]
    parts += [_shape(name, schema) for name, schema in sorted(doc["components"]["schemas"].items())]
    return "\n".join(parts)


REST = """\
# REST

What a [gateway](command-line.md#fedbus-gateway) offers; by hand in [how to use REST](../how-to/rest.md).
`/openapi.json` is the same for programs, `/docs` shows it in a browser. Who does the same on the command line and in
Python: [parity](parity.md).

**Lists** come by pages: `{"items": [...], "next": "...", "total": 12}`; `next` is the `cursor` of the page behind, and
null at the end. `limit` is from 1 to 500, 100 where it is not given. **Times** are seconds since the epoch, spans of
time seconds, sizes bytes; a number that is not finite is null. **ETag**: an answer to GET has one; with `If-None-Match`
it comes again only where it has changed (304). **Idempotency-Key**: a POST that has one may be sent again, to any
gateway: what it makes is made once. The same key with another body is refused with 422. **X-Request-Id** is in every
answer and in the gateway's log.

**Bounds**: bodies of JSON 1 MiB (`--body-max`), 100 requests a second of an address and 400 at once (`--rate`,
`--burst`). A page of another origin may read nothing and change nothing, unless `--cors-origin` allows it. A
request whose `Host` is none of this gateway (`--allow-host`) is answered with 421.

**Who asks**: a program with `Authorization: Bearer fba_...`, a page with the cookie of `logIn`, which sends
`X-Fedbus-CSRF` (`csrf` of `getMe`) with whatever changes something. Each operation says which permission it needs; who
has it stands in [roles](roles.md). Who has not said who she is gets 401, who may not 403 with the `permission` that is
missing, who guesses 429. An open gateway (`fedbus up --open`) asks nobody: whoever reaches it is an admin. How to sign
in: [sign in](../how-to/sign-in.md).
"""

SHAPES = "What stands in bodies and answers; `*`: always there.\n"


def _operation(operation: Operation, doc: Json) -> str:
    found = doc["paths"][operation.path][operation.method.lower()]
    lines = [
        f"### {operation.method} {operation.path}",
        "",
        f"{operation.summary} (`{operation.id}`). {about(operation)}",
        "",
    ]
    lines += [_needs(operation), ""]
    rows = [
        (
            f"`{one['name']}`{' *' if one['required'] else ''}",
            one["in"],
            brief(one["schema"]),
            one.get("description", ""),
        )
        for one in found.get("parameters", ())
    ]
    if rows:
        lines += [*_table(("parameter", "in", "", ""), rows), ""]
    if "requestBody" in found:
        optional = "" if found["requestBody"]["required"] else ", may be left out"
        lines += [f"Body{optional}: {_contents(found['requestBody']['content'])}.", ""]
    for status, answer in found["responses"].items():
        if "$ref" not in answer:
            content = f": {_contents(answer['content'])}" if "content" in answer else ""
            text = "" if int(status) == operation.status else f" {answer['description']}"
            lines.append(f"- **{status}**{content}{'.' if content else ''}{text}")
    extra = [f"`{name}`: {text}" for name, text in operation.headers.items()]
    lines += [f"- {one}" for one in extra]
    lines += [f"- Problems: {', '.join(map(str, statuses(operation)))}", ""]
    return "\n".join(lines)


def _needs(operation: Operation) -> str:
    if operation.needs is None:
        return "Open to anybody."
    again = " Of a sign-in: [asks again](../how-to/sign-in.md#asked-again)." if operation.asks_again else ""
    return f"Needs `{operation.needs.value}`: {', '.join(permitted_to(operation.needs))}.{again}"


def roles_page() -> str:
    """Return ``roles.md``: who may do what, and by which operations."""
    from fedbus.gateway.table import OPERATIONS  # noqa: PLC0415 - so that whoever imports us need not load all routes

    doing: dict[Action, list[str]] = {}
    for one in OPERATIONS:
        if one.needs is not None:
            doing.setdefault(one.needs, []).append(f"`{one.id}`")
    rows = [
        (f"`{action.value}`", ABOUT[action], *("yes" if may((role,), action) else "" for role in ROLES),
         ", ".join(doing.get(action, ())))
        for action in Action
    ]  # fmt: skip
    head = ("action", "may", *ROLES, "operations")
    who = [(f"`{role}`", ABOUT_ROLES[role]) for role in ROLES]
    return "\n".join([BEGIN, ROLES_TEXT, *_table(("role", "who has it"), who), "", *_table(head, rows), ""])


ROLES_TEXT = """\
# Roles

What people may do at a [gateway](rest.md), by the roles that they have; somebody with several may do what any of them
may. The page shows what one may not do as disabled, with the permission that is missing; REST answers it with 403. The
[command line](command-line.md) works over the broker, where the role of its credentials decides
(`fedbus.access.permissions`).

Operations that are not named here are open to anybody: whether the gateway lives, its document, and signing in.
"""


def _contents(content: Json) -> str:
    return " or ".join(
        f"`{media}`" + (f", {brief(found['schema'])}" if found.get("schema") else "")
        for media, found in content.items()
    )


def _problems() -> str:
    rows = [(f"`{status}`", text) for status, text in sorted((EVERYWHERE | MORE).items())]
    return "\n".join([*_table(("status", ""), rows), ""])


def _shape(name: str, schema: Json) -> str:
    lines = [f"### {name}", ""]
    if schema.get("description"):
        lines += [" ".join(schema["description"].split()), ""]
    required = schema.get("required", ())
    rows = [
        (f"`{field}`{' *' if field in required else ''}", brief(of), of.get("description", ""))
        for field, of in schema.get("properties", {}).items()
    ]
    if rows:
        lines += [*_table(("field", "", ""), rows), ""]
    elif "enum" in schema:
        lines += [", ".join(f"`{one}`" for one in schema["enum"]), ""]
    return "\n".join(lines)


def brief(schema: Json) -> str:
    """Return a schema in a line of Markdown: ``integer, 1 to 500, default 100``."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key, word in (("anyOf", " or "), ("allOf", " and ")):
        if key in schema:
            return word.join(map(brief, schema[key]))
    words = [_kind(schema), *_range(schema)]
    for key, word in (("maxLength", "characters"), ("maxItems", "of them"), ("maxProperties", "entries")):
        if key in schema:
            words.append(f"at most {schema[key]} {word}")
    if schema.get("default") not in (None, "", []) and not isinstance(schema["default"], dict):
        words.append(f"default `{schema['default']}`")
    return ", ".join(words)


def _range(schema: Json) -> Iterable[str]:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        yield f"{least:.12g} to {most:.12g}"
    elif least is not None:
        yield f"at least {least:.12g}"
    elif most is not None:
        yield f"at most {most:.12g}"
    for key, word in (("exclusiveMinimum", "above"), ("exclusiveMaximum", "below")):
        if key in schema:
            yield f"{word} {schema[key]:.12g}"


def _kind(schema: Json) -> str:
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {brief(schema['items'])}" if schema.get("items") else "list"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {brief(schema['additionalProperties'])}"
    if kind == "string" and "pattern" in schema:
        return f"`{schema['pattern']}`".replace("|", "\\|")
    return " or ".join([kind] if isinstance(kind, str) else kind)


def parity_page(operations: Iterable[Operation]) -> str:
    """Return ``parity.md``: each operation with its command and its method, and what has no operation, and why."""
    rows = [
        (f"`{one.method} {one.path}`", f"`{one.command}`", f"`{one.python}`") if one.command else
        (f"`{one.method} {one.path}`", f"- ({HTTP_ONLY[one.id]})", "-")
        for one in operations
    ]  # fmt: skip
    commands = [(f"`{command}`", why) for command, why in sorted(COMMAND_ONLY.items())]
    return "\n".join(
        [
            BEGIN,
            PARITY,
            *_table(("REST", "command", "Python"), rows),
            "",
            "## Commands without an operation\n",
            *_table(("command", "why"), commands),
            "",
        ]
    )


PARITY = """\
# Parity

Whatever the page and [REST](rest.md) do, the [command line](command-line.md) and Python do as well: each row is one
thing. Methods are those of `fedbus.connect(...)` (`Federation`), of the sessions that it gives (`Session`), of its
`models` (`Models`) and its `registry` (`Registry`).
"""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(' '.join(cell.split()) for cell in row)} |" for row in rows),
    ]


def write(directory: Path) -> None:
    """Write the pages into a directory."""
    from fedbus.gateway.table import OPERATIONS  # noqa: PLC0415 - so that whoever imports us need not load all routes

    (directory / "rest.md").write_text(rest_page(OPERATIONS))
    (directory / "parity.md").write_text(parity_page(OPERATIONS))
    (directory / "roles.md").write_text(roles_page())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
