"""Masks of both kinds, in every mode."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image, ImageDraw

from contracts.errors import InvalidRequest
from contracts.media import Size
from workers.image import masks
from workers.serving import image_codec


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def painted(mode: str, ground: Any, mark: Any, size: tuple[int, int] = (64, 64)) -> Image.Image:
    image = Image.new(mode, size, ground)
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2 - 1, size[1]), fill=mark)
    return image


def test_transparent_or_else_white_areas_are_redrawn() -> None:
    for image, form in (
        (painted("RGBA", (9, 9, 9, 255), (200, 200, 200, 0)), "PNG"),  # OpenAI's
        (painted("RGBA", (255, 255, 255, 255), (255, 255, 255, 0)), "WEBP"),
        (painted("LA", (255, 255), (0, 0)), "PNG"),
        (painted("L", 0, 255), "PNG"),
        (painted("1", 0, 1), "PNG"),
        (painted("RGB", "black", "white"), "PNG"),
        (painted("RGB", "black", "white"), "JPEG"),
        (painted("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)), "PNG"),  # alpha, but all opaque
    ):
        mask = masks.read(saved(image, form), Size(64, 64))
        assert mask.mode == "L"
        assert mask.getpixel((8, 8)) == 255, (image, form)
        assert mask.getpixel((56, 56)) == 0, (image, form)
        assert mask.tobytes().count(b"\xff") == pytest.approx(2048, abs=70)


def test_soft_edges_stay_soft() -> None:
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (0, 0, 0, 100))
    image.putpixel((1, 0), (0, 0, 0, 255))
    assert list(masks.read(saved(image), Size(2, 1)).tobytes()) == [155, 0]


def test_jpeg_noise_marks_nothing() -> None:
    noisy = Image.frombytes("L", (8, 8), bytes(range(12)) * 5 + bytes([255] * 4))
    assert masks.read(saved(noisy), Size(8, 8)).tobytes() == bytes(60) + b"\xff" * 4


def test_a_mask_of_the_same_shape_is_scaled() -> None:
    mask = masks.read(saved(painted("L", 0, 255, (32, 16))), Size(128, 64))
    assert mask.size == (128, 64)
    assert (mask.getpixel((40, 30)), mask.getpixel((90, 30))) == (255, 0)


def test_an_unusable_mask_is_refused_naming_its_field() -> None:
    for data, words in (
        (
            saved(painted("L", 0, 255, (64, 32))),
            "the mask (64x32) has another shape than the image (64x64)",
        ),
        (saved(Image.new("L", (64, 64))), "marks nothing"),
        (saved(Image.new("RGBA", (64, 64), "black")), "marks nothing"),
        (saved(painted("L", 0, 255))[:60], "damaged"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            masks.read(data, Size(64, 64))
        assert caught.value.param == "mask"
        assert words in caught.value.message


def test_a_mask_is_cropped_like_its_image() -> None:
    image = painted("RGB", "black", "white", (64, 32))
    mask = masks.read(saved(image), Size(64, 32))
    cropped, cropped_mask = (
        cover(one, Size(32, 32)) for cover, one in ((image_codec.cover, image), (masks.cover, mask))
    )
    assert cropped_mask.size == (32, 32)
    assert cropped_mask.tobytes() == cropped.convert("L").tobytes()
