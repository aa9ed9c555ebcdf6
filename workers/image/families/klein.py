"""FLUX.2 klein: generates, edits by strength, and edits up to four images by instruction, in one load.

mflux has two classes with the same networks, ``Flux2Klein`` and ``Flux2KleinEdit``; here both share one
set. In mflux, both encode the prompt and compile the transformer again for each image; here the prompt
comes from the cache, and compiled steps are kept.

Imports mlx and mflux when it is imported: on the model thread, after ``runtime.prepare``.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mflux.models.common.compute_precision import ComputePrecision
from mflux.models.common.config.model_config import ModelConfig
from mflux.models.flux2.flux2_initializer import Flux2Initializer
from mflux.models.flux2.latent_creator.flux2_latent_creator import Flux2LatentCreator
from mflux.models.flux2.model.flux2_text_encoder.prompt_encoder import Flux2PromptEncoder
from mflux.models.flux2.model.flux2_text_encoder.qwen3_text_encoder import Qwen3TextEncoder
from mflux.models.flux2.variants.edit.flux2_klein_edit import Flux2KleinEdit
from mflux.models.flux2.variants.edit.flux2_klein_edit_helpers import _Flux2KleinEditHelpers
from mflux.models.flux2.variants.txt2img.flux2_klein import Flux2Klein
from mflux.models.flux2.weights.flux2_lora_mapping import Flux2LoRAMapping
from mflux.models.flux2.weights.flux2_weight_definition import Flux2KleinWeightDefinition
from PIL.Image import Image

from workers.engine import ImageJob
from workers.image.families.adapter import Latents
from workers.image.families.checkpoint import Part
from workers.image.families.prompt_cache import PromptCache
from workers.image.families.qwen3 import CompiledSteps, Qwen3Adapter

_SHARED = ("vae", "transformer", "tokenizers", "model_config", "callbacks", "tiling_config",
           "prompt_cache", "bits", "lora_paths", "lora_scales", "compute_precision")  # fmt: skip


class _Cached:
    """For both classes: prompts from the adapter's cache, compiled steps that are kept."""

    prompt_cache: PromptCache
    compiled: CompiledSteps

    def _encode_prompt_pair(
        self, *, prompt: str, negative_prompt: str | None, guidance: float
    ) -> tuple[mx.array, mx.array, None, None]:
        embeds, ids = self.prompt_cache[prompt]
        return embeds, ids, None, None

    def _predict(self, transformer: Any) -> Any:
        return self.compiled.get(lambda: super(_Cached, self)._predict(transformer))  # type: ignore[misc]


class _Klein(_Cached, Flux2Klein):  # type: ignore[misc]
    pass


class _KleinEdit(_Cached, Flux2KleinEdit):  # type: ignore[misc]
    pass


class KleinAdapter(Qwen3Adapter):
    definition = Flux2KleinWeightDefinition
    tokenizer = "qwen3"

    def model_config(self) -> Any:
        size = self._settings.family
        config = (
            ModelConfig.flux2_klein_9b() if size == "flux2-klein-9b" else ModelConfig.flux2_klein_4b()
        )
        return config if self.tiny is None else _resized(config, self.tiny)

    def build(self, weights: Any) -> Any:
        model = _new(_Klein)
        Flux2Initializer._init_config(model, self.config)
        model.small_text_encoder = model.small_decoder = False
        Flux2Initializer._init_tokenizers(model, str(self._folder))
        Flux2Initializer._init_models(model)
        if self.tiny is not None:
            model.tokenizers[self.tokenizer].max_length = self.tiny["max_length"]
        model.compute_precision = ComputePrecision(None)
        model.prompt_cache = self.prompts
        self._edit_model: Any = None
        return model

    def network(self, part: Part) -> nn.Module:
        return Qwen3TextEncoder(**self.config.text_encoder_overrides)

    def lora_mapping(self) -> Any:
        return Flux2LoRAMapping.get_mapping()

    def encode_prompt(self, prompt: str) -> Any:
        tokenizer = self.model.tokenizers[self.tokenizer]
        return Flux2PromptEncoder.encode_prompt(
            prompt=prompt,
            tokenizer=tokenizer,
            text_encoder=self.model.text_encoder,
            max_sequence_length=tokenizer.max_length,
        )

    def generate(self, job: ImageJob, seed: int, strength: float | None) -> Image:
        arguments: dict[str, Any] = {
            "seed": seed,
            "prompt": job.prompt,
            "num_inference_steps": job.steps,
            "width": job.width,
            "height": job.height,
            "guidance": 1.0,  # distilled: the only value
        }
        if job.references:
            model = self._for_edits()
            model.compiled.shapes = (job.width, job.height, *(image.size for image in job.references))
            generated = model.generate_image(**arguments, image_paths=list(job.references))
        else:
            source = None if strength is None else job.source
            self.model.compiled.shapes = (job.width, job.height)
            generated = self.model.generate_image(
                **arguments, image_path=source, image_strength=strength
            )
        image: Image = generated.image
        return image

    def _for_edits(self) -> Any:
        """mflux's other class, with the same networks."""
        if self._edit_model is None:
            self._edit_model = model = _new(_KleinEdit)
            model.text_encoder = None
            model.small_text_encoder = model.small_decoder = False
            for name in _SHARED:
                setattr(model, name, getattr(self.model, name))
        self._edit_model.tiling_config = self.model.tiling_config
        return self._edit_model

    def pack(self, spatial: Latents, width: int, height: int) -> Latents:
        return Flux2LatentCreator.pack_latents(Flux2LatentCreator.patchify_latents(spatial))

    def clean(self, source: Image) -> Latents:
        patches = Flux2LatentCreator.patchify_latents(self.encode_image(source))
        normal = _Flux2KleinEditHelpers.bn_normalize_vae_encoded_latents(patches, vae=self.model.vae)
        return Flux2LatentCreator.pack_latents(normal)

    def spatial(self, packed: Latents, width: int, height: int) -> Latents:
        grid = packed.reshape(1, height // 16, width // 16, packed.shape[-1]).transpose(0, 3, 1, 2)
        return self.model.vae.unpack_packed_latents(grid)


def _new(kind: Any) -> Any:
    model: Any = kind.__new__(kind)
    nn.Module.__init__(model)
    model.compiled = CompiledSteps()
    return model


def _resized(config: Any, tiny: dict[str, Any]) -> Any:
    import copy

    config = copy.copy(config)
    config.transformer_overrides = tiny["transformer"]
    config.text_encoder_overrides = tiny["text_encoder"]
    return config
