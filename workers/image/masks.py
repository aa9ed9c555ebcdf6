"""Edit masks: which part of an image is redrawn, and how much of the new part shows.

Rules: runs in worker threads (``workers.serving.image_codec``). A mask is "L": 255 is redrawn, 0 is
kept, values between mix the two. Clients send two kinds: OpenAI's, where transparent areas are redrawn,
and the black and white masks of most other programs, where white areas are. A mask with any
transparency is of the first kind.
"""

from __future__ import annotations

from PIL import Image, ImageOps

from contracts.errors import InvalidRequest
from contracts.media import Size
from workers.serving import image_codec

PARAM = "mask"
_BLACK, _WHITE = 16, 239  # up to and from here: black and white; JPEG files have neither exactly
_SHAPE_TOLERANCE = 0.02  # by which the aspect ratios may differ


def read(data: bytes, image_size: Size) -> Image.Image:
    """The mask in *data*, scaled to *image_size* if it has the same shape.

    Raises ``InvalidRequest`` naming the mask if it is unreadable, has another shape or marks nothing.
    """
    mask = image_codec.decode_as(data, PARAM, _marked)
    ratio = mask.width * image_size.height / (mask.height * image_size.width)
    if abs(ratio - 1) > _SHAPE_TOLERANCE:
        raise InvalidRequest(
            f"the mask ({mask.width}x{mask.height}) has another shape than the image ({image_size})",
            param=PARAM,
        )
    if mask.getextrema()[1] == 0:
        raise InvalidRequest(
            "the mask marks nothing: make the areas to redraw transparent, or white on black",
            param=PARAM,
        )
    if mask.size != (image_size.width, image_size.height):
        mask = mask.resize((image_size.width, image_size.height), Image.Resampling.BILINEAR)
    return mask


def cover(mask: Image.Image, size: Size) -> Image.Image:
    """*mask* scaled and cropped as ``image_codec.cover`` does it with the image."""
    if mask.size == (size.width, size.height):
        return mask
    return ImageOps.fit(mask, (size.width, size.height), Image.Resampling.BILINEAR)


def _marked(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] < 255:
            return ImageOps.invert(alpha)
    return image_codec.opaque(image).convert("L").point(_level)


def _level(value: int) -> int:
    if value <= _BLACK:
        return 0
    return 255 if value >= _WHITE else value
