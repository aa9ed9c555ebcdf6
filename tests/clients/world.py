"""The inputs of a client: the address of the stack, images, prompts, schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from demo.world import Scene, Thing
from testkit.images import RED_CIRCLE_CAPTION, png

KEY = "a-key-for-the-tests-of-clients"
EDITING = "a green circle on a blue background"
CIRCLE = Scene("blue", (Thing("red", "circle", 0.35, 0.4, 0.25),))  # an unusual place
HOLE = (5, 11, 84, 91)  # of 128 x 128 pixels: the circle and some background
MAX_BODY_MB = 1

_COLOR = {"type": "string", "enum": ["red", "green", "blue", "yellow"]}
SHAPE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "shape": {"type": "string", "enum": ["circle", "square", "star", "triangle"]},
        "color": _COLOR,
        "background": _COLOR,
    },
    "required": ["shape", "color", "background"],
    "additionalProperties": False,
}
# A long response: it can't end before all numbers are generated.
NUMBERS: dict[str, Any] = {
    "type": "object",
    "properties": {"numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 1000}},
    "required": ["numbers"],
    "additionalProperties": False,
}


def write_images(folder: Path) -> dict[str, str]:
    """Write the images into *folder*; returns their paths by name."""
    files = {
        "circle": png(CIRCLE),
        "large": png(CIRCLE) + bytes(MAX_BODY_MB * 3 << 19),  # 1.5 times the limit
    }
    for name, data in files.items():
        (folder / f"{name}.png").write_bytes(data)
    mask = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    ImageDraw.Draw(mask).rectangle(HOLE, fill=(0, 0, 0, 0))
    mask.save(folder / "mask.png")
    return {name: str(folder / f"{name}.png") for name in (*files, "mask")}


def write_world(
    file: Path, base_url: str, *, key: str, images: dict[str, str], circle_url: str, strict: bool
) -> None:
    """*strict*: no other server is involved, so responses are validated strictly."""
    world = {
        "base_url": base_url,
        "key": key,
        "strict": strict,
        **images,
        "circle_url": circle_url,
        "ask_caption": "Caption this image.",
        "ask_objects": "List the objects in this image.",
        "prompt": RED_CIRCLE_CAPTION,
        "editing": EDITING,
        "shape": SHAPE,
        "numbers": NUMBERS,
    }
    file.write_text(json.dumps(world))
