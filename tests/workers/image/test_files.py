"""Pictures as files: formats, and the recipe inside."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from contracts.media import Size
from workers.image import files

FORMS = ["png", "jpeg", "webp"]
RECIPE: dict[str, Any] = {"prompt": "고양이 a cat", "seed": 2**64 - 1, "strength": 0.7}


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((32, 32)).convert("RGB")


@pytest.mark.parametrize("form", FORMS)
def test_a_recipe_is_read_back_from_each_format(form: str) -> None:
    data = files.encode(picture(), form, None, RECIPE)
    assert files.recipe_of(data) == RECIPE
    assert files.recipe_of(files.encode(picture(), form, None)) is None


@pytest.mark.parametrize("form", FORMS)
def test_a_recipe_changes_no_pixel(form: str) -> None:
    with (
        Image.open(io.BytesIO(files.encode(picture(), form, 80, RECIPE))) as told,
        Image.open(io.BytesIO(files.encode(picture(), form, 80))) as silent,
    ):
        assert told.tobytes() == silent.tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_the_same_picture_and_recipe_are_the_same_bytes(form: str) -> None:
    assert files.encode(picture(), form, 50, RECIPE) == files.encode(picture(), form, 50, dict(RECIPE))


def test_other_programs_find_the_text_of_a_png_in_plain_words() -> None:
    data = files.encode(picture(), "png", None, RECIPE)
    assert "고양이 a cat".encode() in data
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["Software"] == "Vision Insight API"


@pytest.mark.parametrize("form", FORMS)
def test_a_recipe_of_any_length_makes_a_file_that_opens(form: str) -> None:
    data = files.encode(picture(), form, None, {"prompt": "길" * 32_000})
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    assert (files.recipe_of(data) is None) == (form != "png")


def test_a_preview_has_the_size_of_the_whole() -> None:
    rgb = bytes([10, 20, 30]) * 16
    text = files.encode_preview(Size(4, 4), rgb, Size(64, 48), "webp", 100)
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert (image.format, image.size) == ("WEBP", (64, 48))
