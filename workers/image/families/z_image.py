"""Z-Image-Turbo: generates and edits by strength.

Imports mlx and mflux when it is imported: on the model thread, after ``runtime.prepare``.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mflux.models.common.compute_precision import ComputePrecision
from mflux.models.common.config.model_config import ModelConfig
from mflux.models.z_image.latent_creator import ZImageLatentCreator
from mflux.models.z_image.model.z_image_text_encoder.prompt_encoder import PromptEncoder
from mflux.models.z_image.model.z_image_text_encoder.text_encoder import TextEncoder
from mflux.models.z_image.model.z_image_transformer.transformer import ZImageTransformer
from mflux.models.z_image.variants.z_image import ZImage
from mflux.models.z_image.weights.z_image_lora_mapping import ZImageLoRAMapping
from mflux.models.z_image.weights.z_image_weight_definition import ZImageWeightDefinition
from mflux.models.z_image.z_image_initializer import ZImageInitializer
from PIL.Image import Image

from workers.engine import ImageJob
from workers.image.families.adapter import Latents
from workers.image.families.checkpoint import Part
from workers.image.families.prompt_cache import PromptCache
from workers.image.families.qwen3 import CompiledSteps, Qwen3Adapter


class _ZImage(ZImage):  # type: ignore[misc]
    """Prompts from the adapter's cache, compiled steps that are kept."""

    prompt_cache: PromptCache
    compiled: CompiledSteps

    def _encode_prompts(
        self, *, prompt: str, negative_prompt: str | None, guidance: float
    ) -> tuple[mx.array, None]:
        return self.prompt_cache[prompt], None

    def _predict(self, transformer: Any) -> Any:
        return self.compiled.get(lambda: super(_ZImage, self)._predict(transformer))


class ZImageAdapter(Qwen3Adapter):
    definition = ZImageWeightDefinition
    tokenizer = "z_image"

    def model_config(self) -> Any:
        return ModelConfig.z_image_turbo()

    def build(self, weights: Any) -> Any:
        model: Any = _ZImage.__new__(_ZImage)
        nn.Module.__init__(model)
        model.compiled = CompiledSteps()
        ZImageInitializer._init_config(model, self.config)
        ZImageInitializer._init_tokenizers(model, str(self._folder))
        ZImageInitializer._init_models(model)
        if self.tiny is not None:
            model.transformer = ZImageTransformer(**self.tiny["transformer"])
            model.text_encoder = TextEncoder(**self.tiny["text_encoder"])
            model.tokenizers[self.tokenizer].max_length = self.tiny["max_length"]
        model.float32 = False
        model.transformer.set_float32(False)
        model.compute_precision = ComputePrecision(None)
        model.prompt_cache = self.prompts
        return model

    def network(self, part: Part) -> nn.Module:
        return TextEncoder() if self.tiny is None else TextEncoder(**self.tiny["text_encoder"])

    def lora_mapping(self) -> Any:
        return ZImageLoRAMapping.get_mapping()

    def encode_prompt(self, prompt: str) -> Any:
        return PromptEncoder.encode_prompt(
            prompt=prompt,
            tokenizer=self.model.tokenizers[self.tokenizer],
            text_encoder=self.model.text_encoder,
        )

    def generate(self, job: ImageJob, seed: int, strength: float | None) -> Image:
        length = self.prompts[job.prompt].shape[0]  # this family does not pad prompts
        self.model.compiled.shapes = (job.width, job.height, length)
        generated = self.model.generate_image(
            seed=seed,
            prompt=job.prompt,
            num_inference_steps=job.steps,
            width=job.width,
            height=job.height,
            image_path=None if strength is None else job.source,
            image_strength=strength,
        )
        image: Image = generated.image
        return image

    def pack(self, spatial: Latents, width: int, height: int) -> Latents:
        return ZImageLatentCreator.pack_latents(spatial, height, width)

    def clean(self, source: Image) -> Latents:
        return self.pack(self.encode_image(source), source.width, source.height)

    def spatial(self, packed: Latents, width: int, height: int) -> Latents:
        return ZImageLatentCreator.unpack_latents(packed, height, width)
