"""Image generation and edits on the real stack, through OpenAI's client with strict validation."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from PIL import Image, ImageChops, ImageDraw

from demo.judge import check_caption
from hostctl.local_stack import LocalStack
from testkit.images import GREEN_STAR, RED_CIRCLE, RED_CIRCLE_CAPTION, as_base64, png
from testkit.stacks import wait_for
from workers.image.files import recipe_of

pytestmark = [pytest.mark.process, pytest.mark.mlx]

GREEN = "a green circle on a blue background"
SKETCH: Any = {"size": "64x64", "steps": 1}  # where any image will do
HOLE = (15, 15, 112, 112)  # of 128 x 128 pixels: the circle and some background


@pytest.fixture(scope="module")
def client(stack: LocalStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{stack.url}/v1", api_key="unused", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def data_of(answer: openai.types.ImagesResponse, index: int = 0) -> bytes:
    assert answer.data
    return base64.b64decode(answer.data[index].b64_json or "")


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def file(data: bytes, name: str = "그림.png") -> Any:
    return (name, data, "application/octet-stream")


def mask(mode: str, outside: Any, inside: Any) -> bytes:
    image = Image.new(mode, (128, 128), outside)
    ImageDraw.Draw(image).rectangle(HOLE, fill=inside)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_previews_are_streamed_and_the_last_image_equals_the_one_without_previews(
    client: openai.OpenAI,
) -> None:
    request: Any = {"prompt": RED_CIRCLE_CAPTION, "extra_body": {"seed": 4}}
    events = list(client.images.generate(**request, stream=True, partial_images=3))
    *partial, last = events
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 3
    assert [event.partial_image_index for event in partial] == [0, 1, 2]
    assert last.type == "image_generation.completed"
    assert last.usage.total_tokens > 0
    whole = base64.b64decode(last.b64_json)
    assert data_of(client.images.generate(**request)) == whole
    for event in partial:
        seen = opened(base64.b64decode(event.b64_json))
        assert seen.size == (128, 128)
        corner = seen.getpixel((5, 5))
        assert max(corner) == corner[2], "a preview has the background's colour, noise does not"


def test_an_edit_streams_previews_too(client: openai.OpenAI) -> None:
    events = list(
        client.images.edit(
            image=file(png(RED_CIRCLE)), prompt=GREEN, stream=True, partial_images=1, quality="low"
        )
    )
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert {event.quality for event in events} == {"low"}


def test_a_mask_limits_the_edit_and_all_other_pixels_stay_equal(client: openai.OpenAI) -> None:
    source = png(RED_CIRCLE)
    for marked in (mask("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)), mask("L", 0, 255)):
        answer = client.images.edit(
            image=[file(source)], mask=file(marked), prompt=GREEN, extra_body={"seed": 3}
        )
        edited = opened(data_of(answer))
        assert check_caption(edited, GREEN).right
        changed = ImageChops.difference(edited, opened(source))
        assert changed.getbbox() is not None
        ImageDraw.Draw(changed).rectangle(HOLE, fill=0)
        assert changed.getbbox() is None


def test_several_images_are_refused_by_a_model_that_edits_one(client: openai.OpenAI) -> None:
    images = [file(png(RED_CIRCLE)), file(png(GREEN_STAR))]
    with pytest.raises(openai.BadRequestError, match="flux1-schnell models edit one image") as caught:
        client.images.edit(image=images, prompt="x")
    assert caught.value.param == "image"


def test_an_image_is_served_at_its_url_without_a_key(client: openai.OpenAI, stack: LocalStack) -> None:
    request: Any = {"prompt": RED_CIRCLE_CAPTION, "extra_body": {"seed": 4, **SKETCH}}
    answer = client.images.generate(**request, response_format="url", output_format="webp", n=2)
    assert answer.data
    urls = [item.url or "" for item in answer.data]
    assert all(url.startswith(f"{stack.url}/v1/images/files/") for url in urls)
    files = [httpx.get(url) for url in urls]
    assert {file.headers["content-type"] for file in files} == {"image/webp"}
    inline = client.images.generate(**request, output_format="webp", n=2)
    assert [file.content for file in files] == [data_of(inline, index) for index in (0, 1)]


def test_the_recipe_in_an_image_generates_it_again_byte_for_byte(http: httpx.Client) -> None:
    for form in ("png", "jpeg", "webp"):
        request = {"prompt": RED_CIRCLE_CAPTION, "n": 2, "seed": 2**64 - 1, "output_format": form}
        body = http.post("/v1/images/generations", json={**request, **SKETCH}).json()
        assert [item["seed"] for item in body["data"]] == [2**64 - 1, 0]
        for item in body["data"]:
            image = base64.b64decode(item["b64_json"])
            recipe = recipe_of(image)
            assert recipe is not None
            again = http.post(recipe["route"], json=recipe).json()
            assert base64.b64decode(again["data"][0]["b64_json"]) == image


def test_the_recipe_in_an_edit_makes_it_again_from_the_same_source(http: httpx.Client) -> None:
    source = {"image": as_base64(RED_CIRCLE)}
    request = {"prompt": GREEN, "strength": 0.5, "quality": "low", **source}
    body = http.post("/v1/images/edits", json=request).json()
    edited = base64.b64decode(body["data"][0]["b64_json"])
    recipe = recipe_of(edited)
    assert recipe is not None
    assert (recipe["strength"], recipe["seed"]) == (0.5, body["usage"]["seed"])
    again = http.post(recipe["route"], json={**recipe, **source}).json()
    assert base64.b64decode(again["data"][0]["b64_json"]) == edited


def test_strength_0_returns_the_source_byte_for_byte(client: openai.OpenAI) -> None:
    source = png(RED_CIRCLE)
    answer = client.images.edit(image=file(source), prompt=GREEN, extra_body={"strength": 0})
    assert data_of(answer) == source


def test_status_shows_the_progress_of_an_image_and_disconnecting_ends_it(http: httpx.Client) -> None:
    def progress() -> Any:
        return http.get("/v1/system/status").json()["models"]["image-gen"]["drawing"]

    request = {"prompt": RED_CIRCLE_CAPTION, "n": 10, "steps": 100, "size": "256x256", "stream": True}
    with http.stream("POST", "/v1/images/generations", json=request) as answer:
        assert answer.status_code == 200
        # The worker is polled once a second; until then the status shows the previous image.
        now = wait_for(lambda: (now := progress())["steps"] == 100 and now["step"] and now)
    assert (now["kind"], now["steps"], now["pictures"]) == ("generation", 100, 10)
    assert 0 < now["step"] <= 100
    assert now["eta_seconds"] > 1
    wait_for(lambda: progress()["kind"] == "", timeout_s=10)
    assert http.post("/v1/images/generations", json={"prompt": RED_CIRCLE_CAPTION}).status_code == 200
