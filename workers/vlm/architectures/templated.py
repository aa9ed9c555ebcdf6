"""Models with a chat template: Qwen2.5-VL, image by image, and any other model that mlx-vlm supports.

Rules: ``Qwen`` computes only what no cache holds. ``Templated`` uses mlx-vlm's own preprocessing, so it
computes images and prompts again each time.
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
from workers.vlm.prompt import Prompt, PromptImage, cache_key, encoder_stages, image_key

_MAX_ASPECT = 200  # Qwen's image processor refuses more


class Templated:
    """Any model of mlx-vlm, through ``prepare_inputs`` and ``get_input_embeddings``."""

    first_chunk = 1

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._control = control_tokens(self._tokenizer)

    def make_prompt(self, job: ChatJob) -> Prompt:
        import numpy as np
        from mlx_vlm import prepare_inputs  # noqa: TID251

        raw = prepare_inputs(
            self._processor,
            images=job.images or None,
            prompts=self._text(job),
            add_special_tokens=self._adds_special_tokens(),
        )
        # MLX arrays belong to this thread, so hand over numpy arrays.
        extra = {key: np.array(v) if isinstance(v, mx.array) else v for key, v in raw.items()}
        return Prompt(extra["input_ids"].flatten().tolist(), extra=extra)

    def encode_image(self, image: PromptImage) -> list[Any]:
        raise NotImplementedError("images are encoded with the prompt")

    def inputs(self, prompt: Prompt, start: int, features: Sequence[Any]) -> dict[str, Any]:
        import numpy as np

        raw = {
            key: mx.array(value) if isinstance(value, np.ndarray) else value
            for key, value in prompt.extra.items()
        }
        ids, pixels = raw.pop("input_ids"), raw.pop("pixel_values", None)
        mask = raw.pop("attention_mask", None)
        embedded = self._model.get_input_embeddings(ids, pixels, mask=mask, **raw)
        return raw | {key: value for key, value in embedded.to_dict().items() if value is not None}

    def _text(self, job: ChatJob) -> str:
        for image in job.images:
            if max(image.size) >= _MAX_ASPECT * min(image.size):
                raise InvalidRequest(
                    f"an image of {image.width}x{image.height} pixels is too narrow", param="messages"
                )
        try:
            text: str = self._processor.apply_chat_template(
                template_messages(job.turns, self._control),
                add_generation_prompt=True,
                tokenize=False,
            )
        except Exception as exc:
            # A template raises this for a conversation that it does not support.
            if type(exc).__name__ != "TemplateError":
                raise
            raise InvalidRequest(f"messages: {first_line(exc)}", param="messages") from exc
        return text

    def _adds_special_tokens(self) -> bool:
        from mlx_vlm.utils import should_add_special_tokens  # noqa: TID251

        return bool(should_add_special_tokens(self._model.config.model_type, self._processor))


class Qwen(Templated):
    """Qwen2.5-VL."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self._image_token: str = processor.image_token
        self._image_id: int = processor.image_token_id

    def make_prompt(self, job: ChatJob) -> Prompt:
        """Each image is preprocessed on its own, so that the caches can recognize it on its own."""
        text, *rest = self._text(job).split(self._image_token)
        if len(rest) != len(job.images):
            raise RuntimeError(f"the template has {len(rest)} places for {len(job.images)} images")
        merged = self._processor.image_processor.merge_size**2
        processed = []
        for image, part in zip(job.images, rest, strict=True):
            made = self._processor.image_processor(images=[image])
            count = int(made["image_grid_thw"][0].prod()) // merged
            processed.append((image_key(image), count, made["pixel_values"], made["image_grid_thw"]))
            text += self._image_token * count + part
        ids = self._tokenizer(text, add_special_tokens=self._adds_special_tokens())["input_ids"]
        images = []
        at = 0
        for key, count, pixels, grid in processed:
            at = ids.index(self._image_id, at)
            images.append(PromptImage(key, at, count, pixels, grid))
            at += count
        return Prompt(ids, tuple(images), cache_key(ids, images))

    def encode_image(self, image: PromptImage) -> list[Any]:
        tower = self._model.vision_tower
        pixels = mx.array(image.pixels).astype(tower.patch_embed.proj.weight.dtype)
        return encoder_stages(
            tower, lambda: tower(pixels, mx.array(image.shape), output_hidden_states=False)
        )

    def inputs(self, prompt: Prompt, start: int, features: Sequence[Any]) -> dict[str, Any]:
        language = self._model.language_model
        ids = mx.array([prompt.ids])
        grids = [mx.array(image.shape) for image in prompt.images]
        positions, deltas = language.get_rope_index(
            ids, mx.concatenate(grids) if grids else None, None, mx.ones_like(ids)
        )
        if positions.ndim == 2:  # without an image, all three rows are the same
            positions = mx.broadcast_to(positions[None], (3, *positions.shape))
        embeds = language.model.embed_tokens(ids[:, start:])
        parts, at = [], start
        ahead = [image for image in prompt.images if image.start >= start]
        for image, encoded in zip(ahead, features, strict=True):
            parts += [embeds[:, at - start : image.start - start], encoded[None].astype(embeds.dtype)]
            at = image.start + image.count
        parts.append(embeds[:, at - start :])
        return {
            "inputs_embeds": mx.concatenate(parts, axis=1) if len(parts) > 1 else embeds,
            "position_ids": positions[:, :, start:],
            "rope_deltas": deltas,
        }
