"""Pictures as files: PNG, JPEG or WebP, with what drew them written inside.

Rules: those of ``workers.serving.image_codec``. The same pixels and the same words make the same
bytes: nothing of
the time or the machine is written.
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
_EXIF_LIMIT = 60_000  # bytes; a JPEG has room for one segment of 65,533

Recipe = Mapping[str, Any]  # the request that draws a picture again


def encode(
    image: Image.Image,
    output_format: str,
    compression: int | None,
    recipe: Recipe | None = None,
    *,
    quick: bool = False,
) -> bytes:
    """*image* as png, jpeg or webp; *compression* (0-100) is the quality of the latter two.

    *recipe* is written into it as JSON: as the text ``vision-insight`` of a PNG, as EXIF's user comment
    of the others (unless it is too long for that). *quick*: for what is looked at for a moment.
    """
    buffer = io.BytesIO()
    quality = DEFAULT_QUALITY if compression is None else compression
    if output_format == "png":
        image.save(buffer, "PNG", pnginfo=_png_text(recipe), compress_level=1 if quick else 6)
    elif output_format == "jpeg":
        # Pillow's scale ends at 95 for sense; below 1 it is an error in some builds.
        image.save(
            buffer,
            "JPEG",
            quality=max(1, quality),
            subsampling=0 if quality >= 90 else -1,
            exif=_exif(recipe),
        )
    else:
        image.save(buffer, "WEBP", quality=quality, method=0 if quick else 4, exif=_exif(recipe))
    return buffer.getvalue()


def encode_rgb(
    size: Size, rgb: bytes, output_format: str, compression: int | None, recipe: Recipe | None = None
) -> str:
    """Raw RGB bytes as base64 text of a picture file."""
    return _base64(encode(_picture(size, rgb), output_format, compression, recipe))


def encode_preview(
    size: Size, rgb: bytes, whole: Size, output_format: str, compression: int | None
) -> str:
    """A small picture of raw RGB bytes, scaled up to *whole*, as ``encode_rgb``."""
    image = _picture(size, rgb).resize((whole.width, whole.height), Image.Resampling.BICUBIC)
    return _base64(encode(image, output_format, compression, quick=True))


def recipe_of(data: bytes) -> dict[str, Any] | None:
    """The recipe in the file *data*; None when it has none."""
    with Image.open(io.BytesIO(data)) as image:
        text = image.info.get(KEYWORD)
        if text is None:
            comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
            text = comment.removeprefix(_ASCII).decode("ascii") if comment else None
    recipe: dict[str, Any] | None = None if text is None else json.loads(text)
    return recipe


def _picture(size: Size, rgb: bytes) -> Image.Image:
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
