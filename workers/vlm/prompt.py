"""A prompt as the model takes it: ids, and the pictures that stand among them.

Rules: made off the model thread, so there is nothing of MLX in it; a picture is known by its pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from workers.engine import ChatJob


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a prompt, whose *count* places among the ids begin at *start*.

    *pixels*: a numpy array, as the vision tower takes it; *shape*: how it is laid out.
    """

    key: int
    start: int
    count: int
    pixels: Any
    shape: Any


@dataclass(frozen=True, slots=True)
class Reading:
    """A job that is ready for the model thread. *names*: the ids, pictures by their own numbers.

    *extra*: what else the model takes, for models that mlx-vlm alone knows. *matchers*: one for each
    answer that must keep to a grammar.
    """

    job: ChatJob
    ids: list[int]
    pictures: tuple[Picture, ...] = ()
    names: list[int] | None = None
    extra: Any = None
    matchers: tuple[Any, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        return len(self.ids)


class Family(Protocol):
    """What models of one architecture have in common."""

    first_chunk: int  # tokens that must be read in one go at the start of a prompt

    def read(self, job: ChatJob) -> Reading:
        """*job* as a prompt; raises ``ApiError`` for what the client did. On any one thread."""

    def look(self, picture: Picture) -> list[Any]:
        """What the vision tower makes of *picture*, stage by stage, nothing computed yet.

        The last are the features, (count, width); each is computed from those before it.
        """

    def inputs(self, reading: Reading, start: int, features: Sequence[Any]) -> dict[str, Any]:
        """``inputs_embeds`` of the ids from *start* on, and what else the language model takes.

        *features*: of the pictures whose places are not before *start*.
        """


def stages(tower: Any, look: Callable[[], Any]) -> list[Any]:
    """What each of the *tower*'s blocks gives while *look* calls it, and what *look* returns.

    MLX is lazy: nothing is computed before it is asked for. So a long look can be asked for bit by bit.
    """
    given: list[Any] = []
    blocks = tower.blocks

    def noting(block: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            given.append(block(*args, **kwargs))
            return given[-1]

        return call

    tower.blocks = [noting(block) for block in blocks]
    try:
        features = look()
    finally:
        tower.blocks = blocks
    return [*given, features]


def number_of(image: Image.Image) -> int:
    """A number that other pixels don't have."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=16, person=b"pixels")
    digest.update(repr((image.mode, image.size)).encode())
    return int.from_bytes(digest.digest(), "big")


def named(ids: Sequence[int], pictures: Sequence[Picture], *, before: int = 0) -> list[int]:
    """*ids* with the places of pictures, and *before* more in front of them, holding the pictures' own
    numbers; negative, so that none is an id."""
    names = list(ids)
    for picture in pictures:
        start, end = picture.start - before, picture.start + picture.count
        names[start:end] = [-1 - picture.key] * (end - start)
    return names


def usable(hit: int, pictures: Sequence[Picture]) -> int:
    """How much of the first *hit* known tokens can be used: a picture is used whole or not at all."""
    for picture in pictures:
        if picture.start < hit < picture.start + picture.count:
            return picture.start
    return hit
