"""The common part of all families: loading, prompts, and conversion between images and latents.

An adapter wraps mflux's classes for one family; the engine knows no family. "Packed" latents are those
that mflux denoises, in the family's own arrangement. "Spatial" latents are those that the VAE decodes:
(1, channels, height / 8, width / 8).

Imports mlx and mflux when it is imported: on the model thread, after ``runtime.prepare``.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
from mflux.models.common.config.model_config import ModelConfig
from mflux.models.common.latent_creator.latent_creator import LatentCreator
from mflux.utils.image_util import ImageUtil
from mlx.utils import tree_flatten
from PIL.Image import Image

from contracts.settings.models import ImageSettings
from workers.engine import ImageJob
from workers.image.families import checkpoint, tiles
from workers.image.families.checkpoint import Part
from workers.image.families.copies import Saver
from workers.image.families.prompt_cache import PromptCache

log = logging.getLogger(__name__)

Latents = Any  # mx.array
MIB = 1 << 20


def _size(network: nn.Module) -> int:
    """Bytes of the weights, computed or not."""
    return sum(value.nbytes for _, value in tree_flatten(network.parameters()))


def _full_size_channels(vae: Any) -> int:
    """Channels of the widest layer in the decoder's last block, which runs at the image's size."""
    last = tree_flatten(vae.decoder.up_blocks[-1].parameters())
    return max(int(value.shape[-1]) for _, value in last if value.ndim == 4)


class Adapter(ABC):
    """A loaded model. All methods are called on the model thread.

    ``model`` is mflux's own object; ``prompts`` holds the encoded prompts.
    """

    parts: ClassVar[tuple[Part, ...]]
    definition: ClassVar[Any]  # mflux's weight definition
    tokenizer: ClassVar[str]  # mflux's name of the tokenizer that counts tokens
    optional: ClassVar[frozenset[str]] = frozenset()  # tensors that a full-size checkpoint may lack
    # Tensors that mflux computes and that the authors' checkpoints lack.
    computed: ClassVar[frozenset[str]] = frozenset()
    native_mask: ClassVar[bool] = False

    def __init__(
        self,
        folder: Path,
        settings: ImageSettings,
        *,
        weights: Path | None = None,
        saver: Saver | None = None,
    ) -> None:
        """Load from *folder*; raises ``LoadError`` for an incomplete checkpoint.

        *weights*: a quantized copy to take the weights from. *saver*: saves such a copy if the weights
        are quantized here.
        """
        self._folder = folder
        self._weights = weights or folder
        self._settings = settings
        self._lean = settings.residency == "lean"
        self.tiny = checkpoint.tiny_config(folder)
        if self.tiny is not None:
            ModelConfig.precision = mx.float32
        self.config = self.model_config()
        self.prompts = PromptCache(settings.prompt_cache_mb * MIB)
        source = checkpoint.read(self._weights, self.definition, self.parts)
        self.model: Any = self.build(source)
        networks = {part: getattr(self.model, part.attribute) for part in self.parts}
        if self.tiny is not None:
            self.fit(source.components, self.tiny)
            for part, network in networks.items():
                checkpoint.take_shapes(network, source.components[part.component])
        optional = self.optional if self.tiny is None else frozenset()
        checkpoint.check(settings.family, self._weights, source, networks, optional | self.computed)
        self.model.bits = checkpoint.fill(
            {part.component: network for part, network in networks.items()},
            source,
            settings.quantize,
            self.definition,
        )
        self._add_loras(source)
        was_quantized = source.meta_data.quantization_level is not None
        del source  # its tensors belong to the networks now, or were replaced by quantized ones
        if saver is None or was_quantized:
            self._compute_parts(networks)
        else:
            self._compute_and_save_parts(networks, saver)
        kept = [
            getattr(self.model, part.attribute) for part in self.parts if not self._is_unloaded(part)
        ]
        self.resident = sum(_size(network) for network in kept)  # bytes, while an image is generated

    # --- implemented by each family ----------------------------------------------------------------

    @abstractmethod
    def model_config(self) -> Any:
        """mflux's ``ModelConfig``."""

    @abstractmethod
    def build(self, weights: Any) -> Any:
        """mflux's object with its tokenizers, and its networks without weights."""

    @abstractmethod
    def network(self, part: Part) -> nn.Module:
        """A new text encoder for *part*, without weights."""

    def fit(self, components: dict[str, Any], tiny: dict[str, Any]) -> None:
        """Set those dimensions of a small checkpoint's networks that shapes don't determine."""
        for _, module in self.model.vae.named_modules():
            if isinstance(module, nn.GroupNorm):
                module.num_groups = tiny["vae_groups"]

    def fit_text(self, part: Part, network: nn.Module, weights: Any, tiny: dict[str, Any]) -> None:
        """The same for a text encoder that is loaded again."""
        return  # for most, ``network`` sets everything

    @abstractmethod
    def lora_mapping(self) -> Any:
        """mflux's mapping from the names in LoRA files to this family's layers."""

    @abstractmethod
    def encode_prompt(self, prompt: str) -> Any:
        """*prompt* as mflux's text encoders encode it: arrays, not computed yet."""

    @abstractmethod
    def generate(self, job: ImageJob, seed: int, strength: float | None) -> Image:
        """One image of *job*. *strength*: mflux's ``image_strength``; None starts from noise."""

    @abstractmethod
    def pack(self, spatial: Latents, width: int, height: int) -> Latents:
        """*spatial* in the arrangement of packed latents, not scaled."""

    @abstractmethod
    def clean(self, source: Image) -> Latents:
        """*source* as packed latents without noise."""

    @abstractmethod
    def spatial(self, packed: Latents, width: int, height: int) -> Latents:
        """*packed* latents of an image of *width* x *height* as spatial latents."""

    # --- common to all -----------------------------------------------------------------------------

    @property
    def callbacks(self) -> Any:
        return self.model.callbacks

    @property
    def channels(self) -> int:
        channels: int = self.model.vae.latent_channels
        return channels

    def tokens(self, prompt: str) -> int:
        """The number of tokens of *prompt*, truncated as the model truncates it."""
        tokenizer = self.model.tokenizers[self.tokenizer]
        ids = tokenizer.tokenizer(prompt, truncation=True, max_length=tokenizer.max_length)
        return len(ids["input_ids"])

    def tile(self, width: int, height: int) -> None:
        """Decide whether the VAE decodes an image of *width* x *height* in tiles."""
        from mflux.models.common.vae.tiling_config import TilingConfig

        tiled = self._settings.vae_tiling
        if tiled is None:
            spare = self._settings.memory_bytes - self.resident
            tiled = tiles.in_tiles(width, height, _full_size_channels(self.model.vae), spare)
        self.model.tiling_config = TilingConfig() if tiled else None

    def encode(self, prompt: str) -> None:
        """Ensure that ``prompts`` has *prompt*. With lean memory, text encoders are loaded for it
        only."""
        if prompt in self.prompts:
            self.prompts.move_to_end(prompt)
            return
        texts = [part for part in self.parts if part.text]
        unloaded = [part for part in texts if getattr(self.model, part.attribute) is None]
        try:
            for part in unloaded:
                setattr(self.model, part.attribute, self._text_encoder(part))
            self.prompts[prompt] = self.encode_prompt(prompt)
        finally:
            if self._lean:
                for part in texts:
                    setattr(self.model, part.attribute, None)

    def decode(self, spatial: Latents) -> Image:
        """The image of *spatial* latents that are few enough to be decoded as a whole."""
        from mflux.models.common.vae.vae_util import VAEUtil

        image: Image = ImageUtil.to_pil(VAEUtil.decode(self.model.vae, spatial)).convert("RGB")
        return image

    def encode_image(self, source: Image) -> Latents:
        """*source* as spatial latents, as in mflux before it adds noise."""
        encoded = LatentCreator.encode_image(
            vae=self.model.vae,
            image_path=source,
            height=source.height,
            width=source.width,
            tiling_config=self.model.tiling_config,
        )
        return encoded[:, :, 0] if encoded.ndim == 5 else encoded

    def _text_encoder(self, part: Part) -> nn.Module:
        if self._weights != self._folder:
            try:
                return self._computed(self._filled(part))
            except Exception as exc:  # removed or damaged after the load
                log.warning("can't read the quantized copy %s any more: %s", self._weights, exc)
            self._weights = self._folder
        return self._computed(self._filled(part))

    def _filled(self, part: Part) -> nn.Module:
        """A new network with its weights, not computed yet.

        Nothing else may hold the source weights: FLUX.2 klein's are 8 GB at 16 bits, and 2 GB
        quantized.
        """
        network = self.network(part)
        weights = checkpoint.read_part(self._weights, self.definition, part)
        tree = weights.components[part.component]
        if self.tiny is not None:
            self.fit_text(part, network, tree, self.tiny)
            checkpoint.take_shapes(network, tree)
        checkpoint.fill({part.component: network}, weights, self._settings.quantize, self.definition)
        return network

    def _compute_parts(self, networks: dict[Part, nn.Module]) -> None:
        for part, network in networks.items():
            if self._is_unloaded(part):
                setattr(self.model, part.attribute, None)  # before any of its weights is read
            else:
                self._compute(network)

    def _compute_and_save_parts(self, networks: dict[Part, nn.Module], saver: Saver) -> None:
        """Parts that are unloaded come first, so that they and the others are never in memory
        together."""
        sizes = {part: _size(network) for part, network in networks.items()}
        with saver.writing(sum(sizes.values())):
            for part in sorted(networks, key=self._is_unloaded, reverse=True):
                network = networks.pop(part)
                if saver.is_writing or not self._is_unloaded(part):
                    self._compute(network)
                saver.save(part.folder, network, sizes[part])
                if self._is_unloaded(part):
                    setattr(self.model, part.attribute, None)
                del network
                mx.clear_cache()
            saver.finish()
        if saver.saved:
            self._weights = saver.copy.folder

    def _is_unloaded(self, part: Part) -> bool:
        """Is *part* unloaded after a prompt is encoded?"""
        return self._lean and part.text

    def _compute(self, network: nn.Module) -> None:
        """Compute the weights now, so that their time and errors belong to the load."""
        if self.tiny is not None:
            checkpoint.to_float32(network)
        checkpoint.compute(network)

    def _computed(self, network: nn.Module) -> nn.Module:
        self._compute(network)
        return network

    def _add_loras(self, weights: Any) -> None:
        from workers.image.families import loras

        model, settings = self.model, self._settings.loras
        model.lora_paths, model.lora_scales = [], []
        if settings:
            loras.apply(model.transformer, settings, self.lora_mapping(), weights)
