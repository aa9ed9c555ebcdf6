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
from workers.image import files
from workers.serving import image_codec

RED, GREEN = (255, 0, 0), (0, 255, 0)


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    image = image_codec.decode(data, "image")
    assert image.mode == "RGB"
    return image


def near(a: Any, b: Any, within: int = 3) -> bool:
    return all(abs(x - y) <= within for x, y in zip(a, b, strict=True))


def png_of(width: int, height: int, bits: int, colours: int, lines: bytes | None) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    pixels = b"" if lines is None else zlib.compress(lines)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def png_claiming(width: int, height: int) -> bytes:
    return png_of(width, height, 8, 2, None)


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

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_orientation_of_a_photo_ends_upright(self, orientation: int) -> None:
        upright = Image.new("RGB", (48, 32), GREEN)
        upright.paste(RED, (0, 0, 24, 16))  # top left, whatever the camera did
        undo = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }.get(orientation)
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = upright if undo is None else upright.transpose(undo)
        seen = decoded(saved(stored, "JPEG", quality=95, exif=exif))
        assert seen.size == (48, 32)
        assert near(seen.getpixel((8, 6)), RED, 12)
        assert near(seen.getpixel((40, 26)), GREEN, 12)

    def test_deep_grey_of_the_other_byte_order_is_read_alike(self) -> None:
        image = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 32768, 65535))
        result = decoded(saved(image, "TIFF"))
        assert near([result.getpixel((x, 0))[0] for x in (0, 1)], [127, 255], 1)

    def test_deep_grey_with_alpha_is_mixed_with_white(self) -> None:
        result = decoded(png_of(2, 1, 16, 4, b"\x00" + struct.pack(">4H", 0, 65535, 0, 32768)))
        assert near(result.getpixel((0, 0)), (0, 0, 0), 1)
        assert near(result.getpixel((1, 0)), (127, 127, 127), 1)

    @pytest.mark.parametrize("alpha", [False, True])
    def test_16_bit_colours_are_read(self, alpha: bool) -> None:
        # Pillow writes none: 2 x 1 pixels, full red and half green.
        pixels = [(65535, 0, 0, 65535), (0, 32768, 0, 65535)]
        data = b"".join(struct.pack(">4H", *p) if alpha else struct.pack(">3H", *p[:3]) for p in pixels)
        result = decoded(png_of(2, 1, 16, 6 if alpha else 2, b"\x00" + data))
        assert near(result.getpixel((0, 0)), RED, 1)
        assert near(result.getpixel((1, 0)), (0, 128, 0), 1)

    def test_a_cmyk_tiff_is_read(self) -> None:
        image = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
        assert near(decoded(saved(image, "TIFF")).getpixel((1, 1)), RED, 3)

    def test_a_palette_with_shades_of_transparency_is_mixed_with_white(self) -> None:
        image = Image.new("P", (2, 1), 0)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.putpixel((1, 0), 1)
        result = decoded(saved(image, "PNG", transparency=bytes([128, 255])))
        assert near(result.getpixel((0, 0)), (127, 127, 127))
        assert result.getpixel((1, 0)) == RED

    @pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "MPO"])
    def test_of_every_file_of_several_pictures_the_first_is_read(self, form: str) -> None:
        frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN)]
        data = saved(frames[0], form, save_all=True, append_images=frames[1:])
        assert near(decoded(data).getpixel((5, 5)), RED, 4)

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
            image_codec.decode(data[: len(data) // 2], "messages[0].content[1].image_url.url")
        assert caught.value.param == "messages[0].content[1].image_url.url"
        assert caught.value.status == 400

    def test_pixels_are_counted_before_they_are_decoded(self) -> None:
        for side in (8_001, 20_000, 60_000):
            with pytest.raises(InvalidRequest, match="more than 64 million pixels"):
                image_codec.decode(png_claiming(side, side), "image")

    def test_a_file_that_can_t_hold_what_it_claims_is_refused_unread(self) -> None:
        with pytest.raises(InvalidRequest, match="can't hold 8000x8000 pixels"):
            image_codec.decode(png_claiming(8_000, 8_000), "image")

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
            assert image_codec.decode(bytes(data), "image").mode == "RGB"
        except InvalidRequest as exc:
            refused = exc.param
        else:
            return
        assert refused == "image"

    def test_a_format_that_is_not_offered_is_refused_even_if_pillow_knows_it(self) -> None:
        with pytest.raises(InvalidRequest):
            image_codec.decode(saved(Image.new("RGB", (4, 4)), "PPM"), "image")


class TestBounds:
    def test_detail_bounds_the_pixels_and_the_smallest_bound_holds(self) -> None:
        low, auto, high = (image_codec.pixel_bound(detail) for detail in ("low", "auto", "high"))
        assert low < auto < high
        assert image_codec.pixel_bound(None) == auto
        assert image_codec.pixel_bound("high", None, 5_000, 9_000) == 5_000
        assert image_codec.pixel_bound("low", 10 * high) == low

    def test_a_picture_within_its_bound_is_left_alone(self) -> None:
        image = Image.new("RGB", (100, 37))
        assert image_codec.within(image, 3_700) is image

    @given(st.integers(1, 8_000), st.integers(1, 8_000), st.integers(784, 4_000_000))
    def test_a_larger_one_becomes_whole_tokens_within_the_bound(
        self, width: int, height: int, bound: int
    ) -> None:
        size = image_codec.folded(Size(width, height), bound)
        assert size.pixels <= bound
        if width * height <= bound:
            assert size == Size(width, height)
        else:
            assert size.width % 28 == size.height % 28 == 0
            assert min(size.width, size.height) >= 28
            if min(size.width, size.height) >= 10 * 28:
                assert abs(size.width / size.height / (width / height) - 1) < 0.11

    def test_the_picture_that_is_scaled_down_is_the_same_picture(self) -> None:
        image = Image.new("RGB", (600, 300), GREEN)
        image.paste(RED, (0, 0, 300, 300))
        small = image_codec.within(image, 20_000)
        assert small.size == (196, 84)
        assert near(small.getpixel((40, 40)), RED, 4)
        assert near(small.getpixel((150, 40)), GREEN, 4)


class TestEncode:
    @pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
    def test_the_format_is_what_was_asked_for(self, form: str) -> None:
        data = files.encode(Image.new("RGB", (16, 16), RED), form, None)
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format or "").lower() == form
            assert near(image.convert("RGB").getpixel((8, 8)), RED, 4)

    @pytest.mark.parametrize("form", ["jpeg", "webp"])
    def test_a_lower_output_compression_makes_a_smaller_file(self, form: str) -> None:
        noise = Image.effect_noise((64, 64), 90).convert("RGB")
        sizes = [len(files.encode(noise, form, level)) for level in (0, 50, 100)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]

    def test_raw_pixels_come_back_exactly_as_png(self) -> None:
        rgb = bytes(range(48))
        text = files.encode_rgb(Size(4, 4), rgb, "png", None)
        assert decoded(base64.b64decode(text)).tobytes() == rgb


class TestCover:
    def test_another_aspect_is_cut_and_not_stretched(self) -> None:
        image = Image.new("RGB", (300, 100), GREEN)
        image.paste(RED, (100, 0, 200, 100))  # the square in the middle
        covered = image_codec.cover(image, Size(64, 64))
        assert covered.size == (64, 64)
        assert all(near(covered.getpixel(at), RED, 60) for at in ((2, 2), (32, 32), (61, 61)))

    def test_the_same_size_is_the_same_picture(self) -> None:
        image = Image.effect_noise((32, 16), 90).convert("RGB")
        assert image_codec.cover(image, Size(32, 16)) is image
