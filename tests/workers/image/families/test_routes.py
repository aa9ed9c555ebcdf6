"""HTTP requests to each family's real engine, on a small checkpoint."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from testkit.servers import served
from tests.workers.apps import b64, png, wait_for
from tests.workers.conftest import image_settings
from tests.workers.image.families.conftest import Make
from workers.app import create_app
from workers.image.engine import MfluxEngine
from workers.image.files import recipe_of

pytestmark = [pytest.mark.mlx, pytest.mark.usefixtures("uncompiled")]

FIELDS = {"prompt": "a red cat", "seed": 3, "steps": 3}


@contextmanager
def serving(tiny: Make, family: str) -> Iterator[httpx.Client]:
    settings = image_settings(tiny(family), family=family, size="48x32", max_pixels=128 * 128)
    app = create_app(family, settings, MfluxEngine(family, settings))
    with served(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        wait_for(lambda: client.get("/health").status_code == 200)
        yield client


def left_half(width: int, height: int) -> str:
    """A mask that marks the left half."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (0, 0, width // 2, height))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return b64(buffer.getvalue())


def generated(client: httpx.Client, path: str, **fields: Any) -> bytes:
    response = client.post(f"/v1/images/{path}", json={**FIELDS, **fields})
    assert response.status_code == 200, response.text
    return base64.b64decode(response.json()["data"][0]["b64_json"])


def kept(data: bytes, colour: str) -> bool:
    """Is the right half unchanged?"""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        right = image.crop((width // 2, 0, width, height))
        return bool(right.tobytes() == Image.new("RGB", right.size, colour).tobytes())


@pytest.mark.parametrize("family", ["flux2-klein-4b", "flux1-kontext"])
def test_a_family_with_instruction_edits_edits_every_image_it_gets(tiny: Make, family: str) -> None:
    with serving(tiny, family) as client:
        red, blue = b64(png(48, 32)), b64(png(40, 80, "blue"))
        plain = generated(client, "edits", image=red)
        assert plain == generated(client, "edits", image=red)
        assert plain != generated(client, "edits", image=b64(png(48, 32, "green")))
        recipe = recipe_of(plain)
        assert recipe is not None
        assert generated(client, "edits", **{**recipe, "image": red}) == plain
        masked = generated(client, "edits", image=red, mask=left_half(48, 32))
        assert kept(masked, "red")
        assert not kept(plain, "red")
        if family == "flux2-klein-4b":
            assert generated(client, "edits", image=[red, blue]) != plain
            assert generated(client, "edits", image=red, strength=0.5) != plain
            generated(client, "generations")
        streamed = client.post(
            "/v1/images/edits", json={**FIELDS, "image": red, "stream": True, "partial_images": 2}
        ).text
        events = [json.loads(part.split("\n")[0]) for part in streamed.split("\ndata: ")[1:]]
        assert [event["type"] for event in events] == [
            "image_edit.partial_image",
            "image_edit.partial_image",
            "image_edit.completed",
        ]
        assert base64.b64decode(events[-1]["b64_json"]) == plain


def test_a_family_that_fills_masks_requires_one_and_fills_it(tiny: Make) -> None:
    with serving(tiny, "flux1-fill") as client:
        filled = generated(client, "edits", image=b64(png(48, 32)), mask=left_half(48, 32))
        assert kept(filled, "red")
        refused = client.post("/v1/images/edits", json={**FIELDS, "image": b64(png(48, 32))})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "mask")
        refused = client.post("/v1/images/generations", json=FIELDS)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


def test_z_image_generates_and_edits(tiny: Make) -> None:
    with serving(tiny, "z-image-turbo") as client:
        assert recipe_of(generated(client, "generations")) is not None
        assert kept(generated(client, "edits", image=b64(png(48, 32)), mask=left_half(48, 32)), "red")
