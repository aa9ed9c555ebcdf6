"""Bodies as routes describe them: a model's schema, the form of it, the events of a stream. Pure."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_REF = "#/components/schemas/{model}"
_FILE: Schema = {"type": "string", "format": "binary"}

CHAT_EVENTS = (
    "Each event's data is a ChatChunk, the last one's is `[DONE]`. A stream that breaks off ends with "
    "an event `error`, whose data is an Error.",
    'data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "vlm-best", '
    '"choices": [{"index": 0, "delta": {"content": "Red"}, "finish_reason": null}]}'
    "\n\ndata: [DONE]\n\n",
)
IMAGE_EVENTS = (
    "Each event's data is an ImageStreamEvent, whose `type` is the event's name: "
    "`image_generation.partial_image` and `image_generation.completed`, or `image_edit` likewise. "
    "A stream that breaks off ends with an event `error`, whose data is an Error.",
    ": step 1 of 4\n\nevent: image_generation.completed\n"
    'data: {"type": "image_generation.completed", "b64_json": "iVBORw0K...", ...}\n\n',
)


def model_schema(model: type[BaseModel]) -> Schema:
    """The schema of *model* as requests have it; other models are referred to as components."""
    return model.model_json_schema(ref_template=_REF)


def form_schema(model: type[BaseModel], *, files: Sequence[str]) -> Schema:
    """*model* as a multipart form: fields are text or, if they are among *files*, files.

    A form has no null, and a file may be sent as its base64 too; one that may be several is a list.
    """
    schema = copy.deepcopy(model_schema(model))
    schema["title"] = model.__name__.removesuffix("Request") + "Form"
    for name, field in schema["properties"].items():
        branches = [branch for branch in field.get("anyOf", ()) if branch.get("type") != "null"]
        is_list = any(branch.get("type") == "array" for branch in branches)
        if name in files:
            kept = {"type": "array", "items": _FILE, "minItems": 1} if is_list else _FILE
        elif len(branches) == 1:
            kept = {k: v for k, v in field.items() if k not in ("anyOf", "default")} | branches[0]
        else:
            kept = field
        schema["properties"][name] = kept
    return schema


def event_stream(model: type[BaseModel], told: tuple[str, str]) -> dict[str, Any]:
    """The content of an answer that is a stream of events with a *model* as data.

    *told*: what is to be said of it, and an example.
    """
    description, example = told
    schema = {
        "type": "string",
        "description": description,
        "x-event-data": model.model_json_schema(ref_template=_REF, mode="serialization"),
    }
    return {"text/event-stream": {"schema": schema, "example": example}}
