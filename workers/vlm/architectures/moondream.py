"""Moondream2: how it is asked, and how it sees.

Rules: real checkpoints were trained with the picture before the question seen as a whole (each of its
places sees all others) and know skills by control tokens; smaller ones, trained on what mlx-vlm does,
have neither. Which of both it is, the tokenizer tells; a setting has the last word on the mask.
mlx-vlm 0.7.10 makes the mask, then loses it (``LanguageModel.__call__``), and can't prefill it in
batches: ``Looking`` applies it where the picture is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine

from workers.engine import ChatJob
from workers.vlm.chat_template import moondream_question
from workers.vlm.checkpoint import control_tokens
from workers.vlm.prompt import Picture, Reading, named, number_of, stages

ANSWER_ID = 3  # of its tokenizer: what follows is the answer
PLACES = 729  # of a picture, after the token that begins the text
# Of the full tokenizer, as the checkpoints of 2025 were trained: begin, skill, its text, answer.
_QUERY = ([1, 15381, 2], [ANSWER_ID])
_CAPTION = [1, 32708, 2, 6382, ANSWER_ID]  # "normal" in length
_VOCABULARY = 51200  # tokens of the real model, of which the first are control tokens
_CONTROL = 21
PREFIX = "vision_prefix"  # keyword: so many first tokens see each other


class Moondream:
    def __init__(self, model: Any, processor: Any, *, sees_whole: bool | None) -> None:
        """*sees_whole*: does each place of a picture see all others? None: as the tokenizer tells."""
        self._model = model
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._control = control_tokens(self._tokenizer)
        self.skilled = is_skilled(self._tokenizer, model.config.text_config.vocab_size)
        self.sees_whole = self.skilled if sees_whole is None else sees_whole
        self.first_chunk = 1 + PLACES if self.sees_whole else 1
        vision = model.vision
        grid = vision.config.crop_size // vision.config.patch_size
        margin = vision.config.overlap_margin
        # 729 means one by one take longer than the tower; two products do the same.
        vision._reconstruct_local_features = lambda crops, layout: joined(crops, layout, grid, margin)

    def read(self, job: ChatJob) -> Reading:
        begin = self._tokenizer.bos_token_id or 0
        if not job.images:
            return Reading(job, [begin, *self._question(job)])
        image = job.images[0]
        question = self._question(job)  # also counts the images
        # No text: the processor would frame it; it is framed here.
        made = self._processor(images=[image])
        ids = [begin, *[0] * PLACES, *question]
        shape = (made["num_crops"], made["crop_layouts"])
        pictures = (Picture(number_of(image), 1, PLACES, made["pixel_values"], shape),)
        return Reading(job, ids, pictures, named(ids, pictures, before=1))

    def _question(self, job: ChatJob) -> list[int]:
        text = moondream_question(job, self._control)
        if self.skilled and job.skill == "caption" and job.images:
            return _CAPTION
        if self.skilled:
            before, after = _QUERY
            return [*before, *self._tokenizer.encode(text, add_special_tokens=False), *after]
        framed = f"\n\nQuestion: {text}\n\nAnswer: "
        return [*self._tokenizer.encode(framed, add_special_tokens=False), ANSWER_ID]

    def look(self, picture: Picture) -> list[Any]:
        vision = self._model.vision
        crops, layouts = picture.shape
        pixels = mx.array(picture.pixels).astype(vision.encoder.pos_emb.dtype)
        return stages(vision.encoder, lambda: vision(pixels, num_crops=crops, crop_layouts=layouts)[0])

    def inputs(self, reading: Reading, start: int, features: Sequence[Any]) -> dict[str, Any]:
        embed = self._model.language_model.model.embed_tokens
        embeds = embed(mx.array([reading.ids[start:]]))
        if not features:
            return {"inputs_embeds": embeds}
        if start > 1:
            raise RuntimeError("a picture is read whole or not at all")
        seen = features[0][None].astype(embeds.dtype)
        at = 1 - start
        made: dict[str, Any] = {
            "inputs_embeds": mx.concatenate([embeds[:, :at], seen, embeds[:, at + PLACES :]], axis=1)
        }
        if self.sees_whole:
            made[PREFIX] = 1 + PLACES
        return made


def is_skilled(tokenizer: Any, vocabulary: int) -> bool:
    """Are *tokenizer* and a model of so many tokens those of the real Moondream2?

    Asked of what is sure: the size, and that the first tokens are control tokens. The words behind the
    ids of the skills are known by hearsay only.
    """
    if vocabulary != _VOCABULARY or len(tokenizer) <= max(*_QUERY[0], *_CAPTION):
        return False
    first = [str(tokenizer.convert_ids_to_tokens(token)) for token in range(_CONTROL)]
    known = first[:2] == ["<|endoftext|>", "<|md_reserved_0|>"]
    return known and all(token.startswith("<|") and token.endswith("|>") for token in first)


def prefix_mask(tokens: int, prefix: int) -> mx.array:
    """Who sees whom, (1, 1, tokens, tokens): all that is before; the first *prefix* see each other."""
    at = mx.arange(tokens)
    sees = (at[:, None] >= at[None]) | ((at[:, None] < prefix) & (at[None] < prefix))
    return sees[None, None]


def joined(crops: Sequence[mx.array], layout: tuple[int, int], grid: int, margin: int) -> mx.array:
    """The features of all *crops* (rows x columns of *layout*), overlaps cut off, averaged down to
    *grid* x *grid*: what mlx-vlm's ``_reconstruct_local_features`` gives."""
    rows, columns = layout
    lines = []
    for row in range(rows):
        top, bottom = _kept(row, rows, grid, margin)
        line = []
        for column in range(columns):
            left, right = _kept(column, columns, grid, margin)
            crop = crops[row * columns + column].reshape(grid, grid, -1)
            line.append(crop[top:bottom, left:right])
        lines.append(mx.concatenate(line, axis=1))
    whole = mx.concatenate(lines, axis=0)
    height, width, depth = whole.shape
    if (height, width) != (grid, grid):
        down = means(height, grid).astype(whole.dtype)
        across = means(width, grid).astype(whole.dtype)
        whole = (down @ whole.reshape(height, -1)).reshape(grid, width, depth)
        whole = across @ whole  # for each line
    return whole.reshape(-1, depth)


def _kept(at: int, of: int, grid: int, margin: int) -> tuple[int, int]:
    return (margin if at > 0 else 0), grid - (margin if at < of - 1 else 0)


def means(size: int, bins: int) -> mx.array:
    """(bins, size): row *i* takes the mean of the values of bin *i*; bins as mlx-vlm rounds them."""
    lines = []
    for at in range(bins):
        start = round(at * size / bins)
        end = max(round((at + 1) * size / bins), start + 1)
        lines.append([1 / (end - start) if start <= i < end else 0.0 for i in range(size)])
    return mx.array(lines)
