"""Small files that unfold into many bytes or take long to decode. Made by hand: Pillow makes none.

Rule: every process that collects tests imports this module, so slow files are made when they are used.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache, partial

from PIL import Image

from tests.contracts.test_image_header import bmp, gif, jpeg, tiff, webp, with_scans
from tests.workers.serving.test_image_codec import png_claiming, png_of, saved

BLOCK = 16 << 20  # bytes
PNG_HEAD = 33  # bytes before the first chunk that is not the header


def png_with(kind: bytes, data: bytes, times: int = 1) -> bytes:
    """A small image with chunks before its pixels."""
    whole = png_of(8, 8, 8, 2, (b"\0" + bytes(24)) * 8)
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return whole[:PNG_HEAD] + chunk * times + whole[PNG_HEAD:]


def zeros(size: int) -> bytes:
    """*size* zero bytes as zlib packs them. One block is repeated: packing gigabytes takes seconds."""
    blocks, rest = divmod(size, BLOCK)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    end = packer.compress(bytes(rest)) + packer.flush()
    checksum = (size % 65_521) << 16 | 1  # Adler-32: of zeros, one sum stays 1, the other counts
    return b"\x78\xda" + _packed_block() * blocks + end + struct.pack(">I", checksum)


@cache
def _packed_block() -> bytes:
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return packer.compress(bytes(BLOCK)) + packer.flush(
        zlib.Z_FULL_FLUSH
    )  # independent of the block before it


def tiled(side: int) -> bytes:
    """A TIFF of 16 x 16 pixels in one tile of *side* x *side*."""
    tile = zeros(side * side)
    tags = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(322, 4, side), (323, 4, side), (324, 4, 14 + 12 * 10), (325, 4, len(tile))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tile


def frames(form: str, number: int) -> bytes:
    images = [Image.new("RGB", (64, 64), (i % 256, i // 256, 0)) for i in range(number)]
    return saved(images[0], form, save_all=True, append_images=images[1:])


def large(form: str, **options: object) -> bytes:
    return saved(Image.effect_noise((600, 600), 90).convert("RGB"), form, **options)


# Refused by the gateway because of the header; with words of the message.
BY_HEAD = {
    "png of 3600 million pixels": (png_claiming(60_000, 60_000), "64 million pixels"),
    "png of the most pixels possible": (png_claiming(2**31 - 1, 2**31 - 1), "64 million pixels"),
    "gif of 4295 million pixels": (gif(65_535, 65_535), "64 million pixels"),
    "bmp of 3600 million pixels": (bmp(60_000, 60_000), "64 million pixels"),
    "jpeg of 4225 million pixels": (jpeg(65_000, 65_000), "64 million pixels"),
    "webp of 281 billion pixels": (webp(1 << 24, 1 << 24), "64 million pixels"),
    "tiff of 3600 million pixels": (tiff(60_000, 60_000), "64 million pixels"),
    "png without pixels": (png_claiming(0, 0), "0x0"),
    "png that is cut off": (png_claiming(8_000, 8_000), "can't hold"),
    "tile of 900 million pixels": (tiled(30_000), "tiles"),
    "jpeg of ten thousand passes": (with_scans(10_000), "scans"),
}

# Forwarded by the gateway, refused by the worker.
BY_PIXELS = {
    "text that unfolds into 200 MB": png_with(b"zTXt", b"Comment\0\0" + zeros(200 << 20)),
    "a thousand texts": png_with(b"zTXt", b"Comment\0\0" + zeros(1 << 20), 1_000),
    "international text": png_with(b"iTXt", b"Comment\0\1\0\0\0" + zeros(200 << 20)),
    "a profile that unfolds into 200 MB": png_with(b"iCCP", b"x\0\0" + zeros(200 << 20)),
    "more pixel data than pixels": png_of(8, 8, 8, 2, None),
    "half a jpeg": large("JPEG")[:20_000],
    "half a webp": large("WEBP")[:20_000],
    "half a gif": large("GIF")[:20_000],
    "half a tiff": large("TIFF", compression="tiff_lzw")[:20_000],
    "half a png": large("PNG")[:20_000],
    "the head of a gif": gif(8_000, 8_000),
    "the head of a jpeg": jpeg(8_000, 8_000),
    "the head of a webp": webp(8_000, 8_000),
}

# Valid images that cost much if all frames are decoded.
GOOD = {
    "gif of 5000 frames": partial(frames, "GIF", 5_000),
    "png of 1000 frames": partial(frames, "PNG", 1_000),
    "webp of 1000 frames": partial(frames, "WEBP", 1_000),
}
