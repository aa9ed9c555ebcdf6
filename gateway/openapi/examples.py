"""Example requests that work as they are: a test sends each to the demo stack and expects a 200.

Rules: by operation, then by name. Unneeded fields are omitted; so is the model, so that the examples
work with every config.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

JSON = "application/json"
FORM = "multipart/form-data"

# 64x64 pixels: a red circle on a blue background, and a mask of the right half.
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
_IMAGE = f"data:image/png;base64,{CIRCLE}"


class Example(NamedTuple):
    summary: str
    value: dict[str, Any]
    content_type: str = JSON


def _asking(text: str, **fields: Any) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": _IMAGE}},
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
_RESULT = "a red circle on a blue background"
_EDITED = "a green circle on a blue background"

BODIES: Mapping[str, Mapping[str, Example]] = MappingProxyType(
    {
        "chat_completions": {
            "image": Example(
                "A question about an image", _asking("What color is the circle?", temperature=0)
            ),
            "text": Example("Text only", {"messages": [{"role": "user", "content": "hello"}]}),
            "stream": Example(
                "A stream with usage",
                _asking("Describe this image.", stream=True, stream_options={"include_usage": True}),
            ),
            "schema": Example(
                "Output that matches a JSON schema",
                _asking(
                    "What do you see?",
                    response_format={
                        "type": "json_schema",
                        "json_schema": {"name": "seen", "schema": _SEEN},
                    },
                ),
            ),
            "tools": Example(
                "A function call",
                _asking("Look up what you see.", tools=[_LOOK_UP], tool_choice="required"),
            ),
        },
        "responses": {
            "image": Example(
                "A question about an image",
                {
                    "input": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "input_text", "text": "What color is the circle?"},
                                {"type": "input_image", "image_url": _IMAGE},
                            ],
                        }
                    ],
                    "temperature": 0,
                },
            ),
            "stream": Example("Text only, streamed", {"input": "hello", "stream": True}),
        },
        "images_generations": {
            "plain": Example("One image", {"prompt": _RESULT, "seed": 42}),
            "url": Example(
                "Two small images as URLs",
                {"prompt": _RESULT, "n": 2, "size": "64x64", "steps": 2, "response_format": "url"},
            ),
            "stream": Example(
                "A stream with two partial images",
                {"prompt": _RESULT, "stream": True, "partial_images": 2, "output_format": "jpeg"},
            ),
        },
        "images_edits": {
            "strength": Example(
                "Half redrawn", {"prompt": _EDITED, "image": CIRCLE, "strength": 0.5, "seed": 1}
            ),
            "mask": Example(
                "Only the right half", {"prompt": _EDITED, "image": [_IMAGE], "mask": RIGHT_HALF}
            ),
            "form": Example(
                "As a form; the image is a file or base64 text",
                {"prompt": _EDITED, "image": CIRCLE, "strength": 0.5},
                FORM,
            ),
        },
        "vision_analyze": {
            "caption": Example("A caption", {"image": CIRCLE}),
            "objects": Example("List the objects", {"image": CIRCLE, "task": "objects"}),
            "custom": Example(
                "Your own question",
                {"image": _IMAGE, "task": "custom", "prompt": "What color is the circle?"},
            ),
        },
    }
)

# Parameter examples: by operation, then by parameter.
PARAMETERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "retrieve_model": {"name": "vlm-best"},
        "evict": {"name": "vlm-best"},
        "warm": {"name": "vlm-best", "keep_alive": 60},
        "system_logs": {"name": "vlm-best", "lines": 20, "follow": False},
    }
)
