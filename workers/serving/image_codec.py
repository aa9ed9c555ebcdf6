"""From image files to pixels, with Pillow.

Rules: runs in worker threads, never on the event loop or the model thread. Input is hostile: pixels are
counted before they are decoded, and every error of Pillow's becomes an ``InvalidRequest`` that names
the field. Decoded images are upright, opaque RGB. All threads together hold at most ``MAX_PIXELS`` at
full size: each makes from an image what it needs before it lets the next one decode.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from PIL import Image, ImageOps

from contracts.errors import InvalidRequest
from contracts.image_header import MAX_PIXELS, refuse_bombs, too_many_pixels
from contracts.media import Size, read_image_field
from contracts.wire.chat import Detail

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # those of contracts.media.sniff
TOKEN_SIDE = 28  # pixels; Qwen2.5-VL makes one token from a square of this side
# Pixels of an image by its ``detail``: 256, 1280 and 4096 tokens.
DETAIL_PIXELS: Mapping[Detail, int] = {
    "low": 256 * TOKEN_SIDE**2,
    "auto": 1280 * TOKEN_SIDE**2,
    "high": 4096 * TOKEN_SIDE**2,
}

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow also counts frames and tiles that no header declares
# glibc maps blocks of more than 32 MiB separately, and returns them. Smaller blocks stay with the
# thread that freed them, so each thread of a pool would keep as much as its largest image took.
Image.core.set_block_size(64 << 20)

T = TypeVar("T")


class PixelBudget:
    """Bounds the pixels that threads hold together. First come, first served: small images never
    overtake a large one."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._left = pixels
        self._turn = threading.Lock()  # held by the thread that is next
        self._changed = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Hold *pixels*, at most the whole budget, while the block runs; waits for them."""
        pixels = min(pixels, self._pixels)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify()


_budget = PixelBudget(MAX_PIXELS)


# --- decoding --------------------------------------------------------------------------------------


def decode(data: bytes, param: str) -> Image.Image:
    """*data* as RGB: the first frame, rotated as EXIF says, transparency on white.

    Raises ``InvalidRequest`` naming *param* for damaged or truncated data and for too many pixels.
    """
    image: Image.Image = decode_as(data, param, opaque)
    return image


def read_as(text: str, param: str, convert: Callable[[Image.Image], T]) -> T:
    """*convert* of the RGB image in *text*, a data URI or base64; raises as ``decode``."""
    return decode_as(read_image_field(text, param), param, lambda image: convert(opaque(image)))


def decode_as(data: bytes, param: str, convert: Callable[[Image.Image], T]) -> T:
    """*convert* of the first frame in its own mode, rotated as EXIF says; raises as ``decode``."""
    refuse_bombs(data, param)
    try:
        with warnings.catch_warnings():
            # Pillow warns about odd metadata, which is not used.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                pixels = image.width * image.height
                if pixels > MAX_PIXELS:
                    raise Image.DecompressionBombError  # as Pillow does, but earlier
                with _budget.take(pixels):
                    image.load()
                    _turn_upright(image)
                    return convert(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise too_many_pixels(param) from exc
    except (MemoryError, RecursionError, InvalidRequest):
        raise
    except Exception as exc:  # Pillow's decoders raise all kinds, struct.error and IndexError too
        raise InvalidRequest("the image is damaged and can't be read", param=param) from exc


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged metadata is no reason to refuse good pixels
        return


# --- any mode to opaque RGB ------------------------------------------------------------------------

_BAND = 1 << 20  # pixels; a large image is converted in bands, so that no step copies all of it
_RGB_MODES = ("RGB", "L", "1", "CMYK", "YCbCr", "LAB", "HSV")


def opaque(image: Image.Image) -> Image.Image:
    """*image* as RGB, transparency on white; the same object if it is opaque RGB already."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith(("I", "F")):
        return _by_bands(image, _scale_deep_grey(image))
    return _by_bands(image, _on_white)


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if image.width * image.height <= _BAND:
        return convert(image)
    result = Image.new("RGB", image.size)
    top = 0
    for band in _bands(image):
        result.paste(convert(band), (0, top))
        top += band.height
    return result


def _bands(image: Image.Image) -> Iterator[Image.Image]:
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in _RGB_MODES and not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "RGBa":
        image = image.convert("RGBA")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _scale_deep_grey(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """For grey of 16 bits, 32 bits or floats: Pillow's ``convert`` would clip at 255."""
    highest = max(band.convert("F").getextrema()[1] for band in _bands(image))
    if image.mode == "F" and highest <= 1.0:
        scale = 255.0
    elif highest > 255 or image.mode.startswith("I;16"):
        scale = 255 / 65535 if highest <= 65535 else 255 / highest
    else:
        scale = 1.0

    def scaled(band: Image.Image) -> Image.Image:
        grey = band.convert("F").point(lambda value: value * scale + 0)
        return grey.convert("L").convert("RGB")

    return scaled


# --- sizes -----------------------------------------------------------------------------------------


def pixel_bound(detail: Detail | None, *bounds: int | None) -> int:
    """The most pixels of an image of this *detail*, under all *bounds* that are set."""
    return min([DETAIL_PIXELS[detail or "auto"], *(bound for bound in bounds if bound is not None)])


def bounded_size(size: Size, max_pixels: int) -> Size:
    """*size*, or if it has more than *max_pixels*, the largest of its aspect ratio in whole tokens."""
    if size.pixels <= max_pixels:
        return size
    scale = math.sqrt(max_pixels / size.pixels)
    width, height = (max(1, int(side * scale / TOKEN_SIDE)) for side in (size.width, size.height))
    most = max(1, max_pixels // TOKEN_SIDE**2)  # a side of one token can't shrink with the other
    return Size(min(width, most) * TOKEN_SIDE, min(height, most) * TOKEN_SIDE)


def within(image: Image.Image, max_pixels: int) -> Image.Image:
    """*image*, scaled down if it has more than *max_pixels*."""
    size = bounded_size(Size(*image.size), max_pixels)
    if (size.width, size.height) == image.size:
        return image
    return image.resize((size.width, size.height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def cover(image: Image.Image, size: Size) -> Image.Image:
    """*image* scaled to fill *size*, cropped evenly and never stretched."""
    if image.size == (size.width, size.height):
        return image
    return ImageOps.fit(image, (size.width, size.height), Image.Resampling.LANCZOS)
