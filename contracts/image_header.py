"""Read the size of an image, and the cost of decoding it, from its file header.

Rules: standard library only; read a few bytes, decode nothing. A file of a hundred bytes that expands
to gigabytes is refused before any model is loaded or evicted for it. Pillow makes the final check in
the worker, and handles headers that can't be read here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping

from contracts.errors import InvalidRequest
from contracts.media import Size, sniff

MAX_PIXELS = 64_000_000  # of an input image; 192 MB as RGB
MAX_SCANS = 100  # of a progressive JPEG; ten or so are usual, and each is a pass over all pixels

_DEFLATE_RATIO = 1032  # bytes that one compressed byte can expand to, at most
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # neither stuffing nor a restart
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, 0xD8, 0xD9})  # markers without a length
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_TIFF_TAGS = _WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_TIFF_TYPES = {3: "H", 4: "I"}


def refuse_bombs(data: bytes, param: str) -> None:
    """Raise ``InvalidRequest`` naming *param* if decoding the image would cost too much."""
    form = sniff(data)
    if form is None:
        return
    try:
        size = _SIZES[form](data)
        if size is not None:
            _refuse(data, form, size, param)
    except (struct.error, IndexError):
        return  # truncated or unusual: left to Pillow


def _refuse(data: bytes, form: str, size: Size, param: str) -> None:
    if size.pixels == 0:
        raise InvalidRequest(f"the image claims a size of {size} pixels", param=param)
    if size.pixels > MAX_PIXELS:
        raise too_many_pixels(param, size)
    if form == "png" and _png_bytes(data, size) > len(data) * _DEFLATE_RATIO:
        raise InvalidRequest(
            f"the image is truncated: {len(data)} bytes can't hold {size} pixels", param=param
        )
    if form == "tiff" and _tiff_tile(data) > MAX_PIXELS:
        raise InvalidRequest("the image has tiles above the size limit of an image", param=param)
    if form == "jpeg" and _jpeg_scans(data) > MAX_SCANS:
        raise InvalidRequest(f"the image has more than {MAX_SCANS} scans", param=param)


def too_many_pixels(param: str, size: Size | None = None) -> InvalidRequest:
    what = "the image" if size is None else f"the image of {size}"
    return InvalidRequest(f"{what} has more than {MAX_PIXELS // 1_000_000} million pixels", param=param)


def _png(data: bytes) -> Size | None:
    if data[12:16] != b"IHDR":
        return None
    return Size(*struct.unpack_from(">II", data, 16))


def _png_bytes(data: bytes, size: Size) -> int:
    """The minimum size of a PNG's uncompressed pixels."""
    bits, colour = data[24], data[25]
    return size.height * (1 + size.width * bits * _PNG_CHANNELS.get(colour, 1) // 8)


def _gif(data: bytes) -> Size:
    return Size(*struct.unpack_from("<HH", data, 6))


def _bmp(data: bytes) -> Size:
    (head,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if head == 12 else "<ii", data, 18)
    return Size(abs(width), abs(height))  # a negative height means top-down rows


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return Size(
            1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        )
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Size(width & 0x3FFF, height & 0x3FFF)
    return None


def _tiff(data: bytes) -> Size | None:
    tags = _tiff_tags(data)
    return Size(tags[_WIDTH], tags[_HEIGHT]) if _WIDTH in tags and _HEIGHT in tags else None


def _tiff_tile(data: bytes) -> int:
    """Pixels of a tile. Decoders expand a whole tile even if the image shows little of it."""
    tags = _tiff_tags(data)
    return tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The size tags of the first image in the file."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, at)
    found: dict[int, int] = {}
    for entry in range(entries):
        tag, kind = struct.unpack_from(order + "HH", data, at + 2 + 12 * entry)
        if tag in _TIFF_TAGS and kind in _TIFF_TYPES:
            (found[tag],) = struct.unpack_from(order + _TIFF_TYPES[kind], data, at + 10 + 12 * entry)
    return found


def _jpeg(data: bytes) -> Size | None:
    for marker, at in _jpeg_segments(data):
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return Size(width, height)
        if marker == _START_OF_SCAN:
            break
    return None


def _jpeg_scans(data: bytes) -> int:
    """The number of scans in the first image, or an upper bound if that is below the limit."""
    bound = data.count(b"\xff\xda")  # includes metadata; parsing takes fifty times as long
    if bound <= MAX_SCANS:
        return bound
    scans = 0
    for marker, _ in _jpeg_segments(data):
        scans += marker == _START_OF_SCAN
        if marker == _END_OF_IMAGE or scans > MAX_SCANS:
            break
    return scans


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker with the offset of its segment; the length in it skips to the next one."""
    at = 0
    while (match := _JPEG_MARKER.search(data, at)) is not None:
        marker, at = match[1][0], match.end()
        yield marker, at
        if marker not in _BARE:
            (length,) = struct.unpack_from(">H", data, at)
            at += length


_SIZES: Mapping[str, Callable[[bytes], Size | None]] = {
    "png": _png,
    "jpeg": _jpeg,
    "gif": _gif,
    "webp": _webp,
    "bmp": _bmp,
    "tiff": _tiff,
}
