"""Image files of every kind are decoded or refused, in bounded memory."""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contracts.errors import InvalidRequest
from contracts.media import Size
from workers.serving import image_codec
from workers.serving.image_codec import PixelBudget

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
    def test_every_format_is_decoded(self) -> None:
        for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
            image = decoded(saved(Image.new("RGB", (8, 6), RED), form))
            assert image.size == (8, 6), form
            assert near(image.getpixel((4, 3)), RED), form

    def test_the_first_frame_is_decoded(self) -> None:
        frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN)]
        for form in ("PNG", "WEBP", "TIFF", "MPO", "GIF"):
            data = saved(frames[0], form, save_all=True, append_images=frames[1:])
            assert near(decoded(data).getpixel((5, 5)), RED, 4), form

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_exif_orientation_ends_upright(self, orientation: int) -> None:
        upright = Image.new("RGB", (48, 32), GREEN)
        upright.paste(RED, (0, 0, 24, 16))
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
        for form in ("JPEG", "PNG"):
            result = decoded(saved(stored, form, quality=95, exif=exif))
            assert result.size == (48, 32)
            assert near(result.getpixel((8, 6)), RED, 12)
            assert near(result.getpixel((40, 26)), GREEN, 12)

    def test_damaged_exif_is_ignored(self) -> None:
        data = saved(Image.new("RGB", (8, 4), RED), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
        assert decoded(data).size == (8, 4)


class TestColours:
    """Every mode becomes RGB, transparency on white."""

    def test_every_mode_is_converted(self) -> None:
        white = Image.new("L", (4, 4), 255).convert("RGB")
        for mode in ("1", "L", "P", "CMYK", "YCbCr", "LAB"):
            lab = mode == "LAB"
            image = Image.new("LAB", (4, 4), (255, 128, 128)) if lab else white.convert(mode)
            form = "PNG" if mode in ("1", "L", "P") else "TIFF"
            assert near(decoded(saved(image, form)).getpixel((1, 1)), (255, 255, 255), 10), mode

    def test_cmyk_is_converted(self) -> None:
        jpeg = Image.new("RGB", (16, 16), RED).convert("CMYK")
        assert near(decoded(saved(jpeg, "JPEG", quality=95)).getpixel((8, 8)), RED, 12)
        tiff = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
        assert near(decoded(saved(tiff, "TIFF")).getpixel((1, 1)), RED, 3)

    def test_transparent_becomes_white_and_half_transparent_half_white(self) -> None:
        for mode in ("RGBA", "LA"):
            image = Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode)
            assert decoded(saved(image)).getpixel((1, 1)) == (255, 255, 255), mode
        image = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
        assert near(decoded(saved(image)).getpixel((0, 0)), (127, 127, 127))

    def test_a_transparent_colour_of_a_palette_becomes_white(self) -> None:
        image = Image.new("P", (4, 4), 0)
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.putpixel((3, 3), 1)
        result = decoded(saved(image, "PNG", transparency=0))
        assert (result.getpixel((0, 0)), result.getpixel((3, 3))) == ((255, 255, 255), GREEN)

    def test_a_palette_with_alpha_is_mixed_with_white(self) -> None:
        image = Image.new("P", (2, 1), 0)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.putpixel((1, 0), 1)
        result = decoded(saved(image, "PNG", transparency=bytes([128, 255])))
        assert near(result.getpixel((0, 0)), (127, 127, 127))
        assert result.getpixel((1, 0)) == RED

    def test_16_bit_grey_is_scaled_not_clipped(self) -> None:
        image = Image.new("I;16", (4, 4), 0)
        image.putpixel((1, 1), 32768)
        image.putpixel((2, 2), 65535)
        for form in ("PNG", "TIFF"):
            result = decoded(saved(image, form))
            assert near([result.getpixel((i, i))[0] for i in range(3)], [0, 127, 255], 1), form
        dark = decoded(saved(Image.new("I;16", (4, 4), 200)))
        assert near(dark.getpixel((0, 0)), (0, 0, 0), 1)
        big_endian = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 32768, 65535))
        result = decoded(saved(big_endian, "TIFF"))
        assert near([result.getpixel((x, 0))[0] for x in (0, 1)], [127, 255], 1)

    def test_16_bit_grey_with_alpha_is_mixed_with_white(self) -> None:
        result = decoded(png_of(2, 1, 16, 4, b"\x00" + struct.pack(">4H", 0, 65535, 0, 32768)))
        assert near(result.getpixel((0, 0)), (0, 0, 0), 1)
        assert near(result.getpixel((1, 0)), (127, 127, 127), 1)

    def test_16_bit_colours_are_converted(self) -> None:
        # Pillow writes none: 2 x 1 pixels, full red and half green.
        pixels = [(65535, 0, 0, 65535), (0, 32768, 0, 65535)]
        for alpha in (False, True):
            lines = [struct.pack(">4H", *p) if alpha else struct.pack(">3H", *p[:3]) for p in pixels]
            result = decoded(png_of(2, 1, 16, 6 if alpha else 2, b"\x00" + b"".join(lines)))
            assert near(result.getpixel((0, 0)), RED, 1)
            assert near(result.getpixel((1, 0)), (0, 128, 0), 1)


