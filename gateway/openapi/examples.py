"""Requests that work as they stand: against the demo stack each gets its 200, which a test sees.

Rules: by operation, then by name. Fields that no example needs are left out; models are left to the
default of the route, so that the examples hold for any config.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

JSON = "application/json"
FORM = "multipart/form-data"

# 64x64 pixels: a red circle on a blue ground, and a mask of the right half.
CIRCLE = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAABlBMVEUoUNzcKCj2cj16AAAAiElEQVR42r3QwQnC"
    "UBCE4S+rYA6CKcES7MBYmSnFUlJKSsgxiOR5eAoPI7npXHb4Z1jY5S/aDS9znfOsUupyktJAUNMQnNgTtAQVCZV4"
    "LwsVdCKztoy2cCxJDU1JlqaBer2zNCNM650JxpI8YCjJDP3XS3Ukgl7uOaQ0Ekxkc+fGBs6Xj4f/WE8k4x5K/gYe"
    "xgAAAABJRU5ErkJggg=="
)
RIGHT_HALF = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQAAAACCEkxzAAAAGklEQVR42mNkYGBg+M/AwMDEAAWjjFEG8QwAyyMB"
    "f5gYzUkAAAAASUVORK5CYII="
)
_PICTURE = f"data:image/png;base64,{CIRCLE}"


class Example(NamedTuple):
    summary: str
    value: dict[str, Any]
    content_type: str = JSON


def _asking(text: str, **fields: Any) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": _PICTURE}},
    ]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 64, **fields}


_LOOK_UP = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a thing up by its color and shape.",
        "parameters": {
            "type": "object",
            "properties": {"color": {"type": "string"}, "shape": {"type": "string"}},
            "required": ["color", "shape"],
        },
    },
}
_SEEN = {
    "type": "object",
    "properties": {
        "color": {"enum": ["red", "green", "blue"]},
        "shape": {"enum": ["circle", "square"]},
    },
    "required": ["color", "shape"],
    "additionalProperties": False,
}
_DRAWN = "a red circle on a blue background"
_EDITED = "a green circle on a blue background"

BODIES: Mapping[str, Mapping[str, Example]] = MappingProxyType(
    {
        "chat_completions": {
            "picture": Example(
                "A question about a picture", _asking("What color is the circle?", temperature=0)
            ),
            "text": Example("Words only", {"messages": [{"role": "user", "content": "hello"}]}),
            "stream": Example(
                "A stream, with the usage at its end",
                _asking("Describe this image.", stream=True, stream_options={"include_usage": True}),
            ),
            "schema": Example(
                "An answer that fits a JSON schema",
                _asking(
                    "What do you see?",
                    response_format={
                        "type": "json_schema",
                        "json_schema": {"name": "seen", "schema": _SEEN},
                    },
                ),
            ),
            "tools": Example(
                "A call of a function",
                _asking("Look up what you see.", tools=[_LOOK_UP], tool_choice="required"),
            ),
        },
        "responses": {
            "picture": Example(
                "A question about a picture",
                {
                    "input": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "input_text", "text": "What color is the circle?"},
                                {"type": "input_image", "image_url": _PICTURE},
                            ],
                        }
                    ],
                    "temperature": 0,
                },
            ),
            "stream": Example("Words only, as a stream", {"input": "hello", "stream": True}),
        },
        "images_generations": {
            "plain": Example("A picture", {"prompt": _DRAWN, "seed": 42}),
            "url": Example(
                "Two small ones, by their addresses",
                {"prompt": _DRAWN, "n": 2, "size": "64x64", "steps": 2, "response_format": "url"},
            ),
            "stream": Example(
                "A stream, with two pictures on the way",
                {"prompt": _DRAWN, "stream": True, "partial_images": 2, "output_format": "jpeg"},
            ),
        },
        "images_edits": {
            "strength": Example(
                "Redrawn by half", {"prompt": _EDITED, "image": CIRCLE, "strength": 0.5, "seed": 1}
            ),
            "mask": Example(
                "Only the right half", {"prompt": _EDITED, "image": [_PICTURE], "mask": RIGHT_HALF}
            ),
            "form": Example(
                "As a form; the picture is a file, or its base64",
                {"prompt": _EDITED, "image": CIRCLE, "strength": 0.5},
                FORM,
            ),
        },
        "vision_analyze": {
            "caption": Example("A caption", {"image": CIRCLE}),
            "objects": Example("A list of the objects", {"image": CIRCLE, "task": "objects"}),
            "custom": Example(
                "A question of your own",
                {"image": _PICTURE, "task": "custom", "prompt": "What color is the circle?"},
            ),
        },
    }
)

# Of parameters: by operation, then by parameter.
PARAMETERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "retrieve_model": {"name": "vlm-best"},
        "evict": {"name": "vlm-best"},
        "warm": {"name": "vlm-best", "keep_alive": 60},
        "system_logs": {"name": "vlm-best", "lines": 20, "follow": False},
    }
)
