"""Pictures between bytes and pixels, with Pillow.

Rules: runs in worker threads, never on the event loop nor on the model thread; what comes in is
hostile: pixels are counted before they are decoded, and whatever Pillow raises becomes an
``InvalidRequest`` that names the field; what goes on is always an upright, opaque RGB picture.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping

from PIL import Image, ImageOps

from contracts.chat import Detail
from contracts.errors import InvalidRequest
from contracts.media import Size, read_image_field

MAX_PIXELS = 64_000_000  # of a picture that comes in; 192 MB as RGB
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # those of contracts.media.sniff
_RGB_MODES = ("RGB", "L", "1", "CMYK", "YCbCr", "LAB", "HSV")
FOLD = 28  # pixels: Qwen2.5-VL makes one token of 28 x 28 of them
# Pixels of a picture by its ``detail``: 256, 1280 and 4096 tokens.
DETAIL_PIXELS: Mapping[Detail, int] = {
    "low": 256 * FOLD**2,
    "auto": 1280 * FOLD**2,
    "high": 4096 * FOLD**2,
}

Picture = Image.Image


def read_image(text: str, param: str) -> Image.Image:
    """The picture behind a data URI or base64 text; raises ``InvalidRequest`` naming *param*."""
    return decode(read_image_field(text, param), param)


def decode(data: bytes, param: str) -> Image.Image:
    """*data* as RGB: first frame, turned as EXIF says, transparency on white.

    Raises ``InvalidRequest`` naming *param* for what is damaged, truncated or has too many pixels.
    """
    return decode_as(data, param, opaque)


def decode_as(data: bytes, param: str, wanted: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """*data*, of the first frame turned as EXIF says, as *wanted* makes it; raises as ``decode``."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures (bounded below) and of odd metadata (not used).
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError  # as Pillow does, only much later
                image.load()
                return wanted(_upright(image))
    except Image.DecompressionBombError as exc:
        raise InvalidRequest(
            f"the image has more than {MAX_PIXELS // 1_000_000} million pixels", param=param
        ) from exc
    except (MemoryError, RecursionError):
        raise
    except Exception as exc:  # Pillow's decoders raise all kinds, struct.error and IndexError too
        raise InvalidRequest("the image is damaged and can't be read", param=param) from exc


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata is no reason to refuse good pixels
        return image


def opaque(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _from_deep(image)
    if image.mode in _RGB_MODES and not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "RGBa":
        image = image.convert("RGBA")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """16-bit grey (and 32-bit, and float): ``convert`` would clip at 255 instead of scaling."""
    grey = image.convert("F")
    _, highest = grey.getextrema()
    if image.mode == "F" and highest <= 1.0:
        scale = 255.0
    elif highest > 255 or image.mode.startswith("I;16"):
        scale = 255 / 65535 if highest <= 65535 else 255 / highest
    else:
        scale = 1.0
    return grey.point(lambda value: value * scale + 0).convert("L").convert("RGB")


# --- how large a picture the model gets ------------------------------------------------------------


def pixel_bound(detail: Detail | None, *bounds: int | None) -> int:
    """The most pixels of a picture of this *detail* under all *bounds* that are set."""
    return min([DETAIL_PIXELS[detail or "auto"], *(bound for bound in bounds if bound is not None)])


def folded(size: Size, max_pixels: int) -> Size:
    """*size*, or where it has more than *max_pixels* the largest with its aspect that has not, in
    multiples of 28 (at least one of them)."""
    if size.pixels <= max_pixels:
        return size
    scale = math.sqrt(max_pixels / size.pixels)
    width, height = (max(1, int(side * scale / FOLD)) for side in (size.width, size.height))
    most = max(1, max_pixels // FOLD**2)  # a side that is one token already can't shrink with the other
    return Size(min(width, most) * FOLD, min(height, most) * FOLD)


def within(image: Image.Image, max_pixels: int) -> Image.Image:
    """*image*, scaled down when it has more than *max_pixels*."""
    size = folded(Size(*image.size), max_pixels)
    if (size.width, size.height) == image.size:
        return image
    return image.resize((size.width, size.height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def cover(image: Image.Image, size: Size) -> Image.Image:
    """*image* scaled to fill *size*, what stands over cut off evenly: never stretched."""
    if image.size == (size.width, size.height):
        return image
    return ImageOps.fit(image, (size.width, size.height), Image.Resampling.LANCZOS)
