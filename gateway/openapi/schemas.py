"""Body schemas for route descriptions: of a model, of its form, of a stream's events. Pure."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

Schema = dict[str, Any]

_REF = "#/components/schemas/{model}"
_FILE: Schema = {"type": "string", "format": "binary"}

# Booleans as form text.
_YES_OR_NO = ["true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n"]
_DONE: Schema = {"const": "[DONE]"}


class Events(NamedTuple):
    """The events of a stream: description, names, an example.

    ``last``: the data of the event that ends the stream, if it is not JSON.
    """

    description: str
    names: tuple[str, ...]
    example: str
    last: Schema | None = None


CHAT_EVENTS = Events(
    "One event: a chunk of the completion, and at the end `[DONE]`. A stream that fails ends with an "
    "event `error` instead.",
    ("message", "error"),
    'data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "vlm-best", '
    '"choices": [{"index": 0, "delta": {"content": "Red"}, "finish_reason": null}]}'
    "\n\ndata: [DONE]\n\n",
    _DONE,
)


_STATES = ("created", "in_progress", "completed", "incomplete", "failed")
_PARTS = (
    *("output_item.added", "output_item.done", "content_part.added", "content_part.done"),
    *("output_text.delta", "output_text.done"),
    *("function_call_arguments.delta", "function_call_arguments.done"),
)
RESPONSE_EVENTS = Events(
    "One event, numbered by `sequence_number`. The last is `response.completed`, `response.incomplete` "
    "or, followed by `error`, `response.failed`; these contain the final response.",
    (*(f"response.{name}" for name in (*_STATES, *_PARTS)), "error"),
    'event: response.output_text.delta\ndata: {"type": "response.output_text.delta", '
    '"sequence_number": 4, "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": "Red"}'
    "\n\n",
)


def image_events(kind: str) -> Events:
    """*kind*: image_generation or image_edit."""
    return Events(
        "One event: a partial image or a complete one. A stream that fails ends with an event `error` "
        "instead.",
        (f"{kind}.partial_image", f"{kind}.completed", "error"),
        f": step 1 of 4\n\nevent: {kind}.completed\n"
        f'data: {{"type": "{kind}.completed", "b64_json": "iVBORw0K...", ...}}\n\n',
    )


MANAGER_EVENTS = Events(
    "One event; its data is JSON. `transition` (alias, from, to, reason), `progress` of a load (alias, "
    "phase, download), `drawing` (alias, step, steps, `picture`, `pictures`, eta_seconds), `memory` "
    "(budget_gb, charged_gb, available_gb, workers), `pressure` (level), `lost` (count of missed "
    "events).",
    ("transition", "progress", "drawing", "memory", "pressure", "lost", "error"),
    'id: 1764150000001\nevent: transition\ndata: {"alias": "vlm-best", "from": "stopped", '
    '"to": "starting", "reason": "a request"}\n\n',
)
LOG_LINES = Events("One log line, as a JSON string.", ("message", "error"), 'data: "INFO ready"\n\n')


def model_schema(model: type[BaseModel]) -> Schema:
    """The request schema of *model*; other models are references to components."""
    return model.model_json_schema(ref_template=_REF)


def form_schema(model: type[BaseModel], *, files: Sequence[str], without: Sequence[str] = ()) -> Schema:
    """*model* as a multipart form: fields are text or, if listed in *files*, files.

    *without*: fields that only JSON has. A form has no null, and a file may be sent as base64 text. A
    field that accepts several files is a list.
    """
    schema = copy.deepcopy(model_schema(model))
    for name in without:
        del schema["properties"][name]
    schema["title"] = model.__name__.removesuffix("Request") + "Form"
    for name, field in schema["properties"].items():
        branches = [branch for branch in _branches(field) if branch.get("type") != "null"]
        is_list = any(branch.get("type") == "array" for branch in branches)
        if name in files:
            kept = {"type": "array", "items": _FILE, "minItems": 1} if is_list else _FILE
        elif [branch.get("type") for branch in branches] == ["boolean"]:
            kept = {"enum": [True, False, *_YES_OR_NO]}
        elif len(branches) == 1:
            kept = {k: v for k, v in field.items() if k not in ("anyOf", "default")} | branches[0]
        else:
            kept = field
        schema["properties"][name] = kept
    return schema


def _branches(field: Schema) -> list[Schema]:
    """The alternatives of a *field*, nested ones included."""
    return [inner for branch in field.get("anyOf", ()) for inner in (_branches(branch) or [branch])]


def plain_stream(events: Events) -> dict[str, Any]:
    """The content of a response that is a stream of *events* with arbitrary JSON data."""
    data: Schema = {"type": "string", "contentMediaType": "application/json"}
    return _stream(events, data)


def event_stream(model: type[BaseModel], events: Events) -> dict[str, Any]:
    """The content of a response that is a stream of *events* with a *model* as data.

    OpenAPI 3.1 has no streams: by convention the schema is that of one event.
    """
    schema = model.model_json_schema(ref_template=_REF, mode="serialization")
    error = {"$ref": _REF.format(model="Error")}
    data: Schema = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [schema, error]},
    }
    if events.last is not None:
        data = {"anyOf": [events.last, data]}
    return _stream(events, data)


def _stream(events: Events, data: Schema) -> dict[str, Any]:
    schema = {
        "type": "object",
        "description": events.description,
        "required": ["data"],
        "properties": {"event": {"enum": list(events.names)}, "data": data},
    }
    return {"text/event-stream": {"schema": schema, "example": events.example}}
