"""A prompt in the form that the model takes: token ids, and the images among them.

Rules: prompts are made off the model thread, so they hold no MLX arrays. An image is identified by its
pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from workers.engine import ChatJob


@dataclass(frozen=True, slots=True)
class PromptImage:
    """An image that fills *count* positions of the prompt from *start*.

    *key*: identifies the pixels. *pixels*: a numpy array in the form that the vision tower takes.
    *shape*: its layout, which depends on the architecture.
    """

    key: int
    start: int
    count: int
    pixels: Any
    shape: Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """*cache_key*: the ids, with the positions of an image replaced by its key; None: not cacheable.

    *extra*: further inputs, for models that only mlx-vlm itself can preprocess.
    """

    ids: list[int]
    images: tuple[PromptImage, ...] = ()
    cache_key: list[int] | None = None
    extra: Any = None

    def __len__(self) -> int:
        return len(self.ids)


class Architecture(Protocol):
    """Preprocessing for one model architecture."""

    first_chunk: int  # prompt tokens that the first chunk must hold at least

    def make_prompt(self, job: ChatJob) -> Prompt:
        """Tokenize *job*. Raises ``ApiError`` if the client is at fault. Any single thread may call
        it."""

    def encode_image(self, image: PromptImage) -> list[Any]:
        """The vision tower's lazy output for *image* after each of its stages.

        The last entry is the features, (count, width). Each entry depends on the ones before it.
        """

    def inputs(self, prompt: Prompt, start: int, features: Sequence[Any]) -> dict[str, Any]:
        """``inputs_embeds`` of the ids from *start* on, and further keywords for the language model.

        *features*: those of the images that begin at *start* or later.
        """


def encoder_stages(tower: Any, encode: Callable[[], Any]) -> list[Any]:
    """The output of each block of *tower* while *encode* runs, then the result of *encode*.

    MLX is lazy and nothing is computed here, so a long encoding can be evaluated stage by stage.
    """
    outputs: list[Any] = []
    blocks = tower.blocks

    def recorded(block: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            outputs.append(block(*args, **kwargs))
            return outputs[-1]

        return call

    tower.blocks = [recorded(block) for block in blocks]
    try:
        features = encode()
    finally:
        tower.blocks = blocks
    return [*outputs, features]


def image_key(image: Image.Image) -> int:
    """A hash of the pixels, mode and size."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=16, person=b"pixels")
    digest.update(repr((image.mode, image.size)).encode())
    return int.from_bytes(digest.digest(), "big")


def cache_key(ids: Sequence[int], images: Sequence[PromptImage], *, before: int = 0) -> list[int]:
    """*ids* with the positions of each image, and the *before* positions in front of it, replaced by
    the image's key. Keys are made negative, so they never equal an id."""
    key = list(ids)
    for image in images:
        start, end = image.start - before, image.start + image.count
        key[start:end] = [-1 - image.key] * (end - start)
    return key


def usable_prefix(hit: int, images: Sequence[PromptImage]) -> int:
    """How many of *hit* cached tokens can be used: an image must be cached whole."""
    for image in images:
        if image.start < hit < image.start + image.count:
            return image.start
    return hit
