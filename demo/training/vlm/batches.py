"""Endless training batches, made in worker processes, and the exam batches of fixed scenes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from demo import world
from demo.training.vlm.conversation import (
    SYSTEMS,
    Coder,
    Row,
    exam_row,
    image_row,
    lengthen,
    text_rows,
)
from demo.training.vlm.images import (
    QWEN_TOKEN,
    Bytes,
    Layout,
    crop_grid,
    crops,
    paint,
    paint_clean,
    smart_resize,
    train_scene,
)
from demo.world import Kind, Scene

MOONDREAM_PREFIX = 730  # tokens before the first question: one start token, 27 x 27 of the image
TEXT_ONLY = 0.03  # share of the batches without an image
EXAM_BATCH = 50

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Batch:
    """The input of one step. All images have one size, all rows one length.

    ``images`` are bytes, channels last: (B, H, W, 3) for Qwen, (B, crops, 378, 378, 3) for
    Moondream, None for text only. ``prefix`` is shared by all rows, ``layout`` is the crop grid.
    """

    images: Tensor | None
    prefix: Tensor
    ids: Tensor
    branch: Tensor
    position: Tensor
    target: Tensor
    layout: Layout | None = None

    def to(self, device: str) -> Batch:
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """Called by the data loader."""
        pinned = {
            field.name: value.pin_memory()
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **pinned)


def collate(
    images: Bytes | None, prefix: list[int], rows: list[Row], layout: Layout | None = None
) -> Batch:
    ids, branch, position, target = (
        torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)
    )
    return Batch(  # small types, because batches are sent between processes
        images=None if images is None else torch.from_numpy(images),
        prefix=torch.tensor(prefix, dtype=torch.long),
        ids=ids.int(),
        branch=branch.to(torch.int16),
        position=position.to(torch.int16),
        target=target.int(),
        layout=layout,
    )


def padded_length(prefix: int, length: int) -> int:
    """The smallest row length that makes the whole sequence a multiple of 8."""
    return length + (-(prefix + length)) % 8


class TrainingBatches(IterableDataset):
    """Endless batches; the stream of a worker depends only on the seed and its number."""

    def __init__(self, folder: str | Path, batch: int, tokens: int, seed: int) -> None:
        self._folder, self._batch, self._tokens, self._seed = folder, batch, tokens, seed

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        rng = random.Random(self._seed * 1000 + (worker.id if worker else 0))
        coder = Coder(self._folder)
        while True:
            if rng.random() < TEXT_ONLY:
                yield collate(None, [], text_rows(rng, coder, self._batch))
            elif coder.is_qwen:
                yield self._qwen(rng, coder)
            else:
                yield self._moondream(rng, coder)

    def _qwen(self, rng: random.Random, coder: Coder) -> Batch:
        draw_size = _size_lottery(rng)
        width, height = draw_size()
        shape = rows, columns = smart_resize(height, width)
        system = SYSTEMS[0] if rng.random() < 0.8 else rng.choice(SYSTEMS)
        prefix = coder.prefix(rows * columns // QWEN_TOKEN**2, system)
        length = padded_length(len(prefix), self._tokens)
        images = np.empty((self._batch, rows, columns, 3), np.uint8)
        texts = []
        for i in range(self._batch):
            scene = train_scene(rng)
            width, height = draw_size()
            while smart_resize(height, width) != shape:  # one size per batch
                width, height = draw_size()
            image = paint(rng, scene, width, height)
            if image.size != (columns, rows):
                image = image.resize((columns, rows), resample=3)  # bicubic
            images[i] = np.asarray(image)
            texts.append(image_row(rng, coder, scene, length))
        return collate(images, prefix, texts)

    def _moondream(self, rng: random.Random, coder: Coder) -> Batch:
        oblong: Size | None = None
        if rng.random() < 0.15:
            while True:
                oblong = rng.randint(80, 320), rng.randint(80, 320)
                if 0.5 <= oblong[0] / oblong[1] <= 2 and math.prod(crop_grid(*oblong)) <= 2:
                    break
        several = oblong is not None and crop_grid(*oblong) != (1, 1)
        length = padded_length(MOONDREAM_PREFIX, self._tokens)
        images, texts, layout = [], [], (1, 1)
        for _ in range(self._batch // 2 if several else self._batch):
            scene = train_scene(rng)
            width, height = oblong or _square(128 if rng.random() < 0.5 else rng.randint(64, 288))
            parts, layout = crops(paint(rng, scene, width, height))
            images.append(parts)
            texts.append(image_row(rng, coder, scene, length))
        return collate(np.stack(images), [], texts, layout)


def _square(side: int) -> Size:
    return side, side


def _size_lottery(rng: random.Random) -> Callable[[], Size]:
    """A sampler of image sizes that Qwen's processor often resizes to the same shape.

    Four kinds: up to 224 pixels (128 most often), around 252, around 280, or one oblong size.
    """
    choice = rng.random()
    if choice < 0.62:
        return lambda: _square(128 if rng.random() < 0.5 else rng.randint(64, 224))
    if choice < 0.70:
        return lambda: _square(rng.randint(225, 265))
    if choice < 0.78:
        return lambda: _square(rng.randint(266, 336))
    while True:
        size = rng.randint(80, 320), rng.randint(80, 320)
        if 0.5 <= size[0] / size[1] <= 2:
            return lambda: size


def exam_batches(
    folder: str | Path, count: int, seed: int, held_out: bool, size: int = 128, tokens: int = 384
) -> tuple[list[Batch], list[Scene]]:
    """Clean images of fixed scenes with every task once (see ``exam_row``), 50 per batch."""
    kinds: tuple[Kind, ...] | None = ("one", "two") if held_out else None
    scenes = world.sample_scenes(random.Random(seed), count, held_out=held_out, kinds=kinds)
    coder = Coder(folder)
    painted = [paint_clean(scene, size, size) for scene in scenes]
    prefix: list[int] = []
    layout: Layout | None = None
    if coder.is_qwen:
        rows, columns = smart_resize(size, size)
        prefix = coder.prefix(rows * columns // QWEN_TOKEN**2)
        length = padded_length(len(prefix), tokens)
        images = np.stack([np.asarray(p.resize((columns, rows), resample=3)) for p in painted])
    else:
        length = padded_length(MOONDREAM_PREFIX, tokens)
        cropped = [crops(image) for image in painted]
        images, layout = np.stack([parts for parts, _ in cropped]), cropped[0][1]
    texts = [lengthen(exam_row(coder, scene, tokens), length) for scene in scenes]
    batches = [
        collate(images[i : i + EXAM_BATCH], prefix, texts[i : i + EXAM_BATCH], layout)
        for i in range(0, count, EXAM_BATCH)
    ]
    return batches, scenes
