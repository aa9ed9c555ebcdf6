"""A picture of any mode as opaque RGB, transparency on white.

Rules: those of ``workers.serving.image_codec``. A large picture is converted in bands of rows, so that
the steps
between two modes take no copy of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from PIL import Image

_BAND = 1 << 20  # pixels
_RGB_MODES = ("RGB", "L", "1", "CMYK", "YCbCr", "LAB", "HSV")


def opaque(image: Image.Image) -> Image.Image:
    """*image* itself where it is opaque RGB already."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith(("I", "F")):
        return _by_bands(image, _from_deep(image))
    return _by_bands(image, _on_white)


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if image.width * image.height <= _BAND:
        return convert(image)
    made = Image.new("RGB", image.size)
    top = 0
    for band in _bands(image):
        made.paste(convert(band), (0, top))
        top += band.height
    return made


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


def _from_deep(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """16-bit grey (and 32-bit, and float): ``convert`` would clip at 255 instead of scaling."""
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