class TestHostile:
    def test_a_truncated_image_is_refused_naming_its_field(self) -> None:
        noise = Image.effect_noise((64, 64), 90).convert("RGB")
        for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
            data = saved(noise, form)
            with pytest.raises(InvalidRequest) as caught:
                image_codec.decode(data[: len(data) // 2], "messages[0].content[1].image_url.url")
            assert caught.value.param == "messages[0].content[1].image_url.url"
            assert caught.value.status == 400

    def test_pixels_are_counted_before_they_are_decoded(self) -> None:
        for side in (8_001, 20_000, 60_000):
            with pytest.raises(InvalidRequest, match="more than 64 million pixels"):
                image_codec.decode(png_claiming(side, side), "image")

    def test_a_file_too_small_for_its_declared_size_is_refused_before_decoding(self) -> None:
        with pytest.raises(InvalidRequest, match="can't hold 8000x8000 pixels"):
            image_codec.decode(png_claiming(8_000, 8_000), "image")

    @settings(max_examples=100, deadline=None)
    @given(
        st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]),
        st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    )
    def test_damaged_data_is_decoded_or_refused_and_never_raises_anything_else(
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

    def test_other_formats_that_pillow_knows_are_refused(self) -> None:
        with pytest.raises(InvalidRequest):
            image_codec.decode(saved(Image.new("RGB", (4, 4)), "PPM"), "image")


class TestSizes:
    def test_the_smallest_bound_applies(self) -> None:
        low, auto, high = (image_codec.pixel_bound(detail) for detail in ("low", "auto", "high"))
        assert low < auto < high
        assert image_codec.pixel_bound(None) == auto
        assert image_codec.pixel_bound("high", None, 5_000, 9_000) == 5_000
        assert image_codec.pixel_bound("low", 10 * high) == low

    def test_an_image_within_its_bound_is_unchanged(self) -> None:
        image = Image.new("RGB", (100, 37))
        assert image_codec.within(image, 3_700) is image

    @given(st.integers(1, 8_000), st.integers(1, 8_000), st.integers(784, 4_000_000))
    def test_a_larger_image_is_scaled_to_whole_tokens_within_the_bound(
        self, width: int, height: int, bound: int
    ) -> None:
        size = image_codec.bounded_size(Size(width, height), bound)
        assert size.pixels <= bound
        if width * height <= bound:
            assert size == Size(width, height)
        else:
            assert size.width % 28 == size.height % 28 == 0
            assert min(size.width, size.height) >= 28
            if min(size.width, size.height) >= 10 * 28:
                assert abs(size.width / size.height / (width / height) - 1) < 0.11

    def test_a_scaled_down_image_shows_the_same(self) -> None:
        image = Image.new("RGB", (600, 300), GREEN)
        image.paste(RED, (0, 0, 300, 300))
        small = image_codec.within(image, 20_000)
        assert small.size == (196, 84)
        assert near(small.getpixel((40, 40)), RED, 4)
        assert near(small.getpixel((150, 40)), GREEN, 4)

    def test_another_aspect_ratio_is_cropped_not_stretched(self) -> None:
        image = Image.new("RGB", (300, 100), GREEN)
        image.paste(RED, (100, 0, 200, 100))  # the square in the middle
        covered = image_codec.cover(image, Size(64, 64))
        assert covered.size == (64, 64)
        assert all(near(covered.getpixel(at), RED, 60) for at in ((2, 2), (32, 32), (61, 61)))
        assert image_codec.cover(image, Size(300, 100)) is image


class TestPixelBudget:
    def test_threads_never_hold_more_than_the_budget(self) -> None:
        budget, lock, held, most = PixelBudget(10), threading.Lock(), 0, 0

        def take(pixels: int) -> None:
            nonlocal held, most
            with budget.take(pixels):
                with lock:
                    held += min(pixels, 10)
                    most = max(most, held)
                time.sleep(0.001)
                with lock:
                    held -= min(pixels, 10)

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(take, [1, 3, 10, 4, 25, 2, 7, 10] * 20, timeout=30))
        assert (most, held) == (10, 0)

    def test_a_large_image_is_not_overtaken_by_small_ones(self) -> None:
        budget, order = PixelBudget(10), []

        def take(name: str, pixels: int) -> None:
            with budget.take(pixels):
                order.append(name)

        with budget.take(5):
            threads = [threading.Thread(target=take, args=one) for one in (("large", 10), ("small", 1))]
            for thread in threads:
                thread.start()
                time.sleep(0.1)
            assert order == []
        for thread in threads:
            thread.join(5)
        assert order == ["large", "small"]

    def test_an_error_releases_its_pixels(self) -> None:
        budget = PixelBudget(1)
        with pytest.raises(ValueError, match="inside"), budget.take(1):
            raise ValueError("inside")
        with budget.take(1):
            pass
