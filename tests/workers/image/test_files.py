"""Image files: formats, and the recipe inside."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from contracts.media import Size
from workers.image import files

FORMATS = ["png", "jpeg", "webp"]
RECIPE: dict[str, Any] = {"prompt": "고양이 a cat", "seed": 2**64 - 1, "strength": 0.7}


def gradient() -> Image.Image:
    return Image.linear_gradient("L").resize((32, 32)).convert("RGB")


@pytest.mark.parametrize("form", FORMATS)
def test_a_recipe_can_be_read_back_and_changes_no_pixel(form: str) -> None:
    with_recipe, without = (files.encode(gradient(), form, 80, recipe) for recipe in (RECIPE, None))
    assert files.recipe_of(with_recipe) == RECIPE
    assert files.recipe_of(without) is None
    with Image.open(io.BytesIO(with_recipe)) as one, Image.open(io.BytesIO(without)) as other:
        assert (one.format or "").lower() == form
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_image_and_recipe_give_the_same_bytes(form: str) -> None:
    one, other = (files.encode(gradient(), form, 50, recipe) for recipe in (RECIPE, dict(RECIPE)))
    assert one == other


def test_a_png_has_the_recipe_as_plain_text_for_other_programs() -> None:
    data = files.encode(gradient(), "png", None, RECIPE)
    assert "고양이 a cat".encode() in data
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["Software"] == "Vision Insight API"


@pytest.mark.parametrize("form", FORMATS)
def test_a_recipe_of_any_length_gives_a_valid_file(form: str) -> None:
    data = files.encode(gradient(), form, None, {"prompt": "길" * 32_000})
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    assert (files.recipe_of(data) is None) == (form != "png")


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_a_lower_output_compression_makes_a_smaller_file(form: str) -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    sizes = [len(files.encode(noise, form, level)) for level in (0, 50, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_png_keeps_every_pixel() -> None:
    rgb = bytes(range(48))
    with Image.open(
        io.BytesIO(base64.b64decode(files.encode_rgb(Size(4, 4), rgb, "png", None)))
    ) as image:
        assert image.tobytes() == rgb


def test_a_preview_has_the_size_of_the_final_image() -> None:
    rgb = bytes([10, 20, 30]) * 16
    text = files.encode_preview(Size(4, 4), rgb, Size(64, 48), "webp", 100)
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert (image.format, image.size) == ("WEBP", (64, 48))
