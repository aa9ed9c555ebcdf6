"""Images in requests: base64 text, data URIs, file types by their first bytes, sizes.

Rules: standard library only, no decoding of pixels (the worker does it with Pillow). The gateway uses
this to refuse invalid input before a model is loaded, the worker to get an image's bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from contracts.errors import InvalidRequest, PayloadTooLarge, UnsupportedParameter

SIDE_MULTIPLE = 16  # pixels; the models work on patches of 16 x 16
_SIZE = re.compile(r"([0-9]{1,5})[xX]([0-9]{1,5})")
_DATA_URI = re.compile(r"data:([^,]{0,1000}?)(;base64)?,", re.DOTALL | re.IGNORECASE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_MIME_OVERHEAD = 1.06  # line breaks in base64: two characters after every 76


def sniff(data: bytes) -> str | None:
    """The image type by its magic bytes: png, jpeg, gif, webp, bmp or tiff; None: not an image."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"BM"):
        return "bmp"
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return "tiff"
    return None


def read_image_field(text: str, param: str, *, max_mb: int | None = None) -> bytes:
    """Decode a data URI or bare base64 text to bytes.

    Raises ``InvalidRequest`` naming *param* if *text* is not valid base64 or not an image;
    ``UnsupportedParameter`` for a URL, which the gateway replaces before this is called;
    ``PayloadTooLarge`` for more than *max_mb* MiB, before decoding.
    """
    encoded = text
    if text[:5].lower() == "data:":
        match = _DATA_URI.match(text)
        if match is None or match[2] is None:
            raise InvalidRequest("expected a data URI like 'data:image/png;base64,...'", param=param)
        encoded = text[match.end() :]
    elif is_url(text):
        raise UnsupportedParameter(
            "image URLs are not fetched here; send the image as a data URI or as base64", param=param
        )
    if max_mb is not None and len(encoded) // 4 * 3 > (max_mb << 20) * _MIME_OVERHEAD:
        raise image_too_large(param, max_mb)
    try:
        # Line breaks are common (MIME wraps at 76 characters); other foreign characters are errors.
        raw = encoded.encode("ascii").translate(None, b" \t\r\n")
        data = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error) as exc:
        raise InvalidRequest(
            "the image is neither a data URI nor a URL, and not valid base64 (in a form, files are sent"
            " with @: -F image=@photo.png)",
            param=param,
        ) from exc
    require_image(data, param, max_mb=max_mb)
    return data


def is_url(text: str) -> bool:
    """Whether an image field holds a URL other than ``data:``; base64 has no colon."""
    return _URL.match(text[:64]) is not None and text[:5].lower() != "data:"


def require_image(data: bytes, param: str, *, max_mb: int | None = None) -> None:
    """Raise ``InvalidRequest`` unless *data* begins like a supported image type.

    Raises ``PayloadTooLarge`` for more than *max_mb* MiB.
    """
    if not data:
        raise InvalidRequest("the image is empty", param=param)
    if max_mb is not None and len(data) > max_mb << 20:
        raise image_too_large(param, max_mb)
    if sniff(data) is None:
        raise InvalidRequest(
            "not an image: expected PNG, JPEG, WebP, GIF, BMP or TIFF data", param=param
        )


def image_too_large(param: str, max_mb: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the image has more than {max_mb} MiB (images.max_mb)", param=param)


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def pixels(self) -> int:
        return self.width * self.height


def parse_size(text: str, *, max_pixels: int, param: str = "size") -> Size:
    """Parse ``"512x768"``; both sides are rounded down to multiples of 16.

    Raises ``InvalidRequest`` for invalid text, a side below 16, or more than *max_pixels*.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest("expected 'WIDTHxHEIGHT', such as '512x512', or 'auto'", param=param)
    size = Size(int(match[1]), int(match[2]))
    if min(size.width, size.height) < SIDE_MULTIPLE:
        raise InvalidRequest(f"each side must be at least {SIDE_MULTIPLE} pixels", param=param)
    if size.pixels > max_pixels:
        raise InvalidRequest(
            f"{size} has {size.pixels} pixels; the limit of this model is {max_pixels}", param=param
        )
    return Size(_down(size.width), _down(size.height))


def fit_size(source: Size, *, max_pixels: int) -> Size:
    """The size of an edit's result if the request sets none: as near to *source* as allowed.

    Above *max_pixels* it is scaled down with its aspect ratio. Sides are rounded down to multiples of
    16, never below 16; a very long strip loses some of its long side.
    """
    scale = min(1.0, (max_pixels / source.pixels) ** 0.5)
    width, height = _down(int(source.width * scale)), _down(int(source.height * scale))
    return Size(min(width, _down(max_pixels // height)), min(height, _down(max_pixels // width)))


def _down(side: int) -> int:
    return max(SIDE_MULTIPLE, side // SIDE_MULTIPLE * SIDE_MULTIPLE)
