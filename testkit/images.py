"""Images of the shapes world in the formats that clients send."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from demo.world import Scene, Thing, render

RED_CIRCLE = Scene("blue", (Thing("red", "circle", 0.5, 0.5, 0.32),))
RED_CIRCLE_CAPTION = "a red circle on a blue background"
GREEN_STAR = Scene("yellow", (Thing("green", "star", 0.5, 0.5, 0.32),))
WORD = Scene("white", (), "CAT42", "blue")


def png(scene: Scene, side: int = 128) -> bytes:
    buffer = io.BytesIO()
    render(scene, side).save(buffer, "PNG")
    return buffer.getvalue()


def as_base64(scene: Scene) -> str:
    return base64.b64encode(png(scene)).decode()


def as_data_uri(scene: Scene) -> str:
    return f"data:image/png;base64,{as_base64(scene)}"


def ask(scene: Scene, text: str, **fields: Any) -> dict[str, Any]:
    """A chat request about *scene*, greedy."""
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": as_data_uri(scene)}},
    ]
    return {"messages": [{"role": "user", "content": parts}], "temperature": 0, **fields}


def opened(b64_json: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(b64_json)))
    image.load()
    return image
