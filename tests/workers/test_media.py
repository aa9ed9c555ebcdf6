from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contracts.errors import InvalidRequest
from contracts.media import Size
from workers import media

RED, GREEN = (255, 0, 0), (0, 255, 0)


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    image = media.decode(data, "image")
    assert image.mode == "RGB"
    return image


def near(a: Any, b: Any, within: int = 3) -> bool:
    return all(abs(x - y) <= within for x, y in zip(a, b, strict=True))


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


class TestDecode:
    @pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_every_format_is_read(self, form: str) -> None:
        image = decoded(saved(Image.new("RGB", (8, 6), RED), form))
        assert image.size == (8, 6)
        assert near(image.getpixel((4, 3)), RED)

    def test_a_photo_is_turned_as_its_exif_says(self) -> None:
        image = Image.new("RGB", (8, 4), GREEN)
        image.paste(RED, (0, 0, 4, 4))
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees clockwise: left becomes top
        turned = decoded(saved(image, "PNG", exif=exif))
        assert turned.size == (4, 8)
        assert (turned.getpixel((2, 1)), turned.getpixel((2, 6))) == (RED, GREEN)

    def test_damaged_exif_does_not_spoil_good_pixels(self) -> None:
        data = saved(Image.new("RGB", (8, 4), RED), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
        assert decoded(data).size == (8, 4)

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_transparency_becomes_white(self, mode: str) -> None:
        image = Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode)
        assert decoded(saved(image)).getpixel((1, 1)) == (255, 255, 255)

    def test_a_palette_with_a_transparent_colour_becomes_white_there(self) -> None:
        image = Image.new("P", (4, 4), 0)
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.putpixel((3, 3), 1)
        result = decoded(saved(image, "PNG", transparency=0))
        assert (result.getpixel((0, 0)), result.getpixel((3, 3))) == ((255, 255, 255), GREEN)

    def test_half_transparent_is_half_white(self) -> None:
        image = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
        assert near(decoded(saved(image)).getpixel((0, 0)), (127, 127, 127))

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
    def test_every_colour_mode_is_read(self, mode: str) -> None:
        image = Image.new("L", (4, 4), 255).convert("RGB")
        if mode == "LAB":
            image = Image.new("LAB", (4, 4), (255, 128, 128))
        elif mode != "RGB":
            image = image.convert(mode)
        form = "PNG" if mode in ("1", "L", "P") else "TIFF"
        assert near(decoded(saved(image, form)).getpixel((1, 1)), (255, 255, 255), 10)

    def test_a_cmyk_jpeg_is_read(self) -> None:
        image = Image.new("RGB", (16, 16), RED).convert("CMYK")
        assert near(decoded(saved(image, "JPEG", quality=95)).getpixel((8, 8)), RED, 12)

    @pytest.mark.parametrize("form", ["PNG", "TIFF"])
    def test_16_bit_grey_is_scaled_and_not_cut_off(self, form: str) -> None:
        image = Image.new("I;16", (4, 4), 0)
        image.putpixel((1, 1), 32768)
        image.putpixel((2, 2), 65535)
        result = decoded(saved(image, form))
        assert near([result.getpixel((i, i))[0] for i in range(3)], [0, 127, 255], 1)

    def test_dark_16_bit_grey_stays_dark(self) -> None:
        assert near(decoded(saved(Image.new("I;16", (4, 4), 200))).getpixel((0, 0)), (0, 0, 0), 1)

    def test_of_an_animation_the_first_frame_is_read(self) -> None:
        frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
        data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert near(decoded(data).getpixel((1, 1)), RED)


class TestHostile:
    @pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
    def test_a_truncated_image_is_refused_by_name(self, form: str) -> None:
        noise = Image.effect_noise((64, 64), 90).convert("RGB")
        data = saved(noise, form)
        with pytest.raises(InvalidRequest) as caught:
            media.decode(data[: len(data) // 2], "messages[0].content[1].image_url.url")
        assert caught.value.param == "messages[0].content[1].image_url.url"
        assert caught.value.status == 400

    def test_pixels_are_counted_before_they_are_decoded(self) -> None:
        for side in (8_001, 20_000, 60_000):
            with pytest.raises(InvalidRequest, match="more than 64 million pixels"):
                media.decode(png_claiming(side, side), "image")

    def test_pillows_own_warning_about_size_is_no_error_below_our_bound(self) -> None:
        with pytest.raises(InvalidRequest, match="damaged"):
            media.decode(png_claiming(8_000, 8_000), "image")

    @settings(max_examples=100, deadline=None)
    @given(
        st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]),
        st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    )
    def test_whatever_is_broken_is_read_or_refused_and_nothing_else(
        self, form: str, changes: list[tuple[int, int]]
    ) -> None:
        data = bytearray(saved(Image.effect_noise((16, 16), 50).convert("RGB"), form))
        for at, value in changes:
            data[at % len(data)] = value
        try:
            assert media.decode(bytes(data), "image").mode == "RGB"
        except InvalidRequest as exc:
            refused = exc.param
        else:
            return
        assert refused == "image"

    def test_a_format_that_is_not_offered_is_refused_even_if_pillow_knows_it(self) -> None:
        with pytest.raises(InvalidRequest):
            media.decode(saved(Image.new("RGB", (4, 4)), "PPM"), "image")


class TestEncode:
    @pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
    def test_the_format_is_what_was_asked_for(self, form: str) -> None:
        data = media.encode(Image.new("RGB", (16, 16), RED), form, None)
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format or "").lower() == form
            assert near(image.convert("RGB").getpixel((8, 8)), RED, 4)

    @pytest.mark.parametrize("form", ["jpeg", "webp"])
    def test_a_lower_output_compression_makes_a_smaller_file(self, form: str) -> None:
        noise = Image.effect_noise((64, 64), 90).convert("RGB")
        sizes = [len(media.encode(noise, form, level)) for level in (0, 50, 100)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]

    def test_raw_pixels_come_back_exactly_as_png(self) -> None:
        rgb = bytes(range(48))
        text = media.encode_rgb(Size(4, 4), rgb, "png", None)
        assert decoded(base64.b64decode(text)).tobytes() == rgb


class TestCover:
    def test_another_aspect_is_cut_and_not_stretched(self) -> None:
        image = Image.new("RGB", (300, 100), GREEN)
        image.paste(RED, (100, 0, 200, 100))  # the square in the middle
        covered = media.cover(image, Size(64, 64))
        assert covered.size == (64, 64)
        assert all(near(covered.getpixel(at), RED, 60) for at in ((2, 2), (32, 32), (61, 61)))

    def test_the_same_size_is_the_same_picture(self) -> None:
        image = Image.effect_noise((32, 16), 90).convert("RGB")
        assert media.cover(image, Size(32, 16)) is image
