"""The document is valid OpenAPI 3.1, says of each operation what the gateway does, and refers to what is there."""

from __future__ import annotations

import json
import re

import pytest
from asker import ask, make_gateway
from whole_house import House

from fedbus.gateway.files import files_under
from fedbus.gateway.openapi import TAGS, document, statuses, tag_of
from fedbus.gateway.operations import NAMES
from fedbus.gateway.table import OPERATIONS
from fedbus.testing.loop import run_virtual

DOC = document(OPERATIONS)
IDS = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)


def test_the_document_is_valid():
    """As the specification of OpenAPI 3.1 demands."""
    from openapi_spec_validator import OpenAPIV31SpecValidator  # a quarter of what all tests import, and only this one

    assert [error.message for error in OpenAPIV31SpecValidator(DOC).iter_errors()] == []


def test_references_lead_somewhere():
    """Every $ref finds what it names, and no schema is there for nothing."""
    text = json.dumps(DOC)
    refs = set(re.findall(r'"\$ref": "#/([^"]+)"', text))
    for ref in refs:
        at = DOC
        for key in ref.split("/"):
            at = at[key]
    used = {ref.rpartition("/")[2] for ref in refs if ref.startswith("components/schemas/")}
    assert set(DOC["components"]["schemas"]) - used == set()


def test_ids_and_addresses_are_unique():
    """One operation of a name, one of a method and an address."""
    assert len({operation.id for operation in OPERATIONS}) == len(OPERATIONS)
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)


@IDS
def test_each_operation_says_what_it_is(operation):
    """A summary, a description, a heading that has a text, names that are declared, an answer with a shape."""
    found = DOC["paths"][operation.path][operation.method.lower()]
    assert found["operationId"] == operation.id and re.fullmatch(r"[a-z][A-Za-z]+", operation.id)
    assert found["summary"] and not found["summary"].endswith(".")
    assert len(found["description"]) > 20
    assert tag_of(operation) in TAGS
    assert set(re.findall(r"{(\w+)}", operation.path)) <= NAMES.keys()
    good = found["responses"][str(operation.status)]
    assert good["description"]
    assert "content" in good or operation.status == 204 or operation.media != "application/json"
    assert {str(status) for status in statuses(operation)} <= found["responses"].keys()
    for parameter in found.get("parameters", ()):
        assert parameter["description"], f"{parameter['name']} needs a description"
        if parameter["in"] == "path":
            assert re.search(parameter["schema"]["pattern"], parameter["example"])


@IDS
def test_parameters_have_bounds(operation):
    """A number or text that anybody may send has a bound, and so has a list."""
    for parameter in DOC["paths"][operation.path][operation.method.lower()].get("parameters", ()):
        schema = parameter["schema"]
        assert bounded(schema), f"{operation.id}: {parameter['name']} has no bound: {schema}"


def bounded(schema):
    """Whether values of a schema have a bound."""
    if "enum" in schema or "const" in schema or "pattern" in schema or schema.get("type") == "boolean":
        return True
    if "anyOf" in schema:
        return all(map(bounded, schema["anyOf"]))
    match schema.get("type"):
        case "string":
            return "maxLength" in schema
        case "integer" | "number":
            return bool({"maximum", "exclusiveMaximum"} & schema.keys())
        case "array":
            return "maxItems" in schema and bounded(schema["items"])
    return False


def test_the_gateway_gives_the_document():
    """Word for word, with an ETag; an open one says that nobody has to say who she is."""
    answer = run_virtual(ask(make_gateway(House()), "GET", "/openapi.json"))
    assert answer.json == document(OPERATIONS, is_open=True)
    assert "ETag" in answer.headers


def test_the_viewer_needs_no_network_and_no_inline_script():
    """Its files name no other host, its page has no script or style of its own, so the strict policy lets it run."""
    from importlib import resources

    files = files_under(resources.files("fedbus.gateway") / "viewer")
    assert set(files) == {"index.html", "viewer.css", "viewer.js"}
    for file in files.values():
        assert b"http:" not in file.data and b"https:" not in file.data and b"//" not in file.data.replace(b"// ", b"")
    page = files["index.html"].data.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=", page)
    assert sum(len(file.data) for file in files.values()) < 20_000
    for address, media in (
        ("/docs", "text/html"),
        ("/docs/viewer.js", "text/javascript"),
        ("/docs/viewer.css", "text/css"),
    ):
        answer = run_virtual(ask(make_gateway(House()), "GET", address))
        assert (answer.status, answer.headers["Content-Type"]) == (200, f"{media}; charset=utf-8")
        again = {"If-None-Match": answer.headers["ETag"]}
        assert run_virtual(ask(make_gateway(House()), "GET", address, headers=again)).status == 304
    assert run_virtual(ask(make_gateway(House()), "GET", "/docs/../service.py")).status == 404
