"""Moondream2: its prompts and its image attention.

Rules: real checkpoints were trained with bidirectional attention among the image's positions, and have
skills behind control tokens. Small checkpoints that were trained on mlx-vlm's behavior have neither.
The tokenizer shows which kind a checkpoint is; a setting overrides the attention. mlx-vlm 0.7.10 builds
the mask but drops it (``LanguageModel.__call__``), so ``workers.vlm.batch.Language`` applies it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine

from workers.engine import ChatJob
from workers.vlm.chat_template import moondream_question
from workers.vlm.checkpoint import control_tokens
from workers.vlm.prompt import Prompt, PromptImage, cache_key, encoder_stages, image_key

ANSWER_ID = 3  # the token before the completion
IMAGE_TOKENS = 729  # positions of an image, after the BOS token
# Ids of the full tokenizer in the 2025 checkpoints: begin, skill, the skill's text, answer.
_QUERY = ([1, 15381, 2], [ANSWER_ID])
_CAPTION = [1, 32708, 2, 6382, ANSWER_ID]  # "normal" in length
_VOCABULARY = 51200  # tokens of the real model
_CONTROL = 21  # control tokens at its beginning
PREFIX = "vision_prefix"  # keyword: the number of first tokens that attend to each other


class Moondream:
    def __init__(self, model: Any, processor: Any, *, bidirectional: bool | None) -> None:
        """*bidirectional*: whether an image's positions attend to each other. None: by the
        tokenizer."""
        self._model = model
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._control = control_tokens(self._tokenizer)
        self.skilled = is_skilled(self._tokenizer, model.config.text_config.vocab_size)
        self.bidirectional = self.skilled if bidirectional is None else bidirectional
        self.first_chunk = 1 + IMAGE_TOKENS if self.bidirectional else 1
        vision = model.vision
        grid = vision.config.crop_size // vision.config.patch_size
        margin = vision.config.overlap_margin
        # 729 separate means take longer than the tower; two matrix products do the same.
        vision._reconstruct_local_features = lambda crops, layout: joined(crops, layout, grid, margin)

    def make_prompt(self, job: ChatJob) -> Prompt:
        begin = self._tokenizer.bos_token_id or 0
        question = self._question(job)  # refuses a second image
        if not job.images:
            return Prompt([begin, *question])
        image = job.images[0]
        # Without the text: the processor would add its own frame, and ``_question`` has added one.
        made = self._processor(images=[image])
        ids = [begin, *[0] * IMAGE_TOKENS, *question]
        shape = (made["num_crops"], made["crop_layouts"])
        images = (PromptImage(image_key(image), 1, IMAGE_TOKENS, made["pixel_values"], shape),)
        return Prompt(ids, images, cache_key(ids, images, before=1))

    def _question(self, job: ChatJob) -> list[int]:
        text = moondream_question(job, self._control)
        if self.skilled and job.skill == "caption" and job.images:
            return _CAPTION
        if self.skilled:
            before, after = _QUERY
            return [*before, *self._tokenizer.encode(text, add_special_tokens=False), *after]
        framed = f"\n\nQuestion: {text}\n\nAnswer: "
        return [*self._tokenizer.encode(framed, add_special_tokens=False), ANSWER_ID]

    def encode_image(self, image: PromptImage) -> list[Any]:
        vision = self._model.vision
        crops, layouts = image.shape
        pixels = mx.array(image.pixels).astype(vision.encoder.pos_emb.dtype)
        return encoder_stages(
            vision.encoder, lambda: vision(pixels, num_crops=crops, crop_layouts=layouts)[0]
        )

    def inputs(self, prompt: Prompt, start: int, features: Sequence[Any]) -> dict[str, Any]:
        embed = self._model.language_model.model.embed_tokens
        embeds = embed(mx.array([prompt.ids[start:]]))
        if not features:
            return {"inputs_embeds": embeds}
        if start > 1:
            raise RuntimeError("a prompt can only begin before or after its image")
        image = features[0][None].astype(embeds.dtype)
        at = 1 - start
        parts = [embeds[:, :at], image, embeds[:, at + IMAGE_TOKENS :]]
        inputs: dict[str, Any] = {"inputs_embeds": mx.concatenate(parts, axis=1)}
        if self.bidirectional:
            inputs[PREFIX] = 1 + IMAGE_TOKENS
        return inputs


def is_skilled(tokenizer: Any, vocabulary: int) -> bool:
    """Whether *tokenizer*, and a model with that *vocabulary* size, are those of the real Moondream2.

    Checks what is certain: the size, and that the first tokens are control tokens. The texts of the
    skill ids are not documented.
    """
    if vocabulary != _VOCABULARY or len(tokenizer) <= max(*_QUERY[0], *_CAPTION):
        return False
    first = [str(tokenizer.convert_ids_to_tokens(token)) for token in range(_CONTROL)]
    known = first[:2] == ["<|endoftext|>", "<|md_reserved_0|>"]
    return known and all(token.startswith("<|") and token.endswith("|>") for token in first)


def prefix_mask(tokens: int, prefix: int) -> mx.array:
    """The attention mask (1, 1, tokens, tokens): causal, and bidirectional within the first
    *prefix*."""
    at = mx.arange(tokens)
    attends = (at[:, None] >= at[None]) | ((at[:, None] < prefix) & (at[None] < prefix))
    return attends[None, None]


def joined(crops: Sequence[mx.array], layout: tuple[int, int], grid: int, margin: int) -> mx.array:
    """The features of all *crops* (rows x columns of *layout*) without their overlaps, averaged down to
    *grid* x *grid*. Same result as mlx-vlm's ``_reconstruct_local_features``."""
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
        whole = across @ whole  # per line
    return whole.reshape(-1, depth)


def _kept(at: int, of: int, grid: int, margin: int) -> tuple[int, int]:
    return (margin if at > 0 else 0), grid - (margin if at < of - 1 else 0)


def means(size: int, bins: int) -> mx.array:
    """(bins, size): row *i* averages bin *i*, with bins rounded as in mlx-vlm."""
    lines = []
    for at in range(bins):
        start = round(at * size / bins)
        end = max(round((at + 1) * size / bins), start + 1)
        lines.append([1 / (end - start) if start <= i < end else 0.0 for i in range(size)])
    return mx.array(lines)
