"""Training images: painted, augmented, and prepared exactly as mlx-vlm's processors do.

No torch here: this runs in the data loader's worker processes.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from demo import world
from demo.training.vlm.checkpoint import MAX_PIXELS, MIN_PIXELS
from demo.world import Kind, Scene

Bytes = npt.NDArray[np.uint8]
Layout = tuple[int, int]

QWEN_TOKEN = 28  # pixels; side of the square that one image token covers
CROP = 378  # pixels; side of a Moondream crop
CROP_MARGIN = 4  # patches of 14 pixels that neighbouring crops share
MOST_CROPS = 12


# ---------------------------------------------------------------- the processors' rules


def smart_resize(height: int, width: int) -> tuple[int, int]:
    """Qwen2-VL's rule: multiples of 28, between the smallest and the largest number of pixels."""
    unit = QWEN_TOKEN
    rows, columns = round(height / unit) * unit, round(width / unit) * unit
    if rows * columns > MAX_PIXELS:
        shrink = math.sqrt(height * width / MAX_PIXELS)
        rows = max(unit, math.floor(height / shrink / unit) * unit)
        columns = max(unit, math.floor(width / shrink / unit) * unit)
    elif rows * columns < MIN_PIXELS:
        grow = math.sqrt(MIN_PIXELS / (height * width))
        rows = math.ceil(height * grow / unit) * unit
        columns = math.ceil(width * grow / unit) * unit
    return rows, columns


def crop_grid(width: int, height: int) -> Layout:
    """Moondream's rule: the grid that best matches the image's shape and size, with few crops."""
    inner = CROP - 2 * CROP_MARGIN * 14
    best: tuple[float, Layout] = (1e9, (1, 1))
    for rows in range(1, MOST_CROPS + 1):
        for columns in range(1, MOST_CROPS + 1):
            if rows * columns + 1 > MOST_CROPS:
                continue
            misshape = abs(math.log(width / height / (columns / rows)))
            scale = min((rows * inner + 112) / height, (columns * inner + 112) / width)
            cost = misshape + 0.5 * abs(math.log(scale)) + 0.1 * (rows * columns + 1)
            if cost < best[0]:
                best = (cost, (rows, columns))
    return best[1]


def crops(image: Image.Image) -> tuple[Bytes, Layout]:
    """mlx-vlm's create_crops, as bytes: the whole image, then the grid's crops row by row.

    For a 1 x 1 grid the only local crop would be the whole image again, so it is omitted.
    """
    width, height = image.size
    rows, columns = crop_grid(width, height)
    overlap = CROP_MARGIN * 14
    inner = CROP - 2 * overlap
    parts = [image.resize((CROP, CROP), Image.Resampling.BICUBIC)]
    if (rows, columns) != (1, 1):
        across = width / (columns * inner + 2 * overlap)
        down = height / (rows * inner + 2 * overlap)
        scale = max(across, down)
        side = int(CROP * scale)
        for row in range(rows):
            for column in range(columns):
                left = min(int(column * inner * scale), max(width - side, 0))
                top = min(int(row * inner * scale), max(height - side, 0))
                box = (left, top, min(left + side, width), min(top + side, height))
                parts.append(image.crop(box).resize((CROP, CROP), Image.Resampling.BICUBIC))
    return np.stack([np.asarray(part) for part in parts]), (rows, columns)


# ---------------------------------------------------------------- training scenes and augmentation


def train_scene(rng: random.Random) -> Scene:
    """A scene that is not held out; words are more frequent and longer than in ``random_scene``."""
    kinds: list[Kind] = ["one", "two", "word"]
    while True:
        scene = world.random_scene(rng, rng.choices(kinds, [3, 3, 4.5])[0])
        if scene.word:
            length = rng.choices([1, 2, 3, 4, 5, 6], [1, 1, 1.5, 2, 2.5, 3])[0]
            return replace(scene, word="".join(rng.choice(world.ALPHABET) for _ in range(length)))
        if not world.is_held_out(scene):
            return scene


def paint(rng: random.Random, scene: Scene, width: int, height: int) -> Image.Image:
    """The scene at any size and aspect ratio, with random augmentation."""
    side = max(width, height)
    if rng.random() < 0.25:
        image = world.render(scene, min(side, 176), oversample=2)
    else:  # a box filter instead of Lanczos: several times faster
        image = world.render(scene, 2 * min(side, 224), oversample=1).reduce(2)
    return _augment(rng, _stretch(image, width, height), bool(scene.word))


def paint_clean(scene: Scene, width: int, height: int) -> Image.Image:
    return _stretch(world.render(scene, max(width, height)), width, height)


def _stretch(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _augment(rng: random.Random, image: Image.Image, is_word: bool) -> Image.Image:
    width, height = image.size
    if is_word and rng.random() < 0.35:  # slightly off centre, smaller or larger
        zoom = rng.uniform(0.92, 1.18)
        dx, dy = rng.uniform(-0.05, 0.05) * width, rng.uniform(-0.08, 0.08) * height
        matrix = (zoom, 0, width / 2 * (1 - zoom) + dx, 0, zoom, height / 2 * (1 - zoom) + dy)
        image = image.transform(
            (width, height),
            Image.Transform.AFFINE,
            matrix,
            Image.Resampling.BICUBIC,
            fillcolor=image.getpixel((1, 1)),
        )
    if rng.random() < 0.25:
        share = rng.uniform(0.6, 0.95)
        smaller = (max(32, int(width * share)), max(32, int(height * share)))
        image = image.resize(smaller, Image.Resampling.BILINEAR)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if rng.random() < 0.2:
        radius = rng.uniform(0.2, 0.8) * min(width, height) / 128
        image = image.filter(ImageFilter.GaussianBlur(radius))
    if rng.random() < 0.3:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=rng.randint(30, 92))
        image = Image.open(file).convert("RGB")
    return image
