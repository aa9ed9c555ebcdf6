"""FLUX.2 klein: draws, redraws, and edits up to four pictures as it is told, from one load.

mflux has a class for each, ``Flux2Klein`` and ``Flux2KleinEdit``, with the same networks; here both
hold the same ones. Both read the prompt anew for each picture and trace their transformer anew; here
the prompt comes from the cache, and traces are kept.

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
from workers.image.families.prompts import PromptCache
from workers.image.families.qwen3 import Qwen3Adapter
from workers.image.families.traces import Traces

_SHARED = ("vae", "transformer", "tokenizers", "model_config", "callbacks", "tiling_config",
           "prompt_cache", "bits", "lora_paths", "lora_scales", "compute_precision")  # fmt: skip


class _FromCache:
    """For both classes: prompts from the adapter's cache, traces that are kept."""

    prompt_cache: PromptCache
    traces: Traces

    def _encode_prompt_pair(
        self, *, prompt: str, negative_prompt: str | None, guidance: float
    ) -> tuple[mx.array, mx.array, None, None]:
        embeds, ids = self.prompt_cache[prompt]
        return embeds, ids, None, None

    def _predict(self, transformer: Any) -> Any:
        return self.traces.step(lambda: super(_FromCache, self)._predict(transformer))  # type: ignore[misc]


class _Klein(_FromCache, Flux2Klein):  # type: ignore[misc]
    pass


class _KleinEdit(_FromCache, Flux2KleinEdit):  # type: ignore[misc]
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
        self._edits: Any = None
        return model

    def network(self, part: Part) -> nn.Module:
        return Qwen3TextEncoder(**self.config.text_encoder_overrides)

    def lora_mapping(self) -> Any:
        return Flux2LoRAMapping.get_mapping()

    def encode_anew(self, prompt: str) -> Any:
        tokenizer = self.model.tokenizers[self.tokenizer]
        return Flux2PromptEncoder.encode_prompt(
            prompt=prompt,
            tokenizer=tokenizer,
            text_encoder=self.model.text_encoder,
            max_sequence_length=tokenizer.max_length,
        )

    def draw(self, job: ImageJob, seed: int, strength: float | None) -> Image:
        asked: dict[str, Any] = {
            "seed": seed,
            "prompt": job.prompt,
            "num_inference_steps": job.steps,
            "width": job.width,
            "height": job.height,
            "guidance": 1.0,  # distilled: there is no other
        }
        if job.references:
            editor = self._editor()
            editor.traces.shapes = (job.width, job.height, *(p.size for p in job.references))
            drawn = editor.generate_image(**asked, image_paths=list(job.references))
        else:
            source = None if strength is None else job.source
            self.model.traces.shapes = (job.width, job.height)
            drawn = self.model.generate_image(**asked, image_path=source, image_strength=strength)
        image: Image = drawn.image
        return image

    def _editor(self) -> Any:
        """mflux's other class, around the same networks."""
        if self._edits is None:
            self._edits = _new(_KleinEdit)
            self._edits.text_encoder = None
            self._edits.small_text_encoder = self._edits.small_decoder = False
            for name in _SHARED:
                setattr(self._edits, name, getattr(self.model, name))
        self._edits.tiling_config = self.model.tiling_config
        return self._edits

    def pack(self, spatial: Latents, width: int, height: int) -> Latents:
        return Flux2LatentCreator.pack_latents(Flux2LatentCreator.patchify_latents(spatial))

    def clean(self, source: Image) -> Latents:
        patches = Flux2LatentCreator.patchify_latents(self.encode_picture(source))
        normal = _Flux2KleinEditHelpers.bn_normalize_vae_encoded_latents(patches, vae=self.model.vae)
        return Flux2LatentCreator.pack_latents(normal)

    def spatial(self, packed: Latents, width: int, height: int) -> Latents:
        grid = packed.reshape(1, height // 16, width // 16, packed.shape[-1]).transpose(0, 3, 1, 2)
        return self.model.vae.unpack_packed_latents(grid)


def _new(kind: Any) -> Any:
    model: Any = kind.__new__(kind)
    nn.Module.__init__(model)
    model.traces = Traces()
    return model


def _resized(config: Any, tiny: dict[str, Any]) -> Any:
    import copy

    config = copy.copy(config)
    config.transformer_overrides = tiny["transformer"]
    config.text_encoder_overrides = tiny["text_encoder"]
    return config
