from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image, ImageDraw

from contracts.errors import InvalidRequest
from contracts.media import Size
from workers.image import masks
from workers.serving import image_codec

LEFT = (0, 0, 31, 63)  # of a picture of 64 x 64, what is to be redrawn


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def painted(mode: str, ground: Any, mark: Any, size: tuple[int, int] = (64, 64)) -> Image.Image:
    image = Image.new(mode, size, ground)
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2 - 1, size[1]), fill=mark)
    return image


@pytest.mark.parametrize(
    ("image", "form"),
    [
        (painted("RGBA", (9, 9, 9, 255), (200, 200, 200, 0)), "PNG"),  # OpenAI's
        (painted("RGBA", (255, 255, 255, 255), (255, 255, 255, 0)), "WEBP"),
        (painted("LA", (255, 255), (0, 0)), "PNG"),
        (painted("L", 0, 255), "PNG"),
        (painted("1", 0, 1), "PNG"),
        (painted("RGB", "black", "white"), "PNG"),
        (painted("RGB", "black", "white"), "JPEG"),
        (painted("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)), "PNG"),  # an alpha that hides nothing
    ],
    ids=["rgba", "rgba-webp", "la", "l", "1", "rgb", "jpeg", "opaque-rgba"],
)
def test_what_is_transparent_or_else_white_is_redrawn(image: Image.Image, form: str) -> None:
    mask = masks.read(saved(image, form), Size(64, 64))
    assert mask.mode == "L"
    assert mask.getpixel((8, 8)) == 255
    assert mask.getpixel((56, 56)) == 0
    assert mask.tobytes().count(b"\xff") == pytest.approx(2048, abs=70)


def test_soft_edges_stay_soft() -> None:
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (0, 0, 0, 100))
    image.putpixel((1, 0), (0, 0, 0, 255))
    assert list(masks.read(saved(image), Size(2, 1)).tobytes()) == [155, 0]


def test_the_noise_of_a_jpeg_marks_nothing() -> None:
    noisy = Image.frombytes("L", (8, 8), bytes(range(12)) * 5 + bytes([255] * 4))
    assert masks.read(saved(noisy), Size(8, 8)).tobytes() == bytes(60) + b"\xff" * 4


def test_a_mask_of_the_same_shape_is_scaled() -> None:
    mask = masks.read(saved(painted("L", 0, 255, (32, 16))), Size(128, 64))
    assert mask.size == (128, 64)
    assert (mask.getpixel((40, 30)), mask.getpixel((90, 30))) == (255, 0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved(painted("L", 0, 255, (64, 32))), "another shape (64x32) than the image (64x64)"),
        (saved(Image.new("L", (64, 64))), "marks nothing"),
        (saved(Image.new("RGBA", (64, 64), "black")), "marks nothing"),
        (saved(painted("L", 0, 255))[:60], "damaged"),
    ],
)
def test_a_mask_that_is_of_no_use_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        masks.read(data, Size(64, 64))
    assert caught.value.param == "mask"
    assert words in caught.value.message


def test_a_mask_is_cut_as_its_picture_is() -> None:
    picture = painted("RGB", "black", "white", (64, 32))
    mask = masks.read(saved(picture), Size(64, 32))
    size = Size(32, 32)
    cut, cut_mask = image_codec.cover(picture, size), masks.cover(mask, size)
    assert cut_mask.size == (32, 32)
    assert cut_mask.tobytes() == cut.convert("L").tobytes()
