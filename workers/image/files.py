"""Image files: PNG, JPEG or WebP, with the recipe of the image inside.

Rules: runs in worker threads (``workers.serving.image_codec``). The same pixels and recipe give the
same bytes: neither time nor machine is written.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from contracts.media import Size

DEFAULT_QUALITY = 95
KEYWORD = "vision-insight"  # of the text in a PNG
SOFTWARE = "Vision Insight API"

_EXIF_SOFTWARE, _EXIF_IFD, _USER_COMMENT = 0x0131, 0x8769, 0x9286
_ASCII = b"ASCII\0\0\0"  # how a user comment begins
_EXIF_LIMIT = 60_000  # bytes; a JPEG holds it in one segment of at most 65,533

Recipe = Mapping[str, Any]  # the request that reproduces an image


def encode(
    image: Image.Image,
    output_format: str,
    compression: int | None,
    recipe: Recipe | None = None,
    *,
    fast: bool = False,
) -> bytes:
    """*image* as png, jpeg or webp; *compression* (0-100) is the quality of the latter two.

    The recipe is stored as JSON: in the text ``vision-insight`` of a PNG, in EXIF's user comment
    otherwise (left out if it is too long). *fast*: larger files in less time, for previews.
    """
    buffer = io.BytesIO()
    quality = DEFAULT_QUALITY if compression is None else compression
    if output_format == "png":
        image.save(buffer, "PNG", pnginfo=_png_text(recipe), compress_level=1 if fast else 6)
    elif output_format == "jpeg":
        # Pillow advises at most 95; below 1 is an error in some builds.
        image.save(
            buffer,
            "JPEG",
            quality=max(1, quality),
            subsampling=0 if quality >= 90 else -1,
            exif=_exif(recipe),
        )
    else:
        image.save(buffer, "WEBP", quality=quality, method=0 if fast else 4, exif=_exif(recipe))
    return buffer.getvalue()


def encode_rgb(
    size: Size, rgb: bytes, output_format: str, compression: int | None, recipe: Recipe | None = None
) -> str:
    """Raw RGB bytes as an image file in base64."""
    return _base64(encode(_from_rgb(size, rgb), output_format, compression, recipe))


def encode_preview(
    size: Size, rgb: bytes, full_size: Size, output_format: str, compression: int | None
) -> str:
    """As ``encode_rgb``, scaled up to *full_size*."""
    image = _from_rgb(size, rgb).resize((full_size.width, full_size.height), Image.Resampling.BICUBIC)
    return _base64(encode(image, output_format, compression, fast=True))


def recipe_of(data: bytes) -> dict[str, Any] | None:
    """The recipe in the file *data*; None if it has none."""
    with Image.open(io.BytesIO(data)) as image:
        text = image.info.get(KEYWORD)
        if text is None:
            comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
            text = comment.removeprefix(_ASCII).decode("ascii") if comment else None
    recipe: dict[str, Any] | None = None if text is None else json.loads(text)
    return recipe


def _from_rgb(size: Size, rgb: bytes) -> Image.Image:
    return Image.frombytes("RGB", (size.width, size.height), rgb)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _png_text(recipe: Recipe | None) -> PngInfo | None:
    if recipe is None:
        return None
    text = PngInfo()
    text.add_itxt("Software", SOFTWARE)
    text.add_itxt(KEYWORD, json.dumps(recipe, ensure_ascii=False))
    return text


def _exif(recipe: Recipe | None) -> bytes:
    if recipe is None:
        return b""
    comment = _ASCII + json.dumps(recipe).encode("ascii")
    if len(comment) > _EXIF_LIMIT:
        return b""
    exif = Image.Exif()
    exif[_EXIF_SOFTWARE] = SOFTWARE
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = comment
    data: bytes = exif.tobytes()
    return data
