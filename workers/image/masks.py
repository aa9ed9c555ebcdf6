"""Masks of edits: which part of a picture may be redrawn, and how much of it shows.

Rules: those of ``workers.serving.image_codec``. A mask is "L": 255 is redrawn, 0 is kept, between them
the two are
mixed. Two kinds come in: OpenAI's, where what is transparent is redrawn, and the black and white kind
of most other programs, where white is. A picture with any transparency is of the first kind.
"""

from __future__ import annotations

from PIL import Image, ImageOps

from contracts.errors import InvalidRequest
from contracts.media import Size
from workers.serving import image_codec
from workers.serving.opaque import opaque

PARAM = "mask"
_BLACK, _WHITE = 16, 239  # what is beyond them is black or white: JPEG files have neither exactly
_SHAPE_TOLERANCE = 0.02  # by which the ratio of the sides may differ


def read(data: bytes, own: Size) -> Image.Image:
    """The mask in *data* for a picture of size *own*, scaled to it when its shape is the same.

    Raises ``InvalidRequest`` naming the mask when it can't be read, has another shape or marks nothing.
    """
    mask = image_codec.decode_as(data, PARAM, _marked)
    ratio = mask.width * own.height / (mask.height * own.width)
    if abs(ratio - 1) > _SHAPE_TOLERANCE:
        raise InvalidRequest(
            f"the mask has another shape ({mask.width}x{mask.height}) than the image ({own})",
            param=PARAM,
        )
    if mask.getextrema()[1] == 0:
        raise InvalidRequest(
            "the mask marks nothing: what is transparent in it, or white where nothing is, is redrawn",
            param=PARAM,
        )
    if mask.size != (own.width, own.height):
        mask = mask.resize((own.width, own.height), Image.Resampling.BILINEAR)
    return mask


def cover(mask: Image.Image, size: Size) -> Image.Image:
    """*mask* cut and scaled as ``media.cover`` does its picture."""
    if mask.size == (size.width, size.height):
        return mask
    return ImageOps.fit(mask, (size.width, size.height), Image.Resampling.BILINEAR)


def _marked(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] < 255:
            return ImageOps.invert(alpha)
    return opaque(image).convert("L").point(_level)


def _level(value: int) -> int:
    if value <= _BLACK:
        return 0
    return 255 if value >= _WHITE else value
