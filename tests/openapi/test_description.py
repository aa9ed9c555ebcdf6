"""``openapi.yaml`` matches the code, is complete and consistent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from fastapi.routing import APIRoute

from contracts.wire.images import ImageEditRequest
from gateway.openapi import examples, fields, problems
from gateway.openapi.document import document, operations
from gateway.openapi.schemas import form_schema
from gateway.routes import PUBLIC
from scripts import openapi

MADE = document()
OPERATIONS = {operation["operationId"]: operation for _, _, operation in operations(MADE)}
SCHEMAS: dict[str, Any] = MADE["components"]["schemas"]
BODIES = {
    name: operation["requestBody"]["content"]
    for name, operation in OPERATIONS.items()
    if "requestBody" in operation
}


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def reached(start: Any) -> set[str]:
    """The names of the schemas that *start* refers to, directly or indirectly."""
    found: set[str] = set()
    left = [start]
    while left:
        names = {ref.rpartition("/")[2] for ref in references(left.pop()) if "/schemas/" in ref}
        left += [SCHEMAS[name] for name in names - found]
        found |= names
    return found


REQUESTS = sorted(reached(BODIES))


def test_the_file_matches_the_code() -> None:
    assert openapi.FILE.read_text(encoding="utf-8") == openapi.text(), "stale: make openapi"


def test_every_reference_resolves() -> None:
    for reference in references(MADE):
        node: Any = MADE
        for part in reference.removeprefix("#/").split("/"):
            node = node[part.replace("~1", "/")]


def test_the_file_equals_the_document_that_the_gateway_serves() -> None:
    assert yaml.safe_load(openapi.text()) == MADE


def test_bounds_are_exact() -> None:
    seed = SCHEMAS["ImageGenerationRequest"]["properties"]["seed"]["anyOf"][0]
    assert (seed["minimum"], seed["maximum"]) == (0, 2**64 - 1)


def test_every_route_of_the_api_is_described() -> None:
    routes = [r for module in PUBLIC for r in module.router.routes if isinstance(r, APIRoute)]
    assert len(OPERATIONS) == sum(len(route.methods or ()) for route in routes)


def test_every_operation_has_descriptions_and_errors() -> None:
    for name, operation in OPERATIONS.items():
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name
        assert {"400", "500"} <= set(operation["responses"]), name
        assert "422" not in operation["responses"], name
        assert "x-request-id" in operation["responses"]["200"]["headers"], name


def test_every_status_of_an_error_is_described() -> None:
    # 405 belongs to no operation, because an operation has an allowed method.
    assert {cls.status for cls in problems.error_tree()} - {405} <= set(problems.PROBLEMS)


def test_a_status_lists_all_its_codes() -> None:
    responses = MADE["components"]["responses"]
    for cls in problems.error_tree():
        if cls.status in problems.PROBLEMS:
            response = responses[problems.PROBLEMS[cls.status].name]
            assert f"`{cls.code}`" in response["description"], cls
    for code in ("memory_pressure", "stopped"):
        assert f"`{code}`" in responses["Unavailable"]["description"]
    for code in ("context_length_exceeded", "invalid_image_url", "pictures_too_large"):
        assert f"`{code}`" in responses["BadRequest"]["description"]


def test_every_request_field_has_a_description() -> None:
    for schema in REQUESTS:
        for name, field in SCHEMAS[schema]["properties"].items():
            assert field.get("description"), f"{schema}.{name} (gateway/openapi/fields.py)"


def test_every_description_belongs_to_a_field() -> None:
    there = {name: set(SCHEMAS[name]["properties"]) for name in REQUESTS}
    for schema, row in fields.FIELDS.items():
        assert set(row) <= there[schema], schema
    assert set(fields.COMMON) <= set.union(*there.values())


def test_every_body_has_an_example_of_each_type() -> None:
    for name, content in BODIES.items():
        for kind, body in content.items():
            assert body.get("examples"), (
                f"{name} has no example of {kind} (gateway/openapi/examples.py)"
            )


def test_every_example_belongs_to_an_operation() -> None:
    assert set(examples.BODIES) == set(BODIES)
    for name, row in examples.PARAMETERS.items():
        assert set(row) == {parameter["name"] for parameter in OPERATIONS[name]["parameters"]}


def test_every_link_leads_to_an_operation() -> None:
    for link in MADE["components"]["links"].values():
        parameters = {parameter["name"] for parameter in OPERATIONS[link["operationId"]]["parameters"]}
        assert set(link["parameters"]) <= parameters


def test_a_form_has_files_and_no_null() -> None:
    form = form_schema(ImageEditRequest, files=("image", "mask"), without=("images",))["properties"]
    assert form["mask"] == {"type": "string", "format": "binary"}
    assert form["image"]["items"]["format"] == "binary"
    assert "null" not in str(form)


def test_key_schemes_match_the_key_requirement() -> None:
    for key, expected in ((None, 3), (True, 2), (False, 0)):
        made = document("/", key=key)
        chat = made["paths"]["/v1/chat/completions"]["post"]
        assert len(chat.get("security", ())) == expected
        assert "security" not in made["paths"]["/healthz"]["get"]
        assert "security" not in made["paths"]["/v1/images/files/{name}"]["get"]


def test_docstrings_become_markdown() -> None:
    assert "``" not in re.sub(r"^#.*$", "", openapi.text(), flags=re.M)
