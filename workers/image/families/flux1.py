"""FLUX.1: schnell and dev generate and edit by strength; Kontext by instruction; Fill fills masks.

They share their networks; mflux's class and its arguments differ.

Imports mlx and mflux when it is imported: on the model thread, after ``runtime.prepare``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import mlx.nn as nn
from mflux.models.common.config.model_config import ModelConfig
from mflux.models.flux.flux_initializer import FluxInitializer
from mflux.models.flux.latent_creator.flux_latent_creator import FluxLatentCreator
from mflux.models.flux.model.flux_text_encoder.clip_encoder.clip_encoder import CLIPEncoder
from mflux.models.flux.model.flux_text_encoder.prompt_encoder import PromptEncoder
from mflux.models.flux.model.flux_text_encoder.t5_encoder.t5_encoder import T5Encoder
from mflux.models.flux.variants.fill.flux_fill import Flux1Fill
from mflux.models.flux.variants.kontext.flux_kontext import Flux1Kontext
from mflux.models.flux.variants.txt2img.flux import Flux1
from mflux.models.flux.weights.flux_lora_mapping import FluxLoRAMapping
from mflux.models.flux.weights.flux_weight_definition import FluxWeightDefinition
from PIL import ImageOps
from PIL.Image import Image, Resampling

from workers.engine import ImageJob
from workers.image.families import flux1_tiny
from workers.image.families.adapter import Adapter, Latents
from workers.image.families.checkpoint import Part


class Flux1Adapter(Adapter):
    """Schnell and dev."""

    parts = (
        Part("vae", "vae", "vae"),
        Part("transformer", "transformer", "transformer"),
        Part("t5_encoder", "t5_text_encoder", "text_encoder_2", text=True),
        Part("clip_encoder", "clip_text_encoder", "text_encoder", text=True),
    )
    definition = FluxWeightDefinition
    tokenizer = "t5"
    # mflux 0.16 to 0.21 did not save it; for those models zero is right, and mflux sets it.
    optional = frozenset({"norm_out.linear.bias"})
    mflux_class: ClassVar[Any] = Flux1

    def model_config(self) -> Any:
        if self._settings.family == "flux1-dev":
            return ModelConfig.dev()
        return ModelConfig.schnell()

    def build(self, weights: Any) -> Any:
        model: Any = self.mflux_class.__new__(self.mflux_class)
        nn.Module.__init__(model)
        FluxInitializer._init_config(model, self.config)
        FluxInitializer._init_tokenizers(model, str(self._folder), self.config)
        if self.tiny is not None:
            flux1_tiny.check_blocks(weights, self.tiny)
        FluxInitializer._init_models(model, self.config, weights)
        model.prompt_cache = self.prompts
        return model

    def fit(self, components: dict[str, Any], tiny: dict[str, Any]) -> None:
        super().fit(components, tiny)
        flux1_tiny.fit(self.model, components, tiny)

    def network(self, part: Part) -> nn.Module:
        return T5Encoder() if part.component == "t5_encoder" else CLIPEncoder()

    def fit_text(self, part: Part, network: nn.Module, weights: Any, tiny: dict[str, Any]) -> None:
        if part.component == "t5_encoder":
            flux1_tiny.fit_t5(network, tiny)
        else:
            flux1_tiny.fit_clip(network, weights, tiny)

    def lora_mapping(self) -> Any:
        return FluxLoRAMapping.get_mapping()

    def encode_prompt(self, prompt: str) -> Any:
        model = self.model
        return PromptEncoder.encode_prompt(
            prompt=prompt,
            prompt_cache={},
            t5_tokenizer=model.tokenizers["t5"],
            clip_tokenizer=model.tokenizers["clip"],
            t5_text_encoder=model.t5_text_encoder,
            clip_text_encoder=model.clip_text_encoder,
        )

    def generate(self, job: ImageJob, seed: int, strength: float | None) -> Image:
        source = None if strength is None else job.source
        return self._run(job, seed, image_path=source, image_strength=strength)

    def _run(self, job: ImageJob, seed: int, **inputs: Any) -> Image:
        generated = self.model.generate_image(
            seed=seed,
            prompt=job.prompt,
            num_inference_steps=job.steps,
            width=job.width,
            height=job.height,
            guidance=job.guidance,
            **inputs,
        )
        image: Image = generated.image
        return image

    def pack(self, spatial: Latents, width: int, height: int) -> Latents:
        return FluxLatentCreator.pack_latents(spatial, height, width)

    def clean(self, source: Image) -> Latents:
        return self.pack(self.encode_image(source), source.width, source.height)

    def spatial(self, packed: Latents, width: int, height: int) -> Latents:
        return FluxLatentCreator.unpack_latents(packed, height, width)


class KontextAdapter(Flux1Adapter):
    """Edits one image by instruction. mflux would stretch the image to the output size."""

    mflux_class = Flux1Kontext

    def model_config(self) -> Any:
        return ModelConfig.dev_kontext()

    def generate(self, job: ImageJob, seed: int, strength: float | None) -> Image:
        image = job.references[0]
        size = (job.width, job.height)
        if image.size != size:
            image = ImageOps.fit(image, size, Resampling.LANCZOS)
        return self._run(job, seed, image_path=image)


class FillAdapter(Flux1Adapter):
    """Fills what the mask marks; its transformer takes the masked image and the mask."""

    mflux_class = Flux1Fill
    native_mask = True

    def model_config(self) -> Any:
        return ModelConfig.dev_fill()

    def generate(self, job: ImageJob, seed: int, strength: float | None) -> Image:
        return self._run(job, seed, image_path=job.source, masked_image_path=job.mask)
