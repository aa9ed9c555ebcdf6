"""Models with a chat template: Qwen2.5-VL, picture by picture, and any other that mlx-vlm knows.

Rules: of Qwen2.5-VL only what has not been computed before is computed; of other models nothing is
known but mlx-vlm's own ways, so their pictures and prompts are computed anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx  # noqa: TID251 - a part of the VLM engine

from contracts.errors import InvalidRequest
from workers.engine import ChatJob
from workers.serving.model_thread import first_line
from workers.vlm.chat_template import template_messages
from workers.vlm.checkpoint import control_tokens
from workers.vlm.prompt import Picture, Reading, named, number_of, stages

_MAX_ASPECT = 200  # Qwen's image processor refuses more


class Templated:
    """Any model of mlx-vlm, by ``prepare_inputs`` and ``get_input_embeddings``."""

    first_chunk = 1

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._control = control_tokens(self._tokenizer)

    def read(self, job: ChatJob) -> Reading:
        import numpy as np
        from mlx_vlm import prepare_inputs  # noqa: TID251

        raw = prepare_inputs(
            self._processor,
            images=job.images or None,
            prompts=self._prompt(job),
            add_special_tokens=self._adds_special_tokens(),
        )
        # Out of MLX again: what it makes belongs to this thread.
        extra = {key: np.array(v) if isinstance(v, mx.array) else v for key, v in raw.items()}
        return Reading(job, extra["input_ids"].flatten().tolist(), extra=extra)

    def look(self, picture: Picture) -> list[Any]:
        raise NotImplementedError("pictures are computed with the prompt")

    def inputs(self, reading: Reading, start: int, features: Sequence[Any]) -> dict[str, Any]:
        import numpy as np

        raw = {
            key: mx.array(value) if isinstance(value, np.ndarray) else value
            for key, value in reading.extra.items()
        }
        ids, pixels = raw.pop("input_ids"), raw.pop("pixel_values", None)
        mask = raw.pop("attention_mask", None)
        made = self._model.get_input_embeddings(ids, pixels, mask=mask, **raw)
        return raw | {key: value for key, value in made.to_dict().items() if value is not None}

    def _prompt(self, job: ChatJob) -> str:
        for image in job.images:
            if max(image.size) >= _MAX_ASPECT * min(image.size):
                raise InvalidRequest(
                    f"an image of {image.width}x{image.height} pixels is too narrow", param="messages"
                )
        try:
            prompt: str = self._processor.apply_chat_template(
                template_messages(job.turns, self._control),
                add_generation_prompt=True,
                tokenize=False,
            )
        except Exception as exc:
            # Templates refuse conversations that they don't foresee by raising.
            if type(exc).__name__ != "TemplateError":
                raise
            raise InvalidRequest(f"messages: {first_line(exc)}", param="messages") from exc
        return prompt

    def _adds_special_tokens(self) -> bool:
        from mlx_vlm.utils import should_add_special_tokens  # noqa: TID251

        return bool(should_add_special_tokens(self._model.config.model_type, self._processor))


class Qwen(Templated):
    """Qwen2.5-VL."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self._image_token: str = processor.image_token
        self._image_id: int = processor.image_token_id

    def read(self, job: ChatJob) -> Reading:
        """Each picture by itself, so that each can be known again by itself."""
        text, *rest = self._prompt(job).split(self._image_token)
        if len(rest) != len(job.images):
            raise RuntimeError(f"the template has {len(rest)} places for {len(job.images)} images")
        merged = self._processor.image_processor.merge_size**2
        looks = []
        for image, part in zip(job.images, rest, strict=True):
            made = self._processor.image_processor(images=[image])
            count = int(made["image_grid_thw"][0].prod()) // merged
            looks.append((number_of(image), count, made["pixel_values"], made["image_grid_thw"]))
            text += self._image_token * count + part
        ids = self._tokenizer(text, add_special_tokens=self._adds_special_tokens())["input_ids"]
        pictures = []
        at = 0
        for key, count, pixels, grid in looks:
            at = ids.index(self._image_id, at)
            pictures.append(Picture(key, at, count, pixels, grid))
            at += count
        return Reading(job, ids, tuple(pictures), named(ids, pictures))

    def look(self, picture: Picture) -> list[Any]:
        tower = self._model.vision_tower
        pixels = mx.array(picture.pixels).astype(tower.patch_embed.proj.weight.dtype)
        return stages(tower, lambda: tower(pixels, mx.array(picture.shape), output_hidden_states=False))

    def inputs(self, reading: Reading, start: int, features: Sequence[Any]) -> dict[str, Any]:
        language = self._model.language_model
        ids = mx.array([reading.ids])
        grids = [mx.array(picture.shape) for picture in reading.pictures]
        positions, deltas = language.get_rope_index(
            ids, mx.concatenate(grids) if grids else None, None, mx.ones_like(ids)
        )
        if positions.ndim == 2:  # without a picture all three are the same
            positions = mx.broadcast_to(positions[None], (3, *positions.shape))
        embeds = language.model.embed_tokens(ids[:, start:])
        parts, at = [], start
        ahead = [picture for picture in reading.pictures if picture.start >= start]
        for picture, seen in zip(ahead, features, strict=True):
            parts += [embeds[:, at - start : picture.start - start], seen[None].astype(embeds.dtype)]
            at = picture.start + picture.count
        parts.append(embeds[:, at - start :])
        return {
            "inputs_embeds": mx.concatenate(parts, axis=1) if len(parts) > 1 else embeds,
            "position_ids": positions[:, :, start:],
            "rope_deltas": deltas,
        }
