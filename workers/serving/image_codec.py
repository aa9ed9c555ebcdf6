"""Pictures between bytes and pixels, with Pillow.

Rules: runs in worker threads, never on the event loop nor on the model thread; what comes in is
hostile: pixels are counted before they are decoded, and whatever Pillow raises becomes an
``InvalidRequest`` that names the field; what goes on is always an upright, opaque RGB picture. No
more than ``MAX_PIXELS`` are whole in memory at a time, whoever sent them: what is wanted of a picture
is made of it before the next one gets their room.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping
from typing import TypeVar

from PIL import Image, ImageOps

from contracts.errors import InvalidRequest
from contracts.image_header import MAX_PIXELS, refuse_bombs, too_many_pixels
from contracts.media import Size, read_image_field
from contracts.wire.chat import Detail
from workers.serving.byte_budget import Room
from workers.serving.opaque import opaque

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # those of contracts.media.sniff
FOLD = 28  # pixels: Qwen2.5-VL makes one token of 28 x 28 of them
# Pixels of a picture by its ``detail``: 256, 1280 and 4096 tokens.
DETAIL_PIXELS: Mapping[Detail, int] = {
    "low": 256 * FOLD**2,
    "auto": 1280 * FOLD**2,
    "high": 4096 * FOLD**2,
}

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow counts too, of frames and tiles that no head tells of
# Beyond 32 MiB glibc maps each block by itself, and gives it back. Smaller ones stay with the thread
# that had them, so that each thread of a pool would keep what its largest picture took.
Image.core.set_block_size(64 << 20)
_PIXELS = Room(MAX_PIXELS)

Picture = Image.Image
T = TypeVar("T")


def read_image(text: str, param: str) -> Image.Image:
    """The picture behind a data URI or base64 text; raises ``InvalidRequest`` naming *param*."""
    return read_as(text, param, lambda picture: picture)


def read_as(text: str, param: str, wanted: Callable[[Image.Image], T]) -> T:
    """What *wanted* makes of the picture behind *text*; raises as ``read_image``."""
    return decode_as(read_image_field(text, param), param, lambda image: wanted(opaque(image)))


def decode(data: bytes, param: str) -> Image.Image:
    """*data* as RGB: first frame, turned as EXIF says, transparency on white.

    Raises ``InvalidRequest`` naming *param* for what is damaged, truncated or has too many pixels.
    """
    picture: Image.Image = decode_as(data, param, opaque)
    return picture


def decode_as(data: bytes, param: str, wanted: Callable[[Image.Image], T]) -> T:
    """What *wanted* makes of *data*, of its first frame turned as EXIF says; raises as ``decode``."""
    refuse_bombs(data, param)
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which is not used.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                pixels = image.width * image.height
                if pixels > MAX_PIXELS:
                    raise Image.DecompressionBombError  # as Pillow does, only much later
                with _PIXELS.taken(pixels):
                    image.load()
                    _turn_upright(image)
                    return wanted(image)
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
