"""Assembles the description: what FastAPI finds in the routes, plus the tables of this package.

Pure: the same routes produce the same document. ``make openapi`` writes it to ``openapi.yaml``; the
gateway serves it with its own address and its own key requirement.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import yaml
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from contracts.version import VERSION
from gateway.access_control import is_protected
from gateway.openapi import examples, fields, links, problems
from gateway.routes import PUBLIC, inference

Document = dict[str, Any]

TITLE = "Vision Insight API"
DEFAULT_SERVER = "http://localhost:8000"

DESCRIPTION = """\
Generate images, edit them, chat about them and extract their text or objects, with OpenAI's API. Models
load on demand, share a memory budget and unload when they are idle.

**Errors** have OpenAI's shape everywhere, plus `source`, the tier in which they occurred. A wrong
method is a 405, whose `Allow` header lists the right ones. An OpenAI field that is not supported is a
400 that names the field. Unknown fields are ignored. Some rules across fields (`partial_images` needs
`stream`) are not in the schemas. A request that breaks one is a 400.

**Streams** are server-sent events. Lines that start with a colon are comments; they report the progress
of a load or an image. A stream that fails ends with an event `error`, whose data is an Error.

**Keys.** If a key is set, everything under `/v1/` requires it, as `Authorization: Bearer KEY` or
`X-API-Key: KEY`. Image files need no key: their names are random and secret.
"""

_TAGS = {
    "chat": "Text and images to text.",
    "images": "Text, or text and images, to images.",
    "vision": "An image to text, by task.",
    "models": "The available models.",
    "system": "Health, status, loading and unloading.",
}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "As OpenAI's SDKs send it."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_SCHEMAS = "#/components/schemas/"
# FastAPI's validation errors: ours are 400s in OpenAI's shape.
_FASTAPI_ERRORS = ("HTTPValidationError", "ValidationError")


def document(server: str = DEFAULT_SERVER, *, key: bool | None = None) -> Document:
    """The description of the API at *server*. *key*: whether a key is required; None: unknown."""
    routes = [
        route for module in PUBLIC for route in module.router.routes if isinstance(route, APIRoute)
    ]
    names = {(r.path_format, method): r.name for r in routes for method in r.methods or ()}
    with warnings.catch_warnings():
        # FastAPI's operation ids, replaced below, are the same for GET and HEAD of a function.
        warnings.filterwarnings("ignore", "Duplicate Operation ID")
        made = get_openapi(
            title=TITLE,
            version=VERSION,
            summary="An OpenAI-compatible vision API for one machine at home.",
            description=DESCRIPTION,
            license_info={"name": "MIT", "identifier": "MIT"},
            servers=[{"url": server}],
            tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
            routes=routes,
        )
    made = copy.deepcopy(made)  # the routes keep their own dicts
    # FastAPI iterates over a set of methods.
    made["paths"] = {path: dict(sorted(methods.items())) for path, methods in made["paths"].items()}
    components = made["components"]
    for name in _FASTAPI_ERRORS:
        components["schemas"].pop(name, None)
    for route in routes:
        _restore_body(made["paths"][route.path_format], route)
    for path, method, operation in operations(made):
        _complete(path, method, operation, names[path, method.upper()], key)
    made["paths"] = _with_refs(made["paths"], components["schemas"])
    components["schemas"]["Error"] = problems.ERROR_SCHEMA
    components["schemas"] = dict(sorted(components["schemas"].items()))
    components["responses"] = problems.responses()
    components["headers"] = dict(problems.HEADERS)
    components["links"] = dict(links.LINKS)
    if key is not False:
        components["securitySchemes"] = _KEYS
    for name, schema in components["schemas"].items():
        _describe_fields(name, schema)
    for part in ("paths", "components"):
        made[part] = _cleaned(made[part])
    return made


def operations(made: Document) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each path, method and operation of the document."""
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def as_yaml(made: Document) -> str:
    head = "# Made from the routes and models by `make openapi`; a test fails when it is stale.\n"
    text: str = yaml.dump(made, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return head + text


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _restore_body(path: dict[str, Any], route: APIRoute) -> None:
    """The request body as the route defines it: FastAPI turns bounds into floats, 2**64 - 1 into
    2**64.
    """
    if route.openapi_extra and "requestBody" in route.openapi_extra:
        for method in route.methods or ():
            path[method.lower()]["requestBody"] = copy.deepcopy(route.openapi_extra["requestBody"])


def _complete(path: str, method: str, operation: dict[str, Any], name: str, key: bool | None) -> None:
    """Add what the tables know about *operation*, which the function *name* handles."""
    operation["operationId"] = f"{name}_head" if method == "head" else name
    summary, _, more = operation["description"].partition("\n")
    operation["summary"] = summary.rstrip(".:")
    operation["description"] = more.strip() or summary
    own = {k: v for k, v in operation["responses"].items() if k != "422"}
    for status, response in own.items():
        timings = problems.TIMINGS if path in inference.PATHS and status == "200" else ()
        response["headers"] = problems.headers(*timings) | response.get("headers", {})
        if method == "head":
            response.pop("content", None)
    if method != "head" and links.of_answer(name):
        own["200"]["links"] = links.of_answer(name)
    answers = problems.problems_of(method, path) | own
    operation["responses"] = dict(sorted(answers.items()))
    if is_protected(path) and key is not False:
        operation["security"] = [{scheme: []} for scheme in _KEYS] + ([{}] if key is None else [])
    for parameter in operation.get("parameters", ()):
        given = examples.PARAMETERS.get(name, {}).get(parameter["name"])
        if given is not None:
            parameter["example"] = given
    for example_name, example in examples.BODIES.get(name, {}).items():
        body = operation["requestBody"]["content"][example.content_type]
        entry = {"summary": example.summary, "value": copy.deepcopy(example.value)}
        body.setdefault("examples", {})[example_name] = entry


def _with_refs(node: Any, found: dict[str, Any]) -> Any:
    """*node* with references in place of the models inside it, which are added to *found*."""
    if isinstance(node, list):
        return [_with_refs(item, found) for item in node]
    if not isinstance(node, dict):
        return node
    if "title" in node and node.get("type") == "object":
        found |= node.get("$defs", {})
        found[node["title"]] = {key: value for key, value in node.items() if key != "$defs"}
        return {"$ref": _SCHEMAS + node["title"]}
    kept = ("example", "examples")
    return {key: value if key in kept else _with_refs(value, found) for key, value in node.items()}


def _describe_fields(name: str, schema: dict[str, Any]) -> None:
    for field, described in schema.get("properties", {}).items():
        sentence = fields.sentence(name, field)
        if sentence is not None:
            described["description"] = sentence


def _cleaned(node: Any) -> Any:
    """*node* with docstrings' ``names`` as Markdown, without titles, which repeat names."""
    if isinstance(node, list):
        return [_cleaned(item) for item in node]
    if not isinstance(node, dict):
        return node
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("example", "examples"):
            out[key] = value
        elif key == "properties":
            out[key] = {name: _cleaned(field) for name, field in value.items()}
        elif isinstance(value, str) and key in ("summary", "description"):
            out[key] = value.replace("``", "`")
        elif not (isinstance(value, str) and key == "title"):
            out[key] = _cleaned(value)
    return out
