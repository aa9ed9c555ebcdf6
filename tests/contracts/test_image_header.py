"""Image headers are read as Pillow reads them, and images that cost too much to decode are refused."""

from __future__ import annotations

import random
import struct
import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contracts.errors import InvalidRequest
from contracts.image_header import _SIZES, MAX_PIXELS, MAX_SCANS, refuse_bombs
from contracts.media import Size, sniff
from tests.workers.serving.test_image_codec import png_claiming, saved

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "jpeg with metadata": ("JPEG", {"icc_profile": b"\xff\xc0" * 400, "comment": b"\xff\xd8\xff\xc2"}),
    "gif": ("GIF", {}),
    "lossy webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "extended webp": ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "packed tiff": ("TIFF", {"compression": "tiff_lzw"}),
}


def claimed(data: bytes) -> Size | None:
    form = sniff(data)
    assert form is not None
    return _SIZES[form](data)


@pytest.mark.parametrize("name", FORMS)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_the_size_of_a_file_written_by_pillow_is_read(name: str, width: int, height: int) -> None:
    form, options = FORMS[name]
    data = saved(Image.new("RGB", (width, height)), form, **options)
    assert claimed(data) == Size(width, height)
    refuse_bombs(data, "image")


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(20)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + bytes(12) + struct.pack("<Iii", 40, width, height) + bytes(20)


def jpeg(width: int, height: int) -> bytes:
    return b"\xff\xd8\xff\xe0\0\4ab\xff\xc2\0\x0b\x08" + struct.pack(">HH", height, width) + bytes(20)


def webp(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + sides


def tiff(width: int, height: int, tile: int = 0, order: str = "<") -> bytes:
    tags = [(256, 4, width), (257, 4, height)] + ([(322, 4, tile), (323, 4, tile)] if tile else [])
    entries = b"".join(struct.pack(order + "HHII", tag, kind, 1, v) for tag, kind, v in tags)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4)


MAKERS = [png_claiming, gif, bmp, jpeg, webp, tiff]


def test_an_image_with_too_many_pixels_is_refused_with_the_limit() -> None:
    for make in MAKERS:
        with pytest.raises(
            InvalidRequest, match=r"of 8001x8001 has more than 64 million pixels"
        ) as caught:
            refuse_bombs(make(8_001, 8_001), "messages[0].content[1].image_url.url")
        assert caught.value.param == "messages[0].content[1].image_url.url"
        with pytest.raises(InvalidRequest, match="64 million"):
            refuse_bombs(make(65_500, 978), "image")  # of any shape


SIZED = [png_claiming, gif, bmp, jpeg, tiff]


def test_an_image_without_pixels_is_refused() -> None:
    for make in SIZED:
        for size in ((0, 10), (10, 0)):
            with pytest.raises(InvalidRequest, match="claims a size of"):
                refuse_bombs(make(*size), "image")


def test_an_image_at_the_limit_is_accepted() -> None:
    assert MAX_PIXELS == 8_000 * 8_000
    for make in (gif, bmp, jpeg, webp, tiff):
        refuse_bombs(make(8_000, 8_000), "image")
    refuse_bombs(saved(Image.new("1", (8_000, 8_000))), "image")  # one colour: the smallest file


def test_a_bmp_with_a_negative_height_has_that_height() -> None:
    with pytest.raises(InvalidRequest, match="9000x9000"):
        refuse_bombs(bmp(9_000, -9_000), "image")


ORDERS = ["<", ">"]


def test_a_tile_above_the_size_limit_is_refused() -> None:
    for order in ORDERS:
        refuse_bombs(tiff(16, 16, 256, order), "image")
        with pytest.raises(InvalidRequest, match="tiles"):
            refuse_bombs(tiff(16, 16, 30_000, order), "image")


SCAN = b"\xff\xda\0\x08\1\1\0\0\x3f\0" + b"\x12\xff\0\xff\xd0\x34"


def with_scans(number: int) -> bytes:
    return jpeg(8, 8)[:-20] + bytes(4) + SCAN * number + b"\xff\xd9" + SCAN * MAX_SCANS


def test_a_jpeg_with_more_scans_than_the_limit_is_refused() -> None:
    refuse_bombs(with_scans(MAX_SCANS), "image")
    with pytest.raises(InvalidRequest, match="more than 100 scans"):
        refuse_bombs(with_scans(MAX_SCANS + 1), "image")


def test_a_large_file_is_checked_in_less_than_a_second() -> None:
    scan = random.Random(1).randbytes(12_000_000).replace(b"\xff", b"\xff\0")
    noise = with_scans(1)[: -len(SCAN) * MAX_SCANS - 2] + scan + b"\xff\xd9"
    begun = time.process_time()
    refuse_bombs(noise, "image")
    assert time.process_time() - begun < 1


@given(
    st.sampled_from(
        [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF1234WEBP", b"BM", b"II*\0"]
    ),
    st.binary(max_size=200),
)
def test_any_header_is_accepted_or_refused(magic: bytes, rest: bytes) -> None:
    try:
        refuse_bombs(magic + rest, "image")
    except InvalidRequest as exc:
        assert exc.param == "image"  # noqa: PT017 - both ends are asserted


def test_a_png_with_too_little_data_for_its_pixels_is_refused() -> None:
    for mode, side in (("1", 4_000), ("L", 3_000), ("RGB", 2_000), ("RGBA", 2_000), ("P", 3_000)):
        data = saved(Image.new(mode, (side, side)), compress_level=9)
        refuse_bombs(data, "image")
        header = data[: data.index(b"IDAT") + 4]
        stored = zlib.compress(bytes(100))
        with pytest.raises(InvalidRequest, match="can't hold"):
            refuse_bombs(header + stored, "image")
