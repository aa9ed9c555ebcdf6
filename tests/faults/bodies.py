"""The requests of the fault suite: a valid body for each of the four routes."""

from __future__ import annotations

import base64
import functools
import json
from typing import Any

from testkit.images import RED_CIRCLE, RED_CIRCLE_CAPTION, png

ROUTES = {
    "chat": "/v1/chat/completions",
    "stream": "/v1/chat/completions",
    "analyze": "/v1/vision/analyze",
    "draw": "/v1/images/generations",
    "edit": "/v1/images/edits",
}


@functools.cache
def image() -> str:
    return base64.b64encode(png(RED_CIRCLE)).decode()


def body_for(route: str, model: str | None = None, **fields: Any) -> bytes:
    """The JSON body of a request to *route*; *fields* are added or replace others."""
    body: dict[str, Any]
    match route:
        case "chat" | "stream":
            url = {"url": f"data:image/png;base64,{image()}"}
            parts = [
                {"type": "text", "text": "Describe this image in detail."},
                {"type": "image_url", "image_url": url},
            ]
            body = {"messages": [{"role": "user", "content": parts}], "stream": route == "stream"}
        case "analyze":
            body = {"image": image()}
        case "draw":
            body = {"prompt": RED_CIRCLE_CAPTION, "seed": 1}
        case "edit":
            body = {"prompt": RED_CIRCLE_CAPTION, "image": image(), "seed": 1}
        case _:
            raise ValueError(route)
    if model is not None:
        body["model"] = model
    return json.dumps({**body, **fields}).encode()
